"""How long a target asks to wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from worker import asks_to_wait

LONGEST_WAIT: Final = 3600.0
"""Most seconds a Retry-After may ask for."""

UNNAMED_WAIT: Final = 10.0
"""Least seconds to wait when the target asks to wait and does not say how long."""


def asked_wait(status: int, headers: Mapping[str, str], *, now: float, chance: float) -> float | None:
    """Seconds to wait after a 429, or a 503 with Retry-After; None for any other answer.

    `now` is epoch seconds. A Retry-After in the past or below zero is 0, one above an hour an hour. Without one that
    can be read it is 10 to 20 s as `chance` (from [0, 1)) says, so that the jobs of one host do not come back at once.
    """
    if not asks_to_wait(status, headers):
        return None
    named = _seconds(headers.get("retry-after", "").strip(), now)
    return UNNAMED_WAIT * (1 + chance) if named is None else min(max(named, 0.0), LONGEST_WAIT)


def _seconds(text: str, now: float) -> float | None:
    if text.isascii() and text.removeprefix("-").isdecimal():
        return float(text[:20])
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
