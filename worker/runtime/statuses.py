"""Which HTTP statuses are worth a repeat: one rule for the quick tries of a step and for every way out.

And how long a target asks to wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_RETRIED: Final = frozenset({408, 425, 500, 502, 503, 504})


def is_retried(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a repeat may succeed and costs an attempt: not when the target asks to wait."""
    return status in _RETRIED and not asks_to_wait(status, headers)


def asks_to_wait(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the target asks to come back later: a 429, or a 503 with Retry-After."""
    return status == 429 or (status == 503 and "retry-after" in headers)


def named_wait(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that a Retry-After names, in seconds or as a date; may be below 0. None where none can be read."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.removeprefix("-").isdecimal():
        return float(text[:20])
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
