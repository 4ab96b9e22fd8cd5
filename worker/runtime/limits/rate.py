"""Starts per time: never more than so many in any window of that length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from worker.core.units import Rate

PARTS: Final = 64
"""Parts of a window: a start counts until the last part that it may lie in has passed, 1/64 of the window too long."""


class Window:
    """The starts of the last `per` seconds, in constant memory. Times on a clock that only goes forward."""

    __slots__ = ("_at", "_counts", "_most", "_part", "_total")

    def __init__(self, rate: Rate) -> None:
        self._most = rate.count
        self._part = rate.per / PARTS
        self._counts = [0] * (PARTS + 1)  # the parts that a window overlaps, wherever in a part it begins
        self._total = 0
        self._at = 0

    def started(self, now: float) -> None:
        """Count one."""
        self._move(now)
        self._counts[self._at % (PARTS + 1)] += 1
        self._total += 1

    def free_in(self, now: float, ahead: int) -> float:
        """Seconds until one more may start after `ahead` others that are sure to; 0 for now."""
        self._move(now)
        above = self._total + ahead + 1 - self._most
        if above <= 0:
            return 0.0
        windows, above = divmod(above - 1, self._most)  # those ahead fill whole windows, too
        above += 1
        for age in range(PARTS, -1, -1):
            above -= self._counts[(self._at - age) % (PARTS + 1)]
            if above <= 0:
                free = (self._at - age + PARTS + 1) * self._part - now
                return max(0.0, free) + windows * self._part * (PARTS + 1)
        return (windows + 1) * self._part * (PARTS + 1)

    def is_empty(self, now: float) -> bool:
        """Whether none of them counts any more."""
        self._move(now)
        return not self._total

    def _move(self, now: float) -> None:
        at = int(now / self._part)
        passed = at - self._at
        if passed <= 0:
            return
        for step in range(1, min(passed, PARTS + 1) + 1):
            index = (self._at + step) % (PARTS + 1)
            self._total -= self._counts[index]
            self._counts[index] = 0
        self._at = at


class Rates:
    """All windows of one key. A start is reserved before its place is there, so that the wait for it overruns none."""

    __slots__ = ("_reserved", "_windows")

    def __init__(self, rates: Iterable[Rate]) -> None:
        self._windows = tuple(Window(rate) for rate in rates)
        self._reserved = 0

    def free_in(self, now: float, ahead: int = 0) -> float:
        """Seconds until one more may start after `ahead` others; 0 for now."""
        return max(window.free_in(now, self._reserved + ahead) for window in self._windows)

    def is_empty(self, now: float) -> bool:
        """Whether nothing that was started or is reserved counts any more."""
        return not self._reserved and all(window.is_empty(now) for window in self._windows)

    def reserve(self) -> None:
        """Keep a start for somebody; to be started or given up."""
        self._reserved += 1

    def give_up(self) -> None:
        """The one who had it reserved will not start."""
        self._reserved -= 1

    def start(self, now: float) -> None:
        """Whoever had it reserved starts."""
        self._reserved -= 1
        for window in self._windows:
            window.started(now)
