"""What hostile targets cost the process that calls them: run as one of its own, so that nothing else is counted.

`python -m tests.http.hostile.probe LOOP` reads the calls as JSON and prints what each took. See test_cost.py.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from tests.http.conftest import LOOPBACK
from tests.http.hostile.behaviour import end_of
from worker import Limits, Reject, Request, RequestError, Response
from worker.http.engine import Engine
from worker.http.guard import Guard


class Turns:
    """The longest turn of the loop, in CPU seconds of its thread: how busy the machine is does not count."""

    def __init__(self) -> None:
        self.longest = self._last = 0.0

    async def watch(self) -> None:
        self._last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            self.turned()

    def turned(self) -> None:
        """A turn is over."""
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now


async def measured(engine: Engine, call: dict[str, Any], body: bytes) -> dict[str, Any]:
    """One call: its end, its longest turn (seconds), and the memory it took at most (bytes)."""
    forget_peak()
    before, turns = resident("VmRSS"), Turns()
    watching = asyncio.create_task(turns.watch())
    await asyncio.sleep(0)
    end: Response | Exception
    try:
        end = await engine.send(
            Request(call["method"], call["url"], body=body if call["body"] else None, timeout=call["timeout"])
        )
    except (RequestError, Reject) as error:
        end = error
    finally:
        turns.turned()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return {"name": call["name"], "end": end_of(end), "turn": turns.longest, "grown": resident("VmHWM") - before}


def resident(which: str) -> int:
    """Bytes of memory of this process: `VmRSS` now, `VmHWM` at most since the peak was last forgotten."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[which].split()[0]) << 10


def forget_peak() -> None:
    """Begin to look for the peak anew. What `getrusage` tells of it begins with that of the parent."""
    Path("/proc/self/clear_refs").write_text("5")


def sockets() -> int:
    """Open sockets of this process."""
    return sum(one.is_socket() for one in Path("/proc/self/fd").iterdir())


async def main(calls: list[dict[str, Any]], good: str, authority: str) -> dict[str, Any]:
    """All calls, one after the other; and the files that are still open when the engine is closed."""
    body = b"x" * max(call["body"] for call in calls)
    engine = Engine(Limits(), Guard(LOOPBACK), ssl_context=ssl.create_default_context(cadata=authority))
    before = sockets()
    await engine.send(Request("GET", good))  # what any process has once it has made a request is no cost of these
    taken = [await measured(engine, call, body) for call in calls]
    await engine.aclose()
    await asyncio.sleep(0.05)  # a socket is closed in a later turn
    return {"calls": taken, "left_open": sockets() - before}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if sys.argv[1] == "uvloop" else None) as runner:
        given = json.load(sys.stdin)
        json.dump(runner.run(main(**given)), sys.stdout)
