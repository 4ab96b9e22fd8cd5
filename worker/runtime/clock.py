"""Time as the runtime sees it, so that tests can move it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from worker.runtime.bound import Bound, Timer


class Clock(Protocol):
    """Times in seconds. Only `now` is wall time; timers never depend on it."""

    def now(self) -> float:
        """Epoch time, for what is written into messages and logs."""

    def monotonic(self) -> float:
        """Time that only goes forward, for durations."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back in `delay` seconds."""

    async def sleep(self, delay: float) -> None:
        """Wait."""

    def timeout(self, delay: float | None) -> Bound:
        """As asyncio.timeout(), on this clock."""


class SystemClock:
    """The real time, on the running loop."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    def timeout(self, delay: float | None) -> Bound:
        return Bound(self, delay)
