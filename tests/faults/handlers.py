"""Handlers that behave badly, for trials: the APP `tests.faults.handlers:registry`.

The payload is the target's URL, so that every run leaves an effect, and what else is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from typing import Any

from worker import Context, Registry

registry = Registry()


@registry.handler("plain")
async def plain(job: dict[str, Any], context: Context) -> None:
    await context.request("GET", job["url"])


@registry.handler("steps")
async def steps(job: dict[str, Any], context: Context) -> None:
    """Three steps, the middle one as slow as `ms` says."""
    for name, wait in (("first", 0), ("second", job["ms"]), ("third", 0)):
        await context.step(name, ask, context, f"{job['url']}&ms={wait}")


async def ask(context: Context, url: str) -> None:
    await context.request("GET", url)


@registry.handler("stubborn")
async def stubborn(job: dict[str, Any], context: Context) -> None:
    """Ignores that it is cancelled, and ends only after `seconds`."""
    await context.request("GET", job["url"])
    until = time.monotonic() + job["seconds"]
    while (rest := until - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(rest)


@registry.handler("blocks")
async def blocks(job: dict[str, Any], context: Context) -> None:
    """Holds the loop for `seconds`."""
    await context.request("GET", job["url"])
    time.sleep(job["seconds"])  # noqa: ASYNC251 - the fault itself


@registry.handler("leaks")
async def leaks(job: dict[str, Any], context: Context) -> None:
    """Leaves a task behind that never ends."""
    context.state_of_the_leak = asyncio.create_task(asyncio.sleep(3600))  # type: ignore[attr-defined]
    await context.request("GET", job["url"])


class Base(BaseException):
    """What `except Exception` does not catch."""


RAISED = {
    "BaseException": Base,
    "SystemExit": SystemExit,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
}


@registry.handler("raises", attempts=1)
async def raises(job: dict[str, Any], context: Context) -> None:
    """Raises what `what` names."""
    raise RAISED[job["what"]]("on purpose")


@registry.handler("exits")
async def exits(job: dict[str, Any], context: Context) -> None:
    await context.request("GET", job["url"])
    os._exit(1)


@registry.handler("faults")
async def faults(job: dict[str, Any], context: Context) -> None:
    """Reads where nothing is: the interpreter dies with SIGSEGV."""
    await context.request("GET", job["url"])
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


@registry.handler("starves")
async def starves(job: dict[str, Any], context: Context) -> None:
    """What the kernel does to a process that takes too much memory."""
    await context.request("GET", job["url"])
    os.kill(os.getpid(), signal.SIGKILL)
