"""The pipeline over a MemoryBroker and a ManualClock: publish, move the clock, look."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Self

from worker.core.broker import Lane
from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.message import Message, Properties
from worker.core.report import AttemptReport
from worker.runtime.context import Tools
from worker.runtime.executor import LocalExecutor
from worker.runtime.limiter import Limiter, Places
from worker.runtime.pipeline import Pipeline
from worker.runtime.registry import Registry
from worker.runtime.rules import Rules
from worker.runtime.telemetry import Silent, Telemetry
from worker.runtime.transport import Request, Response, Transport
from worker.testing.clock import ManualClock, let_run
from worker.testing.memory_broker import WORKER_USER, MemoryBroker

if TYPE_CHECKING:
    import httpx


class NoTransport:
    """The way out of a job that may make no requests."""

    @property
    def client(self) -> httpx.AsyncClient:
        self._refuse()

    async def send(self, request: Request) -> Response:  # noqa: ARG002 - the protocol's signature
        self._refuse()

    def is_transient(self, error: BaseException) -> bool:
        return isinstance(error, ConnectionError | TimeoutError)

    async def aclose(self) -> None:
        return None

    def _refuse(self) -> NoReturn:
        raise RuntimeError("this job makes requests: hand run_job() or Harness() a transport")


class _Reports(Silent):
    def __init__(self) -> None:
        self.all: list[AttemptReport] = []

    def attempt_finished(self, report: AttemptReport) -> None:
        self.all.append(report)


class Harness:
    """A pipeline over a MemoryBroker and a ManualClock: publish, move the clock, look.

    An async context manager. `transport` is what `context.request` uses; without one a request is an error.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        transport: Transport | None = None,
        concurrency: int = 10,
        prefetch: int | None = None,
        places: Places | None = None,
        rules: Rules | None = None,
        telemetry: Telemetry | None = None,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        ids = itertools.count(1)
        self.clock = ManualClock()
        self.reports = _Reports()
        self.telemetry = telemetry or self.reports
        self.broker = MemoryBroker(self.clock)
        self._prefetch = prefetch or concurrency + concurrency // 4 + 1
        self._registry = registry
        self._limiter = Limiter(places or Places(concurrency=concurrency), self.clock, self.telemetry)
        self._transport = transport or NoTransport()
        self._rules = rules or Rules(DecodeRules(frozenset({WORKER_USER})), CopyRules(self.broker.topology))
        self._chance = chance
        self._fresh_id = lambda: f"id-{next(ids)}"
        self._lifespan = registry.running()
        self.pipeline: Pipeline

    async def __aenter__(self) -> Self:
        state = await self._lifespan.__aenter__()
        tools = Tools(self._transport, self._limiter, self.clock)
        self.pipeline = Pipeline(
            self.broker,
            self._registry,
            LocalExecutor(tools, state),
            self._limiter,
            rules=self._rules,
            telemetry=self.telemetry,
            clock=self.clock,
            chance=self._chance,
            fresh_id=self._fresh_id,
        )
        self._tidying = asyncio.create_task(self.pipeline.tidy())
        await self.broker.start([Lane(self.broker.topology.name, self._prefetch, self.pipeline)])
        return self

    async def __aexit__(self, *error: object) -> None:
        self._tidying.cancel()
        await self.pipeline.close()
        await self._lifespan.__aexit__(None, None, None)

    def publish(self, type: str | None, payload: Any = None, *, id: str | None = None, **properties: Any) -> None:
        """A message as another system would publish it."""
        self.broker.put(json.dumps(payload).encode(), Properties(type=type, message_id=id, **properties))

    async def until_quiet(self, *, patience: float = 0.05, longest: float = 60 * 86400) -> None:
        """Carry every job to its end, moving the clock over all waits (at most `longest` seconds of them).

        While a handler runs, real time passes too, for real sockets: only when nothing has happened for `patience`
        real seconds the clock moves on to the next timer.
        """
        until = self.clock.now() + longest
        while not await self._quiet():
            if self.pipeline.running and await self._progress(patience):
                continue
            due = self.clock.next_due
            if due is None or self.clock.now() + due > until:
                raise TimeoutError(f"not quiet after {longest:g} s: {self.pipeline.jobs()}")
            await self.clock.advance(due)

    async def _quiet(self) -> bool:
        await let_run()
        return self.broker.empty

    async def _progress(self, patience: float) -> bool:
        before = (len(self.reports.all), self.pipeline.running)
        deadline = asyncio.get_running_loop().time() + patience
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.001)
            if (len(self.reports.all), self.pipeline.running) != before:
                return True
        return False


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended. `seconds` is the time that passed on the moved clock, `reason` the dead letter's."""

    status: str
    attempts: int
    snoozes: int
    seconds: float
    reason: str | None = None
    detail: str = ""
    dead_letter: Message | None = None
    reports: tuple[AttemptReport, ...] = field(default=())


async def run_job(
    registry: Registry,
    type: str,
    payload: Any = None,
    *,
    id: str = "job-1",
    headers: Mapping[str, Any] | None = None,
    transport: Transport | None = None,
    **options: Any,
) -> JobResult:
    """Run one job to its end, over all its retries and waits, and say how it ended.

    `options` are those of `Harness`.
    """
    async with Harness(registry, transport=transport, **options) as harness:
        since = harness.clock.now()
        harness.publish(type, payload, id=id, headers=dict(headers or {}))
        await harness.until_quiet()
        seconds = harness.clock.now() - since
        reports = tuple(harness.reports.all)
        ran = [report for report in reports if report.ran]
        attempts = ran[-1].attempt if ran else 0
        snoozes = sum(report.outcome == "snoozed" for report in ran)
        if not harness.broker.dead:
            return JobResult("succeeded", attempts, snoozes, seconds, reports=reports)
        letter = harness.broker.dead[0]
        assert isinstance(letter.properties, Properties)
        found = letter.properties.headers
        return JobResult(
            "dead",
            attempts,
            snoozes,
            seconds,
            found.get("x-worker-reason"),
            found.get("x-worker-detail", ""),
            letter,
            reports,
        )
