"""Run one attempt and name how it ended. Never raises."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from worker.core.outcome import Failed, Interrupted, JobSignal, Outcome, Succeeded
from worker.runtime.clock import Clock
from worker.runtime.context import Context, enter
from worker.runtime.ends import error_name, outcome_of, where
from worker.runtime.registry import Registration

log = structlog.get_logger("worker.executor")

CLEANUP: Final = 5.0
"""Seconds a cancelled handler may take to clean up before it is left behind."""


class Run:
    """One attempt under way. Its end is asked for once: by the timeout or by the drain."""

    def __init__(self, context: Context, registration: Registration, payload: Any, clock: Clock) -> None:
        self.context = context
        self.registration = registration
        self._payload = payload
        self._clock = clock
        self._task: asyncio.Task[Any] | None = None
        self._left_behind: asyncio.Future[None] | None = None
        self._stopped_as: Outcome | None = None
        self.error: BaseException | None = None

    async def outcome(self, timeout: float) -> Outcome:
        """Run the handler, at most `timeout` seconds and a moment to clean up, and name its end."""
        loop = asyncio.get_running_loop()
        self._left_behind = loop.create_future()
        self._task = loop.create_task(self._handle(), name=f"job {self.context.job.id}")
        if self._stopped_as is not None:
            self._task.cancel()
        timer = self._clock.call_later(timeout, lambda: self._stop(Failed(f"timeout after {timeout:g} s")))
        try:
            await asyncio.wait({self._task, self._left_behind}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if self._task.done():
            self._left_behind.cancel()
        return self._name(self._task)

    def interrupt(self) -> None:
        """Stop for a drain."""
        self._stop(Interrupted())

    def _stop(self, outcome: Outcome) -> None:
        if self._stopped_as is not None or (self._task is not None and self._task.done()):
            return
        self._stopped_as = outcome
        if self._task is None:  # not started: outcome() cancels it at its first step
            return
        self._task.cancel()
        self._clock.call_later(CLEANUP, self._leave_behind)

    def _leave_behind(self) -> None:
        assert self._task is not None and self._left_behind is not None
        if self._task.done() or self._left_behind.done():
            return
        log.error("handler.ignores_cancellation", type=self.registration.type, id=self.context.job.id)
        self._left_behind.set_result(None)

    async def _handle(self) -> Any:
        """The handler's value, or the exception it ended with as a value.

        Everything is caught inside the task: a SystemExit that leaves a task would end the event loop.
        """
        enter(self.context)
        try:
            return await self.registration.call(self._payload, self.context)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return _Raised(error)

    def _name(self, task: asyncio.Task[Any]) -> Outcome:
        if self._stopped_as is not None:
            return self._stopped_as  # whatever the handler made of its cancellation, it is no success
        if task.cancelled():
            return Failed("CancelledError raised by the handler itself")
        ended = task.result()
        if not isinstance(ended, _Raised):
            return Succeeded(ended)
        self.error = ended.error
        return outcome_of(ended.error)

    def trouble(self) -> dict[str, str]:
        """For the log: the handler's own words and where they were said, when it failed by accident."""
        if self.error is None or isinstance(self.error, JobSignal):
            return {}
        return {"error": error_name(self.error), "at": where(self.error)}


class _Raised:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
