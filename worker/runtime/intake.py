"""Whether jobs are taken off the queues: not while an operator says so, nor for a moment while nothing may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from worker.core.job import Job
from worker.runtime.bound import Timer
from worker.runtime.clock import Clock
from worker.runtime.limits.values import Busy
from worker.runtime.pausing import BY_HAND, NOTHING_CAN_RUN, Lookout

log = structlog.get_logger("worker.intake")


class Door(Protocol):
    """What the intake needs of a broker."""

    async def pause(self) -> None: ...
    async def resume(self) -> None: ...


class Arrivals(Protocol):
    """Who is told what becomes of deliveries."""

    def started(self) -> None:
        """A job runs."""

    def ended(self, *, well: bool) -> None:
        """A job runs no more; `well` if it succeeded."""

    def turned_away(self, job: Job, busy: Busy) -> None:
        """A job is parked because of a key, without a run."""


class Unwatched:
    """Nobody is told."""

    def started(self) -> None: ...
    def ended(self, *, well: bool) -> None: ...
    def turned_away(self, job: Job, busy: Busy) -> None: ...


class Intake:
    """Pauses the broker and resumes it. Fulfils Arrivals.

    `held` is how many deliveries a process may hold; `on_change` is called when `why` has changed.
    """

    def __init__(self, broker: Door, clock: Clock, held: int, on_change: Callable[[], None] = lambda: None) -> None:
        self._broker = broker
        self._clock = clock
        self._on_change = on_change
        self._lookout = Lookout(held)
        self._by_hand = False
        self._standing: Timer | None = None
        self._is_paused = False
        self._paused_at = 0.0
        self._following: asyncio.Task[None] | None = None

    @property
    def why(self) -> str:
        """Why nothing is consumed; empty when it is."""
        if self._by_hand:
            return BY_HAND
        return "" if self._standing is None else NOTHING_CAN_RUN

    async def by_hand(self, *, paused: bool) -> None:
        """Pause until told otherwise, or resume; return once the broker has done so."""
        if paused != self._by_hand:
            before = self.why
            self._by_hand = paused
            if not paused:
                self._look_again()  # whoever resumes wants to see it go on
            self._tell(before)
        if self._following is not None:
            await asyncio.shield(self._following)

    def started(self) -> None:
        self._lookout.started()

    def ended(self, *, well: bool) -> None:
        self._lookout.ended(self._clock.monotonic(), well=well)

    def turned_away(self, job: Job, busy: Busy) -> None:
        if self.why:
            return  # it was here before
        now = self._clock.monotonic()
        found = self._lookout.turned_away(busy.key, now, busy.delay, again=job.snoozes > 0 or job.attempt > 1)
        if found is not None:
            self._standing = self._clock.call_later(found.seconds, self._resume)
            self._tell("", keys=list(found.keys), seconds=round(found.seconds, 1))

    def _resume(self) -> None:
        before = self.why
        self._look_again()
        self._tell(before)

    def _look_again(self) -> None:
        if self._standing is not None:
            self._standing.cancel()
            self._standing = None

    def _tell(self, before: str, **more: object) -> None:
        if self.why == before:
            return
        if self.why:
            self._paused_at = self._paused_at if before else self._clock.monotonic()
            log.info("consuming.paused", why=self.why, **more)
        else:
            log.info("consuming.resumed", why=before, after=round(self._clock.monotonic() - self._paused_at, 1))
        self._on_change()
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        """Let the broker do what is wanted by now; one thing at a time."""
        while bool(self.why) != self._is_paused:
            self._is_paused = bool(self.why)
            await (self._broker.pause() if self._is_paused else self._broker.resume())
