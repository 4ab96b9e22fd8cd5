"""How many at once a target bears, found by trying: quickly fewer while it is in trouble, slowly more again."""

from __future__ import annotations

import math
from typing import Final

SHRINK: Final = 0.7
SHRINK_EVERY: Final = 1.0
"""Seconds that one trouble counts for at least."""


class Adaptive:
    """The present number of places of a key, from 1 to `most`."""

    __slots__ = ("_exact", "_most", "_shrunk")

    def __init__(self, most: int) -> None:
        self._most = most
        self._exact = float(most)
        self._shrunk = -math.inf

    @property
    def places(self) -> int:
        return int(self._exact)

    def went_well(self) -> None:
        """One call more that the target bore: as many as there are places, and there is one place more."""
        self._exact = min(float(self._most), self._exact + 1 / self._exact)

    def was_too_much(self, *, started: float, now: float) -> None:
        """A call that began at `started` was asked for less, or not answered in time."""
        if started < self._shrunk or now - self._shrunk < SHRINK_EVERY:
            return  # it was under way already when there were more places: the same trouble
        self._shrunk = now
        self._exact = max(1.0, self._exact * SHRINK)
