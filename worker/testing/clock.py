"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final

from worker.runtime.bound import Bound

START: Final = 1_800_000_000.0


class _Timer:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """Time that stands still until a test moves it. Seconds; wall time and monotonic time are one here."""

    def __init__(self, start: float = START) -> None:
        self._time = start
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []

    def now(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._time

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._time + max(0.0, delay), next(self._order), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        if delay <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        timer = self.call_later(delay, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    def timeout(self, delay: float | None) -> Bound:
        return Bound(self, delay)

    @property
    def next_due(self) -> float | None:
        """Seconds until the next timer, None when there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self._time) if self._timers else None

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`, running what becomes due on the way, in its order."""
        until = self._time + seconds
        await let_run()
        while (due := self.next_due) is not None and self._time + due <= until:
            self._time, _, timer = heapq.heappop(self._timers)
            timer.callback()
            await let_run()
        self._time = until


async def let_run(rounds: int = 25) -> None:
    """Let every task that can go on do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)
