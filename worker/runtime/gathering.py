"""Several pieces of work at the same time, all of them awaited, and the gravest of their errors."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from worker.runtime.ends import heaviest

T = TypeVar("T")


async def gather_all(work: Iterable[Coroutine[Any, Any, Any]]) -> tuple[Any, ...]:
    """All results, in call order.

    When one fails the others are still awaited, so that what they finish is remembered; then the gravest error is
    raised: Reject before a failure before Snooze.
    """
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    # By the name of its task a job is found that blocks the loop.
    name = current.get_name() if current is not None else None
    tasks = [loop.create_task(_ended(one), name=name) for one in work]
    try:
        ended = await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        await _cancel(tasks)
        raise
    if errors := [error for _, error in ended if error is not None]:
        raise heaviest(errors)
    return tuple(value for value, _ in ended)


async def _ended(work: Coroutine[Any, Any, T]) -> tuple[T | None, BaseException | None]:
    """The value or the error of `work`. A SystemExit that leaves a task would end the event loop."""
    try:
        return await work, None
    except BaseException as error:  # noqa: BLE001 - gather() raises the gravest of them, whatever it is
        return None, error


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
