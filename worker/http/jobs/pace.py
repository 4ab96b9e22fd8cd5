"""Work that takes milliseconds of the loop, in small helpings: however much is asked for at once, others get a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from weakref import WeakKeyDictionary

HELPING: Final = 0.005
"""Seconds of work after which the loop turns."""


class Pace:
    """One piece of work at a time; `async with` waits for the others that came before.

    What is done is counted over all of them: many small pieces hold up the loop as much as a large one.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._since = self._spent = 0.0

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._since = self._clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.rest()
        finally:
            self._lock.release()

    async def rest(self) -> None:
        """Let the loop turn, if it is time; nobody else's work begins meanwhile."""
        now = self._clock()
        self._spent += now - self._since
        if self._spent >= HELPING:
            self._spent = 0.0
            await asyncio.sleep(0)
            now = self._clock()
        self._since = now


_paces: WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = WeakKeyDictionary()


def pace() -> Pace:
    """The one of the running loop: what holds it up is not one job's affair."""
    loop = asyncio.get_running_loop()
    if (found := _paces.get(loop)) is None:
        found = _paces[loop] = Pace()
    return found
