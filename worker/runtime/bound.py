"""A bound on time that is fair to a process that was stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

LATE: Final = 1.0
"""Seconds after which a timer fires so late that the loop must have been stuck, or the process frozen. A target that
floods the loop makes it late, too: not that late."""

MOMENT: Final = 0.25
"""Seconds more that there are then: what is waited for may have been there in time, and nobody could read it."""


class Timer(Protocol):
    """Something due later."""

    def cancel(self) -> None:
        """Forget it; no effect once it has run."""


class Times(Protocol):
    """What a bound needs of a clock."""

    def monotonic(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer: ...


class Alarm:
    """Calls back once, in `delay` seconds; a moment later where the loop was stuck when it was due."""

    def __init__(self, clock: Times, delay: float, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._callback = callback
        self._due = clock.monotonic() + delay
        self._timer = clock.call_later(delay, self._ring)

    def cancel(self) -> None:
        """Forget it; no effect once it has called."""
        self._timer.cancel()

    def _ring(self) -> None:
        if self._clock.monotonic() - self._due > LATE:
            self._timer = self._clock.call_later(MOMENT, self._callback)
        else:
            self._callback()


class Bound:
    """As asyncio.timeout(): a TimeoutError ends the block after `delay` seconds, None for never.

    Not asyncio's own: after a freeze its timer wins over an answer that is in the socket already, and what was answered
    would be asked for again.
    """

    def __init__(self, clock: Times, delay: float | None) -> None:
        self._clock = clock
        self._delay = delay
        self._alarm: Alarm | None = None
        self._expired = False
        self._task: asyncio.Task[object]
        self._cancelling = 0

    def expired(self) -> bool:
        """Whether the time was up before the block was left."""
        return self._expired

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        if self._delay is not None:
            self._alarm = Alarm(self._clock, max(0.0, self._delay), self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        # The cancellation is ours alone when nobody else has asked for one meanwhile.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
