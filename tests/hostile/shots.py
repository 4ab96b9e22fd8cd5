"""A hostile message and what may become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REASONS: Final = frozenset(
    {
        *("malformed", "no_type", "unknown_type", "invalid_payload", "too_large", "rejected", "http_status", "tls"),
        *("template", "credential", "blocked_address", "response_too_large", "result_too_large", "not_repeated"),
        *("attempts_exhausted", "expired", "crashed_worker", "delivery_limit"),
    }
)
"""The closed list, written down once more: a reason that is added to the worker is not at once right here."""

BEFORE_ANY_REQUEST: Final = frozenset({"malformed", "no_type", "unknown_type", "invalid_payload", "too_large"})

DONE: Final = "done"
REFUSED: Final = "refused"
ANY_END: Final = REASONS | {DONE, REFUSED}

USER: Final = "mallory"
"""Who publishes them: not the worker's own user, so that no header is believed."""


@dataclass(frozen=True)
class Shot:
    """Property bytes and a body. `number` is what its request, if it is a job that makes one, asks for.

    `ends`: what may become of it; `refused` is the broker's word to the publisher. `id`: the job id a dead letter must
    have, if that is foreseen. `copied`: a copy of the publisher's own goes to the spare queue. `trusted`: published by
    the worker's own user. `part` and `announced` as in `wire.Mouth.publish`.
    """

    name: str
    number: int
    raw: bytes
    body: bytes
    ends: frozenset[str] = ANY_END
    id: str | None = None
    copied: bool = False
    trusted: bool = False
    part: int = 0
    announced: int | None = None


def marked(body: bytes, number: int) -> bytes:
    """The body with its number in white space behind it: another body each time, and for JSON the same value."""
    digits = b""
    while number:
        number, digit = divmod(number, 3)
        digits += b" \t\n"[digit : digit + 1]
    return body + digits + b"\r"
