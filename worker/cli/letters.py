"""Dead letters for people and for programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from worker.cli.terminal import printable
from worker.core.message import Properties

if TYPE_CHECKING:
    from worker.amqp.dead import DeadLetter

LONGEST_DETAIL: Final = 80
MOST_GROUPS: Final = 1000
"""Publishers choose the types: past so many groups the rest is counted as one."""

GROUPS_IN_LINE: Final = 5
_ODD: Final[dict[type, str]] = {bytes: "bytes", bytearray: "bytes", Decimal: "decimal"}
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def as_row(letter: DeadLetter, now: float) -> tuple[str, ...]:
    """A line of the list: id, type, reason, attempts, age, detail."""
    detail = letter.detail if len(letter.detail) <= LONGEST_DETAIL else f"{letter.detail[: LONGEST_DETAIL - 3]}..."
    return (
        letter.id,
        letter.type or "-",
        letter.reason or "-",
        str(letter.attempts),
        _age(letter.died_at, now),
        detail,
    )


@dataclass(slots=True)
class Group:
    """Letters of one reason and job type. `oldest` and `newest` deaths in epoch seconds, None where no letter tells."""

    reason: str
    job: str
    count: int = 0
    oldest: float | None = None
    newest: float | None = None

    def add(self, died_at: float | None) -> None:
        self.count += 1
        if died_at is not None:
            self.oldest = died_at if self.oldest is None else min(self.oldest, died_at)
            self.newest = died_at if self.newest is None else max(self.newest, died_at)


class Groups:
    """Letters counted by reason and type."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}
        self.total = 0

    def add(self, letter: DeadLetter) -> None:
        self.total += 1
        key = (letter.reason or "-", letter.type or "-")
        if key not in self._groups and len(self._groups) >= MOST_GROUPS:
            key = ("(others)", "(others)")
        self._groups.setdefault(key, Group(*key)).add(letter.died_at)

    def rows(self, now: float) -> list[tuple[str, ...]]:
        """For a table: reason, type, count, age of the oldest, age of the newest."""
        return [
            (one.reason, one.job, str(one.count), _age(one.oldest, now), _age(one.newest, now))
            for one in self._largest_first()
        ]

    def records(self) -> list[dict[str, Any]]:
        """For programs."""
        return [
            {
                "reason": None if one.reason == "-" else one.reason,
                "type": None if one.job == "-" else one.job,
                "count": one.count,
                "oldest": _moment_or_none(one.oldest),
                "newest": _moment_or_none(one.newest),
            }
            for one in self._largest_first()
        ]

    def line(self) -> str:
        """The largest groups in a line."""
        found = self._largest_first()
        told = [f"{one.count} {one.reason} {one.job}" for one in found[:GROUPS_IN_LINE]]
        rest = len(found) - len(told)
        return printable(", ".join(told)) + (f" and {rest} more groups" if rest else "")

    def _largest_first(self) -> list[Group]:
        return sorted(self._groups.values(), key=lambda one: (-one.count, one.reason, one.job))


def rough_age(seconds: float) -> str:
    """The largest unit that fits, rounded down: 90 seconds are 1m."""
    return next((f"{int(seconds // size)}{unit}" for unit, size in _UNITS if seconds >= size), "0s")


def summary(letter: DeadLetter) -> dict[str, Any]:
    """A letter in a JSON list."""
    return {
        "id": letter.id,
        "type": letter.type or None,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "died_at": _moment_or_none(letter.died_at),
        "message_id": letter.message_id,
        "size": letter.message.size,
    }


def as_record(letter: DeadLetter) -> dict[str, Any]:
    """A letter in full, as `worker.testing.letter` reads it.

    The body is under `json`, or `base64` when it is no JSON (None when it is too large to hold), or both when the JSON
    does not tell its bytes. `header_types` names the headers whose values are no JSON, `believed` says whether the
    x-worker-* headers are the worker's own.
    """
    told = {"believed": letter.believed, "properties": _properties(letter), **_header_types(letter)}
    return summary(letter) | told | _body(letter)


def as_text(letter: DeadLetter) -> str:
    """A letter in full, for people."""
    return "\n".join(_lines(letter))


def _lines(letter: DeadLetter) -> Iterator[str]:
    properties = _properties(letter)
    headers = properties.pop("headers", {})
    for name, value in (summary(letter) | properties).items():
        if value is not None:
            yield f"{name:<16}  {printable(str(value))}"
    for name, value in headers.items():
        yield f"{printable(name)}: {printable(value if isinstance(value, str) else json.dumps(value))}"
    yield ""
    yield _shown_body(letter)


def _shown_body(letter: DeadLetter) -> str:
    body = _body(letter)
    if "json" in body:
        return json.dumps(body["json"], indent=2)
    if body["base64"] is None:
        return f"({letter.message.size} bytes, too large to be shown)"
    text = letter.message.body.decode("utf-8", "backslashreplace")
    return "\n".join(map(printable, text.splitlines()))


def _properties(letter: DeadLetter) -> dict[str, Any]:
    properties = letter.message.properties
    if not isinstance(properties, Properties):
        return {"raw": _base64(properties.raw)}
    found = {one.name: getattr(properties, one.name) for one in fields(properties) if one.name != "headers"}
    return {
        **{name: value for name, value in found.items() if value is not None},
        "headers": _plain(properties.headers),
    }


def _body(letter: DeadLetter) -> dict[str, Any]:
    if not letter.message.buffered:
        return {"base64": None}
    exact = {"base64": _base64(letter.message.body)}
    try:
        value = json.loads(letter.message.body)
        is_compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() == letter.message.body
    except (ValueError, RecursionError):
        return exact
    return {"json": value} | ({} if is_compact else exact)


def _header_types(letter: DeadLetter) -> dict[str, Any]:
    properties = letter.message.properties
    headers = properties.headers if isinstance(properties, Properties) else {}
    odd = {name: kind for name, value in headers.items() if (kind := _ODD.get(type(value)))}
    return {"header_types": odd} if odd else {}


def _plain(value: Any) -> Any:
    """A header's value as JSON can hold it."""
    match value:
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bytes() | bytearray():
            return _base64(bytes(value))
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _age(moment: float | None, now: float) -> str:
    return "-" if moment is None else rough_age(now - moment)


def _moment_or_none(seconds: float | None) -> str | None:
    return None if seconds is None else _moment(seconds)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
