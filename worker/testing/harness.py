"""The pipeline over a MemoryBroker and a ManualClock: publish, move the clock, look."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

from worker.core.broker import Lane
from worker.core.message import Properties
from worker.core.report import AttemptReport
from worker.runtime.cpu import ThreadCpu
from worker.runtime.executor import LocalExecutor
from worker.runtime.limiter import Limiter, Places
from worker.runtime.pipeline import Pipeline
from worker.runtime.registry import Registry
from worker.runtime.rules import Rules
from worker.runtime.telemetry import Silent, Telemetry
from worker.runtime.tools import Tools
from worker.runtime.transport import Request, Response, Transport
from worker.testing.clock import ManualClock, let_run
from worker.testing.memory_broker import MemoryBroker
from worker.testing.options import Duration, Retries, seconds
from worker.testing.real_time import RealTime
from worker.testing.target import FakeTarget
from worker.testing.watching import Watching

if TYPE_CHECKING:
    import httpx


class NoTransport:
    """The way out of a job that may make no requests."""

    @property
    def client(self) -> httpx.AsyncClient:
        self._refuse()

    async def send(self, request: Request) -> Response:  # noqa: ARG002 - the protocol's signature
        self._refuse()

    def credential_fault(
        self,
        *,
        auth: str | None,  # noqa: ARG002 - the protocol's signature
        sign: str | None,  # noqa: ARG002 - the protocol's signature
        url: str | None,  # noqa: ARG002 - the protocol's signature
        headers: Collection[str],  # noqa: ARG002 - the protocol's signature
    ) -> str | None:
        return None

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

    An async context manager. `transport` is what requests go to (a `FakeTarget`, for instance); without one a request
    is an error. `attempts`, `backoff`, `timeout` and `max_age` outweigh what the handlers registered, `limits` bounds
    keys by name (jobs and steps at once). Times are seconds, or text such as "5m". `chance` gives the jitter of all
    waits, from [0, 1). `places` and `rules` stand for all the words of that kind. `patience` is for how many real
    seconds something real (a socket, a thread) is waited for without news, before the clock moves on.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        transport: Transport | None = None,
        concurrency: int = 10,
        steps: int = 20,
        limits: Mapping[str, int] | None = None,
        attempts: int | None = None,
        backoff: tuple[Duration, Duration] | None = None,
        timeout: Duration | None = None,
        max_age: Duration | None = None,
        step_timeout: Duration = 10.0,
        max_requests: int = 1000,
        prefetch: int | None = None,
        places: Places | None = None,
        rules: Rules | None = None,
        telemetry: Telemetry | None = None,
        chance: Callable[[], float] = lambda: 0.5,
        patience: float = 0.05,
    ) -> None:
        ids = itertools.count(1)
        self.clock = ManualClock()
        self.reports = _Reports()
        self.telemetry = telemetry or self.reports
        self.broker = MemoryBroker(self.clock)
        self._prefetch = prefetch or concurrency + concurrency // 4 + 1
        self._registry = registry
        places = places or Places(concurrency=concurrency, steps=steps, keys=limits or {})
        self._limiter = Limiter(places, self.clock, self.telemetry, chance)
        self._transport = transport or NoTransport()
        self._target = transport if isinstance(transport, FakeTarget) else None
        if self._target is not None:
            self._target.clock = self.clock
        self._rules = rules or Retries(attempts, backoff, timeout, max_age).rules(registry.types, self.broker.topology)
        self._step_timeout = seconds(step_timeout)
        self._max_requests = max_requests
        self._chance = chance
        self._patience = patience
        self._fresh_id = lambda: f"id-{next(ids)}"
        self._lifespan = registry.running()
        self.watching: Watching
        """What the handlers returned and raised."""
        self.pipeline: Pipeline

    async def __aenter__(self) -> Self:
        state = await self._lifespan.__aenter__()
        self._real_time = RealTime()
        tools = Tools(
            self._transport,
            self._limiter,
            self.clock,
            ThreadCpu(),
            self.broker.publish,
            self.broker.topology.name,
            step_timeout=self._step_timeout,
            max_requests=self._max_requests,
        )
        self.watching = Watching(LocalExecutor(tools, state))
        self.pipeline = Pipeline(
            self.broker,
            self._registry,
            self.watching,
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

    async def until_quiet(self, *, patience: float | None = None, longest: float = 60 * 86400) -> None:
        """Carry every job to its end, moving the clock over all waits (at most `longest` seconds of them).

        While a handler waits for something real (a socket, a thread, `asyncio.sleep`), real time passes too: only when
        nothing has happened for `patience` real seconds the clock moves on to the next timer. So a test must not wait
        for longer than that.
        """
        until = self.clock.now() + longest
        while not await self._quiet():
            self._check_target()
            if self.pipeline.running and await self._progress(self._patience if patience is None else patience):
                continue
            due = self.clock.next_due
            if due is None and await self._goes_on():
                continue
            if due is None or self.clock.now() + due > until:
                raise TimeoutError(f"not quiet after {longest:g} s: {self.pipeline.jobs()}")
            await self.clock.advance(due)
        self._check_target()

    def _check_target(self) -> None:
        if self._target is not None:
            self._target.check()

    async def _quiet(self) -> bool:
        await let_run()
        return self.broker.empty

    async def _goes_on(self) -> bool:
        """Whether the loop still works at something, though nothing is due: wait a little for it."""
        for _ in range(100):
            if not self._real_time.may_bring_something():
                return False
            await let_run()
            if self.clock.next_due is not None or self.broker.empty:
                return True
        return False

    async def _progress(self, patience: float) -> bool:
        if not self._real_time.may_bring_something():
            return False
        before = (len(self.reports.all), self.pipeline.running)
        deadline = asyncio.get_running_loop().time() + patience
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.001)
            if (len(self.reports.all), self.pipeline.running) != before:
                return True
        return False
