"""Whether anything can still happen while the moved clock stands still."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


class RealTime:
    """Looks for what real time may bring to the running loop: threads, sockets and pipes, timers, and work under way.

    What was there at its making does not count. It asks a standard asyncio loop for what no public call tells; of any
    other loop it takes for granted that something may come.
    """

    def __init__(self) -> None:
        self._loop: Any = asyncio.get_running_loop()
        self._threads = threading.active_count()
        self._files = self._watched_files()

    def may_bring_something(self) -> bool:
        """Ask when every task that can go on has done so."""
        files = self._watched_files()
        return (
            files is None
            or self._files is None
            or files > self._files
            or threading.active_count() > self._threads
            or bool(getattr(self._loop, "_ready", ()))  # a handler computes on, in more turns than one waits for
            or any(not timer.cancelled() for timer in getattr(self._loop, "_scheduled", ()))
        )

    def _watched_files(self) -> int | None:
        selector = getattr(self._loop, "_selector", None)
        return None if selector is None else len(selector.get_map())
