"""A captured dead letter as a test case."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from worker.core.message import Message, Properties
from worker.testing.memory_broker import WORKER_USER

_PROPERTIES: Final = frozenset(one.name for one in fields(Properties)) - {"headers", "user_id"}
_TYPED: Final[Mapping[str, Callable[[str], Any]]] = {
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "decimal": Decimal,
}
"""Headers that are no JSON, from their text in a record."""

_HOW: Final = "save the output of `worker dead show ID --json`"


def letter(source: str | Path, *, id: str | None = None) -> Message:
    """The dead letter that `worker dead show ID --json` printed, for `replay_letter()`.

    `source` is that text, or the path of a file that holds it; `id` says which one when there are several. A ValueError
    says why it cannot be replayed.
    """
    text = source if isinstance(source, str) and source.lstrip()[:1] in ("[", "{") else Path(source).read_text("utf-8")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not the JSON of a dead letter: {error}; {_HOW}") from None
    return _message(_one(found if isinstance(found, list) else [found], id))


def _one(records: list[Any], id: str | None) -> Mapping[str, Any]:
    if any(not isinstance(one, dict) or "id" not in one for one in records):
        raise ValueError(f"not the JSON of a dead letter; {_HOW}")
    chosen = [one for one in records if id is None or id in (one["id"], one.get("message_id"))]
    if len(chosen) != 1:
        raise ValueError(f"{len(chosen)} letters where one is needed: id= is one of {[one['id'] for one in records]}")
    record: dict[str, Any] = chosen[0]
    return record


def _message(record: Mapping[str, Any]) -> Message:
    found = record.get("properties")
    if found is None:
        raise ValueError(f"letter {record['id']!r} is an entry of a list, without its body; {_HOW}")
    if "raw" in found:
        raise ValueError(f"letter {record['id']!r} cannot be replayed: its properties cannot be read")
    believed = record.get("believed", True)
    properties = Properties(
        **{name: value for name, value in found.items() if name in _PROPERTIES},
        user_id=WORKER_USER if believed else None,
        headers=_headers(found.get("headers", {}), record.get("header_types", {})),
    )
    named = {**properties.headers, "x-worker-id": record["id"]}
    return Message(_body(record), replace(properties, headers=named))


def _body(record: Mapping[str, Any]) -> bytes:
    if "base64" not in record:
        return json.dumps(record["json"], separators=(",", ":"), ensure_ascii=False).encode()
    if record["base64"] is None:
        raise ValueError(f"letter {record['id']!r} cannot be replayed: its body was too large to be shown")
    return base64.b64decode(record["base64"], validate=True)


def _headers(headers: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    return {name: _TYPED[types[name]](value) if name in types else value for name, value in headers.items()}
