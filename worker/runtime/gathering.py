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
    gravest = _Gravest()
    tasks = [loop.create_task(_ended(one, gravest), name=name) for one in work]
    try:
        results = await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        await _cancel(tasks)
        raise
    if gravest.error is not None:
        raise gravest.error
    return tuple(results)


class _Gravest:
    """The gravest error so far. Of the others nothing is kept: their frames may hold megabytes each."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def note(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            return
        self.error = heaviest([self.error, error])
        for other in (error, self.error):
            if other is not self.error:
                other.__traceback__ = None


async def _ended(work: Coroutine[Any, Any, T], gravest: _Gravest) -> T | None:
    """The value of `work`; its error is noted. A SystemExit that leaves a task would end the event loop."""
    try:
        return await work
    except BaseException as error:  # noqa: BLE001 - gather_all() raises the gravest of them, whatever it is
        gravest.note(error)
        return None


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
