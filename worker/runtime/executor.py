"""Run one attempt and name how it ended."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import structlog

from worker.core.job import Job
from worker.core.outcome import Failed, Interrupted, Outcome, Reject, Succeeded
from worker.runtime.attempt import Ended
from worker.runtime.bound import Alarm
from worker.runtime.clock import Clock
from worker.runtime.context import Context, enter
from worker.runtime.ends import outcome_of, trouble_of
from worker.runtime.registry import Registration
from worker.runtime.tools import Tools

log = structlog.get_logger("worker.executor")

CLEANUP: Final = 5.0
"""Seconds a cancelled handler may take to clean up before it is left behind."""

DRAIN_CLEANUP: Final = 1.5
"""The same at the end of a drain, which has no more to give: what is finished by then goes back with the job."""


class Run(Protocol):
    """One attempt under way."""

    async def ended(self) -> Ended:
        """How it ended, once it has. Called once; never raises."""

    def interrupt(self) -> None:
        """Stop for a drain: it ends as Interrupted, unless it has ended already."""


class Executor(Protocol):
    """Where handlers run."""

    def start(self, job: Job, registration: Registration, payload: Any, timeout: float) -> Run:
        """Begin an attempt of at most `timeout` seconds. `payload` is validated."""


class LocalExecutor:
    """Runs handlers on this process's loop; a plain `def` in one of its threads."""

    def __init__(self, tools: Tools, state: Any) -> None:
        self._tools = tools
        self._state = state

    def start(self, job: Job, registration: Registration, payload: Any, timeout: float) -> LocalRun:
        context = Context(job, self._tools, self._state, timeout=timeout)
        return LocalRun(context, registration, payload, timeout, self._tools.clock)


class LocalRun:
    """An attempt whose handler is a task here. Its end is asked for once: by the timeout or by the drain."""

    def __init__(
        self, context: Context, registration: Registration, payload: Any, timeout: float, clock: Clock
    ) -> None:
        self._context = context
        self._registration = registration
        self._payload = payload
        self._timeout = timeout
        self._clock = clock
        self._task: asyncio.Task[Any] | None = None
        self._left_behind: asyncio.Future[None] | None = None
        self._stopped_as: Outcome | None = None
        self._error: BaseException | None = None

    async def ended(self) -> Ended:
        loop = asyncio.get_running_loop()
        self._left_behind = loop.create_future()
        self._task = loop.create_task(self._handle(), name=f"job {self._context.job.id}")
        if self._stopped_as is not None:
            self._task.cancel()
        timer = Alarm(self._clock, self._timeout, self._time_out)
        try:
            await asyncio.wait({self._task, self._left_behind}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the process ends without waiting any longer
            self._task.cancel()
            raise
        finally:
            timer.cancel()
        self._left_behind.cancel()
        context = self._context
        outcome = self._name(self._task)
        return Ended(
            outcome,
            dict(context.steps.finished),
            context.network_seconds,
            context.requests,
            trouble=self._trouble(),
            cut_off=self._was_cut_off,
        )

    def interrupt(self) -> None:
        self._stop(Interrupted())
        if self._task is not None:
            self._clock.call_later(DRAIN_CLEANUP, self._leave_behind)

    def _time_out(self) -> None:
        self._stop(Failed(f"timeout after {self._timeout:g} s"))

    def _stop(self, outcome: Outcome) -> None:
        if self._stopped_as is not None or (self._task is not None and self._task.done()):
            return
        self._stopped_as = outcome
        if self._task is None:  # not started: ended() cancels it at its first step
            return
        self._task.cancel()
        self._clock.call_later(CLEANUP, self._leave_behind)

    def _leave_behind(self) -> None:
        assert self._task is not None
        assert self._left_behind is not None
        if self._task.done() or self._left_behind.done():
            return
        log.error("handler.ignores_cancellation", type=self._registration.type, id=self._context.job.id)
        self._left_behind.set_result(None)

    async def _handle(self) -> Any:
        """The handler's value, or the exception it ended with as a value.

        Everything is caught inside the task: a SystemExit that leaves a task would end the event loop.
        """
        enter(self._context)
        try:
            return await self._registration.call(self._payload, self._context)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - named in _name, whatever it is
            return _Raised(error)

    def _name(self, task: asyncio.Task[Any]) -> Outcome:
        if self._stopped_as is not None:
            # Whatever the handler made of its cancellation, it is no success. That it may never run again is its word.
            return outcome_of(error) if isinstance(error := _raised(task), Reject) else self._stopped_as
        if task.cancelled():
            return Failed("CancelledError raised by the handler itself")
        ended = task.result()
        if not isinstance(ended, _Raised):
            return Succeeded(ended)
        self._error = ended.error
        return outcome_of(ended.error)

    @property
    def _was_cut_off(self) -> bool:
        return isinstance(self._stopped_as, Failed) or isinstance(self._error, TimeoutError | ConnectionError)

    def _trouble(self) -> dict[str, str]:
        return {} if self._error is None else trouble_of(self._error)


def _raised(task: asyncio.Task[Any]) -> BaseException | None:
    """What the handler raised, if it has ended so."""
    ended = task.result() if task.done() and not task.cancelled() else None
    return ended.error if isinstance(ended, _Raised) else None


class _Raised:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
