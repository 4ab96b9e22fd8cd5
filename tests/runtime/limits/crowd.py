"""Jobs that want a place, are parked when they are turned away, and come back: the queue and its ladder, in little."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from worker.runtime.limiter import Asker, Busy, Limiter
from worker.testing import ManualClock


@dataclass
class Crowd:
    """What became of the jobs that went to one limiter. Times are seconds since the beginning."""

    limiter: Limiter
    clock: ManualClock
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    parks: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.since = self.clock.now()

    def job(self, name: str, keys: Sequence[str], seconds: Callable[[], float], *, at: float = 0.0) -> None:
        """One job of `keys` that is first seen at `at`, and then holds its places for `seconds()`."""
        self.tasks.append(asyncio.create_task(self._job(name, keys, seconds, at)))

    async def until(self, seconds: float, step: float = 1.0) -> None:
        """Move on, to so many seconds from the beginning or the end of all jobs."""
        while self.clock.now() - self.since < seconds and not all(task.done() for task in self.tasks):
            await self.clock.advance(step)

    def waits(self, prefix: str) -> list[float]:
        """Seconds from the arrival to the start of those that started, in the order of their arrival."""
        names = sorted((name for name in self.started if name.startswith(prefix)), key=self.arrived.__getitem__)
        return [self.started[name] - self.arrived[name] for name in names]

    async def _job(self, name: str, keys: Sequence[str], seconds: Callable[[], float], at: float) -> None:
        if at:
            await self.clock.sleep(at)
        first_seen = self.clock.now()
        self.arrived[name] = first_seen - self.since
        while True:
            try:
                async with self.limiter.job(keys, {}, Asker(name, first_seen, "job")):
                    self.started[name] = self.clock.now() - self.since
                    await self.clock.sleep(seconds())
                    return
            except Busy as busy:
                self.parks[name] += 1
                self.reasons[busy.reason] += 1
                await self.clock.sleep(busy.delay)
