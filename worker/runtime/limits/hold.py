"""A whole key held back because its target asked to: for as long as it said, and longer each time it repeats that."""

from __future__ import annotations

import math
from typing import Final

LONGEST_ASKED: Final = 300.0
"""Most seconds that a Retry-After holds a key back: it is one answer's word for many jobs."""

FIRST: Final = 1.0
LONGEST_REPEATED: Final = 60.0
"""Least seconds a key is held back, whatever the answer names: from the first, doubled while it repeats."""

JITTER: Final = 0.1


class Hold:
    """Until when a key is held back. Times in seconds, on a clock that only goes forward."""

    __slots__ = ("_repeats", "_since", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        self._since = -math.inf
        self._repeats = 0

    def rest(self, now: float) -> float:
        """Seconds that are left of it, 0 for none."""
        return max(0.0, self.until - now)

    def asked(self, seconds: float | None, *, started: float, now: float, chance: float) -> None:
        """A call that began at `started` was asked to wait `seconds`, or for a time that it did not name.

        No time, or one that is past, is none that is named. A word that repeats holds back for longer each time.
        """
        named = 0.0 if seconds is None else min(max(seconds, 0.0), LONGEST_ASKED)
        until = now + max(named, self._least(started, now)) * (1 + JITTER * chance)
        if until > max(self.until, now):
            self.until, self._since = until, now

    def _least(self, started: float, now: float) -> float:
        if started < self._since or now < self.until:
            return 0.0  # it was under way already when the key was held back: the same news
        self._repeats = min(self._repeats + 1, 10)
        return min(FIRST * 2.0 ** (self._repeats - 1), LONGEST_REPEATED)

    def went_well(self, *, started: float) -> None:
        """A call that began at `started` was answered without such a word: they repeat no more."""
        if started >= self.until:
            self._repeats = 0
