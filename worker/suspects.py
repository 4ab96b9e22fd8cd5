"""The suspects' lane: jobs that were there when a worker died, each run in a child process under a living parent.

The parent holds the delivery. If the child dies, the job is the one that kills, and no other job was near it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from worker.core.broker import PublishFailed
from worker.core.job import Job
from worker.core.message import Outgoing
from worker.core.outcome import Failed, Rejected, Snoozed, Succeeded
from worker.link import Child, Link, how_it_ended, start_child
from worker.runtime.announcements import plain_value
from worker.runtime.attempt import Ended
from worker.runtime.ends import outcome_of, trouble_of
from worker.runtime.executor import CLEANUP, LocalExecutor, Run
from worker.runtime.registry import Registration, Registry
from worker.runtime.tools import Publish

log = structlog.get_logger("worker.suspects")

START_SECONDS: Final = 30.0
MARGIN: Final = 5.0
"""Seconds beyond its timeout after which a child that does not answer is ended."""

IDLE_SECONDS: Final = 10.0
"""A child without work is kept this long, for suspects come in groups."""

READY: Final = "ready"
BEGAN: Final = "began"
INTERRUPT: Final = "interrupt"

NO_CHILD_DELAY: Final = 10.0
"""Seconds a suspect waits when its process cannot be had: that is not its fault."""


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """From the child: publish this for me. The answer is a Published of the same number."""

    number: int
    outgoing: Outgoing


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a PublishOrder: confirmed, or why not."""

    number: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One job to run, at most `timeout` seconds."""

    job: Job
    timeout: float


class NoChild(Exception):
    """The child does not come up."""


class SuspectExecutor:
    """Fulfils `worker.runtime.executor.Executor`: one child process, started when the first suspect comes.

    `publish` is for what its jobs publish: the child has no connection of its own.
    """

    def __init__(self, command: Sequence[str], order: Any, publish: Publish) -> None:
        self._command = tuple(command)
        self._order = order
        self.publish = publish
        self.turn = asyncio.Lock()
        """Held by the job that runs: a lane under a new session delivers while one of the session before still runs."""
        self._child: Child | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[int]] = set()

    def start(self, job: Job, registration: Registration, payload: Any, timeout: float) -> Run:  # noqa: ARG002 - both are looked up where it runs
        return _SuspectRun(self, RunOrder(job, timeout))

    async def began(self, order: RunOrder) -> Child:
        """A child that has begun to run `order`: what becomes of it now is the job's doing. Raises NoChild."""
        if self._idle is not None:
            self._idle.cancel()
        for _ in range(2):  # one that was idle may have died meanwhile: nobody's doing
            child = self._child = self._child or await self._ready()
            child.link.send(order)
            with contextlib.suppress(EOFError):
                if await child.link.receive() == BEGAN:
                    return child
            self.drop()
        raise NoChild("it ends before it begins")

    def answered(self) -> None:
        """The child is free: keep it for a while."""
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.drop)

    def drop(self) -> None:
        """End the child, if there is one; the next job gets another."""
        child, self._child = self._child, None
        if child is not None:
            self._end(child)

    async def aclose(self) -> None:
        """End the child and wait for its end."""
        if self._idle is not None:
            self._idle.cancel()
        self.drop()
        await asyncio.gather(*self._ending)

    def _end(self, child: Child) -> None:
        child.signal(signal.SIGKILL)  # it holds nothing: its job, if it has one, is held here
        ending = asyncio.create_task(child.ended())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _ready(self) -> Child:
        try:
            child = await start_child(self._command, self._order)
        except OSError as error:
            raise NoChild(f"no process can be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(START_SECONDS):
                word = await child.link.receive()
        except (EOFError, TimeoutError):
            word = None
        if word != READY:
            self._end(child)
            raise NoChild(getattr(word, "text", "it does not come up"))
        return child


class _SuspectRun:
    def __init__(self, executor: SuspectExecutor, order: RunOrder) -> None:
        self._executor = executor
        self._order = order
        self._child: Child | None = None
        self._interrupted = False
        self._publishing: set[asyncio.Task[None]] = set()

    async def ended(self) -> Ended:
        async with self._executor.turn:
            return await self._ended()

    async def _ended(self) -> Ended:
        try:
            child = self._child = await self._executor.began(self._order)
        except NoChild as error:
            log.error("suspects.no_child", reason=str(error))  # noqa: TRY400 - the text says it all
            return self._end(Snoozed(NO_CHILD_DELAY, "no_child"))
        if self._interrupted:
            child.link.send(INTERRUPT)
        return await self._answer(child)

    def interrupt(self) -> None:
        self._interrupted = True
        if self._child is not None:
            self._child.link.send(INTERRUPT)

    async def _answer(self, child: Child) -> Ended:
        try:
            async with asyncio.timeout(self._order.timeout + CLEANUP + MARGIN):
                return await self._heard(child)
        except TimeoutError:  # it blocks its loop
            self._executor.drop()
            return self._end(Failed(f"timeout after {self._order.timeout:g} s"))
        except EOFError:
            self._executor.drop()
            return self._crashed(await child.ended())

    async def _heard(self, child: Child) -> Ended:
        """How the child says that the job ended; until then it is served."""
        while True:
            word = await child.link.receive()
            if isinstance(word, Ended):
                self._executor.answered()
                return word
            task = asyncio.create_task(self._publish(child, word))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _publish(self, child: Child, order: PublishOrder) -> None:
        try:
            await self._executor.publish(order.outgoing)
        except Exception as error:  # noqa: BLE001 - whatever it is, the child waits for an answer
            child.link.send(Published(order.number, str(error) or type(error).__name__))
        else:
            child.link.send(Published(order.number))

    def _crashed(self, code: int) -> Ended:
        how = how_it_ended(code)
        log.error("job.crashed_worker", id=self._order.job.id, type=self._order.job.type, ended=how)
        return self._end(Rejected("crashed_worker", f"the process that ran it alone ended {how}"))

    def _end(self, outcome: Failed | Rejected | Snoozed) -> Ended:
        return Ended(outcome, self._order.job.steps)


class ParentsBroker:
    """In the child: the way to the broker leads through the parent, who has the connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once the broker has confirmed the message; PublishFailed otherwise."""
        number = next(self._numbers)
        confirmed = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._link.send(PublishOrder(number, outgoing))
        try:
            await confirmed
        finally:
            del self._waiting[number]

    def heard(self, word: Published) -> None:
        """The parent's answer."""
        confirmed = self._waiting.get(word.number)
        if confirmed is None or confirmed.done():
            return
        if word.fault is None:
            confirmed.set_result(None)
        else:
            confirmed.set_exception(PublishFailed(word.fault))


async def serve_suspects(link: Link, registry: Registry, executor: LocalExecutor, broker: ParentsBroker) -> None:
    """In the child: run what is ordered, one job at a time, until the parent hangs up."""
    lane = _Lane(link, registry, executor, broker)
    link.send(READY)
    with contextlib.suppress(EOFError):
        while True:
            lane.hear(await link.receive())


class _Lane:
    """The child's side: the job that runs, if one does."""

    def __init__(self, link: Link, registry: Registry, executor: LocalExecutor, broker: ParentsBroker) -> None:
        self._link = link
        self._registry = registry
        self._executor = executor
        self._broker = broker
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None

    def hear(self, word: Any) -> None:
        if isinstance(word, RunOrder):
            self._link.send(BEGAN)
            self._task = asyncio.create_task(self._serve(word))
        elif isinstance(word, Published):
            self._broker.heard(word)
        elif self._run is not None:
            self._run.interrupt()

    async def _serve(self, order: RunOrder) -> None:
        job = order.job
        # For the handler's own log lines: they carry the job here, too.
        with structlog.contextvars.bound_contextvars(id=job.id, type=job.type, attempt=job.attempt):
            try:
                self._link.send(await self._ended(order))
            except Exception as error:  # noqa: BLE001 - a fault of ours: the parent waits for an answer
                log.error("suspects.failed", **trouble_of(error))  # noqa: TRY400 - a trace repeats values
                self._link.send(Ended(Failed("a fault of the worker"), job.steps))

    async def _ended(self, order: RunOrder) -> Ended:
        job = order.job
        try:
            registration = self._registry.find(job.type)
            payload = registration.validate(job.payload)
        except BaseException as error:  # noqa: BLE001 - as in the pipeline
            return Ended(outcome_of(error), job.steps, trouble=trouble_of(error))
        self._run = self._executor.start(job, registration, payload, order.timeout)
        try:
            return _portable(await self._run.ended(), registration)
        finally:
            self._run = None


def _portable(ended: Ended, registration: Registration) -> Ended:
    """With the handler's value as plain JSON: whether it can be pickled is not known."""
    if not isinstance(ended.outcome, Succeeded):
        return ended
    return replace(ended, outcome=Succeeded(plain_value(registration, ended.outcome.value).plain))
