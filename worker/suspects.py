"""The suspects' lane: jobs that were there when a worker died, each run in a child process under a living parent.

The parent holds the delivery. If the child dies, the job is the one that kills, and no other job was near it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from worker.core.job import Job
from worker.core.outcome import Failed, Interrupted, Rejected, Succeeded
from worker.link import Child, Link, how_it_ended, start_child
from worker.runtime.attempt import Ended
from worker.runtime.executor import CLEANUP, LocalExecutor, Run
from worker.runtime.registry import Registration, Registry

log = structlog.get_logger("worker.suspects")

START_SECONDS: Final = 30.0
MARGIN: Final = 5.0
"""Seconds beyond its timeout after which a child that does not answer is ended."""

IDLE_SECONDS: Final = 10.0
"""A child without work is kept this long, for suspects come in groups."""

READY: Final = "ready"
INTERRUPT: Final = "interrupt"


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One job to run, at most `timeout` seconds."""

    job: Job
    timeout: float


class SuspectExecutor:
    """Fulfils `worker.runtime.executor.Executor`: one child process, started when the first suspect comes."""

    def __init__(self, command: Sequence[str], order: Any) -> None:
        self._command = tuple(command)
        self._order = order
        self._child: Child | None = None
        self._idle: asyncio.TimerHandle | None = None

    def start(self, job: Job, registration: Registration, payload: Any, timeout: float) -> Run:  # noqa: ARG002 - validated again where it runs
        return _SuspectRun(self, RunOrder(job, timeout))

    async def child(self) -> Child:
        """The child, ready for an order. An EOFError or TimeoutError when it does not come up."""
        if self._idle is not None:
            self._idle.cancel()
        if self._child is None:
            child = await start_child(self._command, self._order)
            try:
                async with asyncio.timeout(START_SECONDS):
                    await child.link.receive()
            except (EOFError, TimeoutError):
                child.signal(signal.SIGKILL)
                raise
            self._child = child
        return self._child

    def ended_well(self) -> None:
        """The child answered: keep it for a while."""
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)

    def forget(self) -> None:
        """The child is gone."""
        self._child = None

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.signal(signal.SIGKILL)  # it holds nothing: its job, if it has one, is held here


class _SuspectRun:
    def __init__(self, executor: SuspectExecutor, order: RunOrder) -> None:
        self._executor = executor
        self._order = order
        self._child: Child | None = None
        self._interrupted = False

    async def ended(self) -> Ended:
        try:
            child = self._child = await self._executor.child()
        except (EOFError, OSError, TimeoutError) as error:
            self._executor.forget()
            log.warning("suspects.no_child", error=type(error).__name__)
            return self._end(Failed("the process for suspects did not start"))
        if self._interrupted:
            return self._end(Interrupted())
        child.link.send(self._order)
        return await self._answer(child)

    def interrupt(self) -> None:
        self._interrupted = True
        if self._child is not None:
            self._child.link.send(INTERRUPT)

    async def _answer(self, child: Child) -> Ended:
        try:
            async with asyncio.timeout(self._order.timeout + CLEANUP + MARGIN):
                ended: Ended = await child.link.receive()
        except TimeoutError:  # it blocks its loop
            self._executor.close()
            return self._end(Failed(f"timeout after {self._order.timeout:g} s"))
        except EOFError:
            self._executor.forget()
            return self._crashed(await child.ended())
        self._executor.ended_well()
        return ended

    def _crashed(self, code: int) -> Ended:
        how = how_it_ended(code)
        log.error("job.crashed_worker", id=self._order.job.id, type=self._order.job.type, ended=how)
        return self._end(Rejected("crashed_worker", f"the process that ran it alone ended {how}"))

    def _end(self, outcome: Failed | Rejected | Interrupted) -> Ended:
        return Ended(outcome, self._order.job.steps)


async def serve_suspects(link: Link, registry: Registry, executor: LocalExecutor) -> None:
    """In the child: run what is ordered, one job at a time, until the parent hangs up."""
    link.send(READY)
    run: Run | None = None
    answering: asyncio.Task[None] | None = None
    with contextlib.suppress(EOFError):
        while True:
            order = await link.receive()
            if isinstance(order, RunOrder):
                registration = registry.find(order.job.type)
                payload = registration.validate(order.job.payload)
                run = executor.start(order.job, registration, payload, order.timeout)
                answering = asyncio.create_task(_answer(link, run))
            elif run is not None:
                run.interrupt()
    if answering is not None:
        answering.cancel()


async def _answer(link: Link, run: Run) -> None:
    link.send(_portable(await run.ended()))


def _portable(ended: Ended) -> Ended:
    """Without a value: whether a handler's value can travel is not known, and nobody asks for it here."""
    if not isinstance(ended.outcome, Succeeded):
        return ended
    return Ended(Succeeded(), ended.steps, ended.network, ended.requests, ended.trouble)
