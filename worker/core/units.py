"""Durations, sizes, rates and ranges as operators write them: text to numbers and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_NUMBER: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_RATE: Final = re.compile(r"([0-9]{1,15}) ?/ ?([A-Za-z]+)")

_SECONDS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_BYTES: Final = {
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
}
_BINARY: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

DURATION_FORMS: Final = "250ms, 10s, 5m, 2h or 1d; a bare number is seconds"
SIZE_FORMS: Final = "64KiB, 1MiB or 10MB; a bare number is bytes"
RATE_FORMS: Final = "20/s, 100/m or 5000/h"
RANGE_FORMS: Final = "2s..1h, the shorter one first"


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` events in every `per` seconds."""

    count: int
    per: float


def parse_duration(text: str) -> float:
    """Seconds. Zero is a duration, a negative one is not. ValueError names the value and the accepted forms."""
    number, unit = _split(text, "duration", DURATION_FORMS)
    factor = _SECONDS.get(unit or "s")
    if factor is None:
        raise _refusal(text, "duration", DURATION_FORMS)
    return float(number * factor)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back, to the microsecond: 250ms, 90s, 2h."""
    exact = round(Decimal(repr(float(seconds))), 6)
    for unit in ("d", "h", "m", "s"):
        if exact and not exact % _SECONDS[unit]:
            return f"{int(exact / _SECONDS[unit])}{unit}"
    if not exact or exact > 1:
        return f"{_plain(exact)}s"
    return f"{_plain(exact * 1000)}ms"


def parse_size(text: str) -> int:
    """Bytes. KiB, MiB and GiB are powers of 1024, KB, MB and GB of 1000; the case of a unit does not matter."""
    number, unit = _split(text, "size", SIZE_FORMS)
    factor = _BYTES.get(unit.lower() or "b")
    if factor is None or number * factor % 1:
        raise _refusal(text, "size", SIZE_FORMS)
    return int(number * factor)


def format_size(size: int) -> str:
    """Bytes as text that `parse_size` reads back: 1MiB, 64KiB, 1500."""
    for unit, factor in _BINARY:
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def parse_rate(text: str) -> Rate:
    """A whole number above zero per second, minute or hour."""
    found = _RATE.fullmatch(text.strip())
    if found is None or found[2] not in _PERIODS or int(found[1]) == 0:
        raise _refusal(text, "rate", RATE_FORMS)
    return Rate(int(found[1]), _PERIODS[found[2]])


def format_rate(rate: Rate) -> str:
    """The text that `parse_rate` reads back; a period it has no letter for is written in seconds."""
    for unit, per in _PERIODS.items():
        if rate.per == per:
            return f"{rate.count}/{unit}"
    return f"{rate.count}/{rate.per:g}s"


def parse_range(text: str) -> tuple[float, float]:
    """Two durations in seconds, the first not above the second."""
    low_text, dots, high_text = text.partition("..")
    if not dots:
        raise _refusal(text, "range", RANGE_FORMS)
    low, high = parse_duration(low_text), parse_duration(high_text)
    if low > high:
        raise _refusal(text, "range", RANGE_FORMS)
    return low, high


def format_range(bounds: tuple[float, float]) -> str:
    """The text that `parse_range` reads back."""
    return f"{format_duration(bounds[0])}..{format_duration(bounds[1])}"


def _split(text: str, noun: str, forms: str) -> tuple[Decimal, str]:
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise _refusal(text, noun, forms)
    return Decimal(found[1]), found[2]


def _refusal(text: str, noun: str, forms: str) -> ValueError:
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    return ValueError(f"{shown!r} is not a {noun}: write {forms}")


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
