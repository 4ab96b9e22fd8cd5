"""How many at once a target bears, found by trying: quickly fewer while it is in trouble, slowly more again."""

from __future__ import annotations

import math
from typing import Final

SHRINK: Final = 0.7
SHRINK_EVERY: Final = 1.0
"""Seconds that one trouble counts for: those that were under way together have the same cause."""


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

    def was_too_much(self, now: float) -> None:
        """The target asked for less, or did not answer in time."""
        if now - self._shrunk >= SHRINK_EVERY:
            self._shrunk = now
            self._exact = max(1.0, self._exact * SHRINK)
