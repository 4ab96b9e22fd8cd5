"""One worker process: the real service on the simulated broker, which can also die without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from dataclasses import replace
from typing import Any, Final, cast

from tests.simulation.broker import SimBroker
from tests.simulation.chance import Chance
from tests.simulation.door import Door
from tests.simulation.jobs import ATTEMPTS, JOB_SECONDS, PLACE, Place, registry
from tests.simulation.ledger import NAME, Life
from tests.simulation.virtual_time import LoopClock
from worker.core.job import Job
from worker.core.outcome import Rejected
from worker.ops.settings import Settings
from worker.runtime.attempt import Ended
from worker.runtime.cpu import ThreadCpu
from worker.runtime.executor import Executor, LocalExecutor, Run
from worker.runtime.intake import Arrivals
from worker.runtime.limiter import Limiter
from worker.runtime.pipeline import Pipeline
from worker.runtime.registry import Registration
from worker.runtime.rules import Rules
from worker.runtime.telemetry import Silent
from worker.service import Parts, Service, places_of, tools_of
from worker.testing.harness import NoTransport
from worker.testing.memory_broker import WORKER_USER

REGISTRY: Final = registry()
SETTINGS: Final = Settings(
    concurrency=3,
    prefetch=5,
    steps=6,
    job_timeout=JOB_SECONDS,
    step_timeout=4.0,
    attempts=ATTEMPTS,
    backoff=(1.0, 4.0),
    trusted_users=(WORKER_USER,),
)

TASKS: ContextVar[list[asyncio.Task[Any]]] = ContextVar("tasks_of_the_process")


def in_process(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
    """The task factory: a process knows its tasks, so that it can die."""
    task = asyncio.Task(coro, loop=loop, **more)
    context = more.get("context")
    tasks = context.get(TASKS) if context is not None else TASKS.get(None)
    if tasks is not None:
        tasks.append(task)
    return task


class Process:
    """A worker process from its birth to its end. Numbers are given by whoever starts it."""

    def __init__(self, broker: SimBroker, number: int) -> None:
        self.number = number
        self._broker = broker
        self._ledger = broker.ledger
        self._tasks: list[asyncio.Task[Any]] = []
        context = copy_context()
        context.run(TASKS.set, self._tasks)
        context.run(PLACE.set, Place(self._ledger, number, lambda: self.alive, self.die))
        self._door = Door(broker, number, context, self.die)
        self._life = self._ledger.lives[number] = Life(self._ledger.now, broker.chance.grace)
        self._ledger.write("born", f"p{number}")
        self._service = _Service(self._door, broker.chance)
        self._main = asyncio.get_running_loop().create_task(self._live(), context=context)

    @property
    def alive(self) -> bool:
        return self._door.alive

    @property
    def stopping(self) -> bool:
        return self._life.stopped is not None

    def stop(self) -> None:
        """SIGTERM."""
        if self.alive and not self.stopping:
            self._life.stopped = self._ledger.now
            self._ledger.write("drain", f"p{self.number}")
            self._service.stop()

    def die(self) -> None:
        """SIGKILL, or a crash: no line of it runs any more, as far as anybody else can see."""
        if not self.alive:
            return
        self._door.alive = False
        self._life.killed = True
        self._gone()
        self._broker.process_died(self.number)
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        await asyncio.wait({self._main})

    def leave_nothing(self) -> list[asyncio.Task[Any]]:
        """What has not ended though the process has."""
        return [task for task in self._tasks if not task.done()]

    def remembers(self) -> str:
        """What the process holds when it should hold nothing; empty for nothing."""
        pipelines = self._service._pipelines
        found = {
            "records": sum(len(pipeline.inflight) for pipeline in pipelines),
            "tasks": sum(pipeline.unsettled for pipeline in pipelines),
            "held": sum(pipeline.held for pipeline in pipelines),
        }
        for pipeline in pipelines[:1]:
            found |= pipeline._limiter.in_use()
        return ", ".join(f"{count} {what}" for what, count in found.items() if count)

    async def _live(self) -> None:
        try:
            await self._service.startup()
            await self._service.main()
        finally:
            await self._service.shutdown()
        if not self.alive:
            return
        if not self._door.closed:
            self._ledger.breach(f"p{self.number} cut its drain short")
            self._broker.process_died(self.number)
        self._door.alive = False
        self._gone()

    def _gone(self) -> None:
        self._life.gone = self._ledger.now
        self._life.stopped = self._life.stopped or self._life.gone
        self._ledger.write("gone", f"p{self.number}")


class _Service(Service):
    """The real one, its broker and its chance exchanged."""

    def __init__(self, door: Door, chance: Chance) -> None:
        parts = Parts(
            replace(SETTINGS, drain_timeout=chance.grace),
            cast(Any, None),
            REGISTRY,
            NoTransport(),
            cast(Any, _NoMetrics()),
            cast(Executor, None),
            ThreadCpu(),
        )
        super().__init__(parts)
        self._broker = cast(Any, door)
        self._clock = cast(Any, LoopClock())
        self._telemetry = cast(Any, Silent())
        self._watchdog = cast(Any, _NoWatchdog())
        self._chance = chance.dice.random

    async def _measure_lag(self) -> None:
        """Virtual time has none."""

    def _pipeline(
        self, executor: Executor, limiter: Limiter, rules: Rules, arrivals: Arrivals | None = None
    ) -> Pipeline:
        if rules.suspect_lane:
            tools = tools_of(SETTINGS, Limiter(places_of(SETTINGS), self._clock, self._telemetry),
                             self._parts.transport, self._parts.cpu, self._broker.publish)  # fmt: skip
            executor = _Apart(LocalExecutor(tools, {}))
        pipeline = Pipeline(
            self._broker,
            REGISTRY,
            executor,
            limiter,
            rules=rules,
            telemetry=self._telemetry,
            clock=self._clock,
            arrivals=arrivals,
            chance=self._chance,
            fresh_id=lambda: f"copy-{self._chance():.12f}",
        )
        # Sets are walked through in an order that the addresses of objects decide.
        pipeline._tasks = cast(Any, InOrder())
        pipeline.settler._holds = cast(Any, InOrder())
        return pipeline


class _NoMetrics:
    def consuming(self, consuming: bool) -> None: ...
    def reconnected(self) -> None: ...


class _NoWatchdog:
    """The real one looks from a thread of its own, at real time."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def stop(self) -> None: ...


class _Apart:
    """The suspects' lane: a job that kills ends the child process, and the parent says so."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def start(self, job: Job, registration: Registration, payload: Any, timeout: float) -> Run:
        if isinstance(payload, dict) and payload.get("ends") == ["kill"]:
            return _Killed(job)
        return self._executor.start(job, registration, payload, timeout)


class _Killed:
    def __init__(self, job: Job) -> None:
        self._job = job

    async def ended(self) -> Ended:
        place = PLACE.get()
        run = place.ledger.begin(str(self._job.headers[NAME]), "", place.process)
        await asyncio.sleep(0.1)
        if place.alive():
            place.ledger.end(run, "child killed")
        return Ended(Rejected("crashed_worker", "the process that ran it alone ended"), self._job.steps)

    def interrupt(self) -> None:
        """It ends at once anyway."""


class InOrder:
    """A set that is walked through in the order of its making."""

    def __init__(self) -> None:
        self._all: dict[Any, None] = {}

    def add(self, one: Any) -> None:
        self._all[one] = None

    def discard(self, one: Any) -> None:
        self._all.pop(one, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
