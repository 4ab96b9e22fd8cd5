"""Blocking code off the loop: a thread for each call."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns or raises, from a thread of its own with the caller's context.

    Not asyncio's pool: its few threads would be a second, hidden limit beside the job slots, and the end of the process
    would wait for one that hangs. A thread whose caller is cancelled goes on by itself.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    context = contextvars.copy_context()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(context.run(call))
        except BaseException as error:  # noqa: BLE001 - raised again on the loop
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, ended)

    Thread(target=run, name="worker-handler", daemon=True).start()
    await ended
    if errors:
        raise errors[0]
    return results[0]


def _wake(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
