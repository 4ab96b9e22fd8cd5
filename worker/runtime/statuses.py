"""Which HTTP statuses are worth a repeat: one rule for the quick tries of a step and for every way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_RETRIED: Final = frozenset({408, 425, 500, 502, 503, 504})


def is_retried(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a repeat may succeed and costs an attempt: not when the target asks to wait."""
    return status in _RETRIED and not asks_to_wait(status, headers)


def asks_to_wait(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the target asks to come back later: a 429, or a 503 with Retry-After."""
    return status == 429 or (status == 503 and "retry-after" in headers)
