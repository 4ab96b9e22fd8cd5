"""What the tests of CPU-bound work compute: functions at the top of a module, as users write them."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import structlog

from worker import Snooze

loads: list[int] = []


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0

    def mirrored(self) -> Point:
        return Point(self.y, self.x)


class Awkward(Exception):
    """Can be written, and not read: as many libraries' errors."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


class Locked(Exception):
    """Cannot even be written."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = Lock()


def add(point: Point, *, more: int = 0) -> int:
    return point.x + point.y + more


def doubled(content: bytes) -> bytes:
    return content * 2


def pid(_: Any = None) -> int:
    return os.getpid()


def times_called() -> int:
    loads.append(1)
    return len(loads)


def fail(error: BaseException) -> None:
    raise error


def snooze() -> None:
    raise Snooze(5, reason="not yet")


def fail_awkwardly() -> None:
    raise Awkward(7, "seven")


def fail_locked() -> None:
    raise Locked


def give_lock() -> Any:
    return Lock()


def end_by(how: str) -> None:
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)


def die_and_leave_a_copy_of_the_line() -> None:
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    os._exit(3)


def spin(note: str) -> None:
    """Leaves its pid in a file, and never ends."""
    partial = Path(f"{note}.new")
    partial.write_text(str(os.getpid()))
    partial.rename(note)
    while True:
        pass


def spin_with_child(note: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    Path(f"{note}.child").write_text(str(child.pid))
    spin(note)


def meet(folder: str, number: int, count: int) -> int:
    """Returns once so many of these run at the same time."""
    Path(folder, str(number)).touch()
    deadline = time.monotonic() + 30
    while len(list(Path(folder).iterdir())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.getpid()


def with_a_loop_of_its_own() -> str:
    async def main() -> str:
        await asyncio.sleep(0)
        return "ran"

    return asyncio.run(main())


def log_both_ways() -> None:
    structlog.get_logger("user").info("by structlog", n=1)
    logging.getLogger("user").warning("by logging")
    print("by print", flush=True)  # noqa: T201 - what it is about


def sockets() -> list[str]:
    """What this process has open towards the world."""
    import psutil

    return [str(one) for one in psutil.Process().net_connections(kind="inet")]


def result_of(call: Callable[[], Any]) -> Any:
    return call()
