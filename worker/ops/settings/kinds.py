"""What values a setting may take: one reader and one writer of text for each kind of value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar, cast

from worker.core.units import (
    format_duration,
    format_range,
    format_size,
    parse_duration,
    parse_range,
    parse_size,
)
from worker.ops.settings.secret import MASK, Secret

T = TypeVar("T")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How a value is read and shown. `parse` raises a ValueError that says what would be right.

    `many`: a comma list, in TOML an array too. `empty`: empty text is a value, too. `secret`: also read from a file,
    and its text appears in no message. `path`: relative to where it was written.
    """

    parse: Callable[[str], T]
    show: Callable[[T], str]
    many: bool = False
    empty: bool = False
    secret: bool = False
    path: bool = False


def whole(low: int, high: int) -> Kind[int]:
    def parse(text: str) -> int:
        number = int(text) if _DIGITS.fullmatch(text) else None
        if number is None or not low <= number <= high:
            raise ValueError(f"{shortened(text)} is not a whole number from {low} to {high}")
        return number

    return Kind(parse, str)


def duration(low: str, high: str) -> Kind[float]:
    """Seconds, from `low` to `high`."""
    least, most = parse_duration(low), parse_duration(high)

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if not least <= seconds <= most:
            raise ValueError(f"{shortened(text)} is not from {low} to {high}")
        return seconds

    return Kind(parse, format_duration)


def duration_range(low: str, high: str) -> Kind[tuple[float, float]]:
    """Two durations in seconds such as `2s..1h`, both from `low` to `high`."""
    least, most = parse_duration(low), parse_duration(high)

    def parse(text: str) -> tuple[float, float]:
        found = parse_range(text)
        if not least <= found[0] <= found[1] <= most:
            raise ValueError(f"{shortened(text)} is not within {low}..{high}")
        return found

    return Kind(parse, format_range)


def size(low: str, high: str) -> Kind[int]:
    """Bytes, from `low` to `high`."""
    least, most = parse_size(low), parse_size(high)

    def parse(text: str) -> int:
        number = parse_size(text)
        if not least <= number <= most:
            raise ValueError(f"{shortened(text)} is not from {low} to {high}")
        return number

    return Kind(parse, format_size)


def yes_or_no() -> Kind[bool]:
    """true or false."""

    def parse(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{shortened(text)} is not true or false")
        return text.lower() == "true"

    return Kind(parse, lambda value: str(value).lower())


def choice(*words: str) -> Kind[Any]:
    """One of `words`, in any case. Any, because the setting's annotation is a Literal of these words."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{shortened(text)} is not one of {', '.join(words)}")
        return text.lower()

    return Kind(parse, str)


def text(what: str, most_bytes: int) -> Kind[str]:
    """Printable text; `what` names it in messages."""

    def parse(text: str) -> str:
        if not text or _CONTROL.search(text) or len(text.encode("utf-8", "replace")) > most_bytes:
            raise ValueError(f"{shortened(text)} is not {what}: 1 to {most_bytes} bytes of printable text")
        return text

    return Kind(parse, str)


def queue_name() -> Kind[str]:
    plain = text("a queue name", 200)

    def parse(text: str) -> str:
        if text.startswith("amq."):
            raise ValueError(f"{shortened(text)}: names that start with amq. belong to the broker")
        return plain.parse(text)

    return Kind(parse, str)


def file() -> Kind[str]:
    """The path of a file that must be there when the worker starts."""
    plain = text("a file name", 4096)

    def parse(text: str) -> str:
        if "-----BEGIN" in text:  # perhaps a private key, of which nothing may be shown
            raise ValueError("this is what such a file holds: give the file's name instead")
        return plain.parse(text)

    return Kind(parse, str, path=True)


def token(least: int) -> Kind[Secret]:
    """A secret of visible ASCII characters, at least `least` of them."""

    def parse(text: str) -> Secret:
        if len(text) < least or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"at least {least} visible ASCII characters are needed, without spaces")
        return Secret(text)

    return Kind(parse, lambda _: MASK, secret=True)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """`kind`, or nothing: empty text."""

    def parse(text: str) -> T | None:
        return kind.parse(text) if text else None

    def show(value: T | None) -> str:
        return "none" if value is None else kind.show(value)

    return replace(cast("Kind[T | None]", kind), parse=parse, show=show, empty=True)


def many(item: Kind[T], *, separator: str = r",", empty: bool = True) -> Kind[tuple[T, ...]]:
    """A list of `item`, by comma or by another `separator`, a regular expression."""

    def parse(text: str) -> tuple[T, ...]:
        parts = (part.strip() for part in re.split(separator, text))
        found = tuple(item.parse(part) for part in parts if part)
        if not found and not empty:
            raise ValueError("empty: at least one entry is needed")
        return found

    def show(values: tuple[T, ...]) -> str:
        return ",".join(map(item.show, values)) or "none"

    return Kind(parse, show, many=True, empty=empty, secret=item.secret)


def shortened(text: str) -> str:
    """A value as messages show it."""
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
