"""Messages taken out of the queues at the end, as the checker wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.faults.checker import Found
from tests.faults.ledgers import Published
from tests.faults.publisher import hash_of, kept_hash
from tests.process.kit import Letter


def found_in(queue: str, is_dead: bool, letter: Letter) -> Found:
    properties = letter.properties
    plain = {name: getattr(properties, name) for name in vars(properties) if name != "headers"}
    attempt = letter.headers.get("x-worker-attempt")
    return Found(
        queue,
        is_dead,
        letter.id,
        hash_of(letter.body),
        kept_hash({**plain, "headers": letter.headers}),
        letter.reason or _brokers_reason(letter),
        attempt if isinstance(attempt, int) else None,
    )


def _brokers_reason(letter: Letter) -> str:
    """Dead letters made by the broker carry no header of the worker; its own note tells why."""
    deaths = letter.headers.get("x-death") or [{}]
    names = {"expired": "expired", "delivery_limit": "delivery_limit", "rejected": "too_large"}
    return names.get(str(deaths[0].get("reason")), "")


def identified(left: Sequence[Found], published: Sequence[Published]) -> list[Found]:
    """With the ids of the ledger where a message says none: where nobody can read its properties."""
    ids, bodies = {one.id for one in published}, {one.body: one.id for one in published if one.raw}
    return [found if found.id in ids else replace(found, id=bodies.get(found.body, found.id)) for found in left]
