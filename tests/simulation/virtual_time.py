"""An event loop without files and without waiting: when nothing can go on, time jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

START: Final = 1_800_000_000.0
MOST_TURNS: Final = 20_000
"""Turns of the loop at one moment; beyond, something goes round without time ever passing."""

MOST_IN_ALL: Final = 30_000
"""Turns of the loop in one run, ten times those of the longest; beyond, something goes round, slowly."""


class Stuck(Exception):
    """Nothing can ever happen any more."""


class Spinning(Exception):
    """Something goes on for ever."""


class _Leap:
    """Stands where a loop has its selector: asked to wait, it moves the time on."""

    def __init__(self) -> None:
        self.now = 0.0
        self._turns = 0
        self._in_all = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self.now += timeout
            self._turns = 0
        self._turns += 1
        self._in_all += 1
        if self._turns > MOST_TURNS or self._in_all > MOST_IN_ALL:
            self._turns = self._in_all = 0
            raise Spinning
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs tasks and timers in the order the standard loop would, on a time of its own that begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Leap()
        self._clock_resolution = 1e-7

    def time(self) -> float:
        return self._selector.now

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


class LoopClock:
    """The clock of the worker on a VirtualLoop."""

    def now(self) -> float:
        return START + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    def timeout(self, delay: float | None) -> asyncio.Timeout:
        return asyncio.timeout(delay)
