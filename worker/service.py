"""One worker process: start, consume, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from worker.amqp.broker import RabbitBroker
from worker.amqp.connecting import Access
from worker.amqp.rotation import TrustedUsers
from worker.core.broker import EpochLost, Lane
from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.message import Outgoing
from worker.core.policy import RetryPolicy
from worker.core.result import ReplyRules
from worker.core.topology import Topology
from worker.ops.metrics import Metrics
from worker.ops.settings import Settings
from worker.ops.settings.contradictions import HANDBACK
from worker.ops.telemetry import OpsTelemetry
from worker.runtime.clock import SystemClock
from worker.runtime.cpu import CpuRunner
from worker.runtime.executor import DRAIN_CLEANUP, Executor, LocalExecutor
from worker.runtime.intake import Arrivals, Intake
from worker.runtime.limiter import Limit, Limiter, Places
from worker.runtime.pausing import Paused
from worker.runtime.pipeline import Pipeline
from worker.runtime.registry import Registry
from worker.runtime.rules import Rules, TypeOverride
from worker.runtime.tools import Publish, Tools
from worker.runtime.transport import Transport
from worker.runtime.watchdog import Watchdog

log = structlog.get_logger("worker.service")

LAST_WORDS: Final = 0.5
"""Seconds of the grace for ending the process itself."""

INTERRUPT_SECONDS: Final = DRAIN_CLEANUP + 1.0
GIVE_UP: Final = 0.5
LIFESPAN_SECONDS: Final = 2.0
BEGIN_SECONDS: Final = 5.0
"""Longest that a stop waits for consuming to have begun, but no more than a quarter of the grace."""

LAG_EVERY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service is made of, wired by `worker.cli`."""

    settings: Settings
    access: Access
    registry: Registry
    transport: Transport
    metrics: Metrics
    suspects: Executor
    cpu: CpuRunner


class Service:
    """One worker process. `startup()`, `main()`, `shutdown()`, in this order; `stop()` ends `main()`.

    `on_change` is called whenever what `state()` says may have changed.
    """

    def __init__(self, parts: Parts, on_change: Callable[[], None] = lambda: None) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._on_change = on_change
        self._clock = SystemClock()
        self._telemetry = OpsTelemetry(parts.metrics)
        self._topology = Topology(parts.settings.queue, parts.settings.queue_type)
        self._broker = RabbitBroker(
            parts.access, self._topology, parts.settings.topology, on_change=self._session_changed
        )
        self._stop = asyncio.Event()
        self._stopped_at: float | None = None
        self._sessions = 0
        self._paused = Paused()
        self._intake: Intake | None = None
        self._limiter: Limiter | None = None
        self._pipelines: tuple[Pipeline, ...] = ()
        self._helpers: list[asyncio.Task[None]] = []
        self._lifespan = AsyncExitStack()
        self._watchdog = Watchdog()

    async def startup(self) -> None:
        """Reach the broker, enter the lifespan, consume. Raises Unreachable or Refused, or what the lifespan raises."""
        header_budget = await self._broker.connect(self._settings.connect_timeout)
        state = await self._lifespan.enter_async_context(self._parts.registry.running())
        limiter = self._limiter = Limiter(places_of(self._settings), self._clock, self._telemetry)
        tools = tools_of(self._settings, limiter, self._parts.transport, self._parts.cpu, self._broker.publish)
        rules = rules_of(self._settings, self._topology, header_budget, self._parts.access)
        self._intake = Intake(self._broker, self._clock, self._settings.prefetch, self._on_change)
        await self.pause(self._paused)
        self._pipelines = (
            self._pipeline(LocalExecutor(tools, state), limiter, rules, self._intake),
            self._pipeline(self._parts.suspects, limiter, replace(rules, suspect_lane=True)),
        )
        self._helpers = [asyncio.create_task(pipeline.tidy()) for pipeline in self._pipelines]
        self._helpers.append(asyncio.create_task(self._measure_lag()))
        self._watchdog.start(asyncio.get_running_loop())
        await self._consume()

    async def main(self) -> None:
        """Work until `stop()`."""
        await self._stop.wait()

    def stop(self) -> None:
        """End `main()`."""
        if not self._stop.is_set():
            self._stopped_at = asyncio.get_running_loop().time()
        self._stop.set()
        self._on_change()

    async def pause(self, paused: Paused) -> None:
        """Pause exactly this, and resume what else was paused by hand; return when it is done. Also before startup."""
        self._paused = paused
        if self._limiter is None or self._intake is None:
            return
        self._limiter.pause(paused.keys)
        await self._intake.by_hand(paused=paused.everything)

    async def shutdown(self) -> None:
        """Drain and close everything within the grace. Also after a `startup()` that failed half way."""
        grace = self._settings.drain_timeout
        now = asyncio.get_running_loop().time()
        until = (now if self._stopped_at is None else self._stopped_at) + grace
        try:
            async with asyncio.timeout_at(until - min(LAST_WORDS, grace / 4)):
                # A short grace is for handing back above all: a running job that is not handed back runs again.
                await self._drain(until - min(HANDBACK, grace * 0.8), hurry=min(1.0, grace * 0.8 / HANDBACK))
        except TimeoutError:  # a broker that does not answer, a lifespan that does not end
            log.warning("drain.cut_short", seconds=grace)
        finally:
            self._watchdog.stop()

    async def _consume(self) -> None:
        """Begin to deliver. A stop meanwhile waits for that: what is delivered already runs, and has to be drained."""
        work, suspects = self._pipelines
        lanes = [
            Lane(self._topology.name, self._settings.prefetch, work),
            Lane(self._topology.suspect_name, 1, suspects),
        ]
        beginning = asyncio.create_task(self._broker.consume(lanes))
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            await asyncio.wait({beginning}, timeout=min(BEGIN_SECONDS, self._settings.drain_timeout / 4))
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            raise

    async def _drain(self, until: float, hurry: float) -> None:
        """In the order that loses least. `until`, on the loop's clock, running jobs may go on.

        `hurry` is the share of the usual time that there is to hand back.
        """
        for pipeline in self._pipelines:
            pipeline.stop_starting()
        await self._broker.stop_consuming()
        for pipeline in self._pipelines:
            pipeline.give_back()
        await self._idle(until - asyncio.get_running_loop().time())
        await self._hand_back(hurry)
        await self._flush()
        for task in self._helpers:
            task.cancel()
        await self._broker.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIFESPAN_SECONDS):
                await self._lifespan.aclose()
        await self._parts.transport.aclose()

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once the broker has confirmed the message; PublishFailed otherwise."""
        await self._broker.publish(outgoing)

    def state(self) -> Mapping[str, Any]:
        """What probes are told."""
        return {
            "consuming": self._broker.consuming,
            "draining": self._stop.is_set(),
            "broker": self._broker.node,
            "trouble": self._broker.trouble,
            "paused": "" if self._intake is None else self._intake.why,
            "publishing_blocked": self._broker.blocked,
            "copies_held": sum(pipeline.held for pipeline in self._pipelines),
        }

    def jobs(self) -> list[dict[str, Any]]:
        """What is in flight, the oldest first."""
        rows = [row for pipeline in self._pipelines for row in pipeline.jobs()]
        return sorted(rows, key=lambda row: -float(row["seconds"]))

    def _pipeline(
        self, executor: Executor, limiter: Limiter, rules: Rules, arrivals: Arrivals | None = None
    ) -> Pipeline:
        return Pipeline(
            self._broker,
            self._parts.registry,
            executor,
            limiter,
            rules=rules,
            telemetry=self._telemetry,
            clock=self._clock,
            arrivals=arrivals,
        )

    def _session_changed(self, consuming: bool) -> None:
        self._parts.metrics.consuming(consuming)
        self._sessions += consuming
        if consuming and self._sessions > 1:
            self._parts.metrics.reconnected()
        self._on_change()

    async def _idle(self, seconds: float) -> None:
        """Return when nothing is under way, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                for pipeline in self._pipelines:
                    await pipeline.idle()

    async def _hand_back(self, hurry: float) -> None:
        """Interrupt what still runs, and do not wait any longer for a broker that takes no copies."""
        if not any(pipeline.unsettled for pipeline in self._pipelines):
            return
        for pipeline in self._pipelines:
            pipeline.interrupt()
        await self._idle(INTERRUPT_SECONDS * hurry)
        for pipeline in self._pipelines:
            pipeline.settler.give_up()
        await self._idle(GIVE_UP * hurry)
        for pipeline in self._pipelines:
            left = [row.get("id", "") for row in pipeline.jobs()]
            if left:
                log.warning("drain.left_behind", jobs=left[:20], count=len(left))
            await pipeline.close()

    async def _flush(self) -> None:
        """The last acknowledgements before a connection ends are lost by quorum queues, unless they get a moment."""
        for pipeline in self._pipelines:
            if pipeline.epoch is not None and not pipeline.epoch.lost:
                with contextlib.suppress(EpochLost):
                    await pipeline.settler.flush(pipeline.epoch)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._parts.metrics.loop_lag(max(0.0, loop.time() - due))


def places_of(settings: Settings) -> Places:
    """How much may run at once: what waits for a busy key may hold half of what prefetch has beyond concurrency."""
    keys: dict[str, int | Limit] = {
        name: Limit(limit.concurrency, limit.rate or (), limit.adaptive is True, limit.breaker is not False)
        for name, limit in settings.limits.items()
    }
    default = keys.pop("default", None)
    waiters = math.ceil((settings.prefetch - settings.concurrency) / 2)
    return Places(settings.concurrency, settings.steps, waiters, keys, default)


def tools_of(settings: Settings, limiter: Limiter, transport: Transport, cpu: CpuRunner, publish: Publish) -> Tools:
    """What every context of the process shares."""
    return Tools(
        transport,
        limiter,
        SystemClock(),
        cpu,
        publish,
        settings.queue,
        step_timeout=settings.step_timeout,
        max_requests=settings.max_requests,
    )


def rules_of(settings: Settings, topology: Topology, header_budget: int, access: Access) -> Rules:
    """How this service treats jobs."""
    low, high = settings.backoff
    return Rules(
        decode=DecodeRules(
            TrustedUsers(frozenset(settings.trusted_users), access), settings.default_type, settings.max_body
        ),
        copies=CopyRules(topology, header_budget),
        replies=ReplyRules(topology, settings.reply_allow),
        timeout=settings.job_timeout,
        policy=RetryPolicy(settings.attempts, low, high, settings.max_age),
        types={
            name: TypeOverride(one.timeout, one.attempts, one.backoff, one.concurrency)
            for name, one in settings.types.items()
        },
    )
