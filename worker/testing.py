"""The whole way of a job without a broker, on a clock that tests move.

`MemoryBroker` behaves as RabbitMQ does for everything the worker relies on (one contract suite passes on both):
prefetch, confirms, redelivery after a lost session with its counter, the wait ladder, dead-lettering.
`run_job()` publishes one job to it and carries it through every retry and wait to its end, in milliseconds.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.message import Delivery, Epoch, Message, Outgoing, Properties
from worker.core.topology import Topology
from worker.runtime.broker import EpochLost, PublishFailed, Receiver
from worker.runtime.context import Tools
from worker.runtime.limiter import Limiter, Limits
from worker.runtime.pipeline import Pipeline
from worker.runtime.registry import Registry
from worker.runtime.rules import Rules
from worker.runtime.telemetry import AttemptReport, Silent, Telemetry
from worker.runtime.transport import Request, Response, Transport

if TYPE_CHECKING:
    import httpx

WORKER_USER: Final = "worker"
START: Final = 1_800_000_000.0


class _Timer:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """A clock that stands still until a test moves it. Times in seconds."""

    def __init__(self, start: float = START) -> None:
        self._time = start
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []

    def now(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._time

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._time + max(0.0, delay), next(self._order), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        if delay <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, lambda: woken.done() or woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    def timeout(self, delay: float | None) -> asyncio.Timeout:
        bound = asyncio.timeout(None)
        if delay is not None:
            self.call_later(delay, lambda: _expire(bound))
        return bound

    @property
    def next_due(self) -> float | None:
        """Seconds until the next timer, None when there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self._time) if self._timers else None

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`, running what becomes due on the way, in its order."""
        until = self._time + seconds
        await settle()
        while (due := self.next_due) is not None and self._time + due <= until:
            self._time, _, timer = heapq.heappop(self._timers)
            timer.callback()
            await settle()
        self._time = until


async def settle(rounds: int = 25) -> None:
    """Let every task that can go on do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def _expire(bound: asyncio.Timeout) -> None:
    try:
        bound.reschedule(asyncio.get_running_loop().time())
    except RuntimeError:
        return  # its block was left already, or is being left


@dataclass(slots=True)
class _Stored:
    message: Message
    redelivered: bool = False
    count: int = 0


class MemoryBroker:
    """A broker in memory with the queues of one work queue."""

    def __init__(self, clock: ManualClock, queue: str = "jobs", *, prefetch: int = 100) -> None:
        self.topology = Topology(queue)
        self.refusing: set[str] = set()
        """Queues that confirm no publish at present."""
        self._clock = clock
        self._prefetch = prefetch
        self._queues: dict[str, deque[_Stored]] = {
            name: deque() for name in (queue, self.topology.suspect_name, self.topology.dead_name)
        }
        self._queues |= {wait.name: deque() for wait in self.topology.waits}
        self._unacked: dict[int, _Stored] = {}
        self._tags = itertools.count(1)
        self._epochs = itertools.count(1)
        self._epoch: Epoch | None = None
        self._receiver: Receiver | None = None
        self._consuming = False

    # What the worker calls.

    async def start(self, receiver: Receiver) -> None:
        """Begin to consume."""
        self._receiver = receiver
        self.reconnect()

    async def stop_consuming(self) -> None:
        self._consuming = False

    async def close(self) -> None:
        self.lose_session()

    async def publish(self, outgoing: Outgoing) -> None:
        await asyncio.sleep(0)
        if outgoing.queue not in self._queues:
            raise PublishFailed(f"no queue {outgoing.queue!r}")
        if outgoing.queue in self.refusing:
            raise PublishFailed(f"queue {outgoing.queue!r} refuses")
        properties = outgoing.message.properties
        assert isinstance(properties, Properties)
        self._arrive(outgoing.queue, replace(outgoing.message, properties=replace(properties, user_id=WORKER_USER)))

    async def ack(self, delivery: Delivery) -> None:
        self._take(delivery)
        self._feed()

    async def requeue(self, delivery: Delivery) -> None:
        stored = self._take(delivery)
        self._queues[self.topology.name].appendleft(replace(stored, redelivered=True, count=stored.count + 1))
        self._feed()

    async def refuse(self, delivery: Delivery) -> None:
        stored = self._take(delivery)
        self._dead_letter(stored.message, "rejected")
        self._feed()

    async def flush(self, epoch: Epoch) -> None:
        await asyncio.sleep(0)
        if epoch.lost:
            raise EpochLost

    # What tests call.

    def put(self, body: bytes, properties: Properties, *, queue: str | None = None) -> None:
        """A message from a publisher."""
        self._arrive(queue or self.topology.name, Message(body, properties))

    def messages(self, queue: str) -> list[Message]:
        """What is ready in a queue."""
        return [stored.message for stored in self._queues[queue]]

    @property
    def dead(self) -> list[Message]:
        return self.messages(self.topology.dead_name)

    @property
    def unacked(self) -> int:
        return len(self._unacked)

    @property
    def empty(self) -> bool:
        """Whether every queue but the dead one is, and nothing is unacknowledged."""
        return not self._unacked and not any(
            stored for name, stored in self._queues.items() if name != self.topology.dead_name
        )

    def lose_session(self) -> None:
        """The connection breaks: every unsettled delivery goes back, flagged and counted."""
        if self._epoch is None or self._epoch.lost:
            return
        self._epoch.lost = True
        self._consuming = False
        for _, stored in sorted(self._unacked.items(), reverse=True):
            self._queues[self.topology.name].appendleft(replace(stored, redelivered=True, count=stored.count + 1))
        self._unacked.clear()
        assert self._receiver is not None
        self._receiver.on_lost(self._epoch)

    def reconnect(self) -> None:
        """A new session consumes."""
        assert self._receiver is not None
        self._epoch = Epoch(next(self._epochs))
        self._consuming = True
        self._receiver.on_epoch(self._epoch)
        self._feed()

    def _arrive(self, queue: str, message: Message) -> None:
        stored = _Stored(message)
        self._queues[queue].append(stored)
        wait = self.topology.wait_called(queue)
        if wait is not None:
            self._clock.call_later(wait.arguments["x-message-ttl"] / 1000, lambda: self._return(queue, stored))
        elif queue == self.topology.name:
            self._feed()

    def _return(self, queue: str, stored: _Stored) -> None:
        self._queues[queue].remove(stored)
        self._arrive(self.topology.name, _with_death(stored.message, queue, "expired"))

    def _dead_letter(self, message: Message, reason: str) -> None:
        self._arrive(self.topology.dead_name, _with_death(message, self.topology.name, reason))

    def _take(self, delivery: Delivery) -> _Stored:
        if delivery.epoch.lost:
            raise EpochLost
        stored = self._unacked.pop(delivery.tag, None)
        if stored is None:
            raise AssertionError(f"delivery {delivery.tag} was settled twice")
        return stored

    def _feed(self) -> None:
        ready = self._queues[self.topology.name]
        while self._consuming and ready and len(self._unacked) < self._prefetch:
            assert self._epoch is not None and self._receiver is not None
            stored, tag = ready.popleft(), next(self._tags)
            self._unacked[tag] = stored
            message = _counted(stored)
            received = self._clock.monotonic()
            self._receiver.on_delivery(Delivery(message, tag, stored.redelivered, self._epoch, received))


def _counted(stored: _Stored) -> Message:
    if not stored.redelivered or not isinstance(stored.message.properties, Properties):
        return stored.message
    properties = stored.message.properties
    headers = {**properties.headers, "x-delivery-count": stored.count}
    return replace(stored.message, properties=replace(properties, headers=headers))


def _with_death(message: Message, queue: str, reason: str) -> Message:
    if not isinstance(message.properties, Properties):
        return message
    death = {"queue": queue, "reason": reason, "count": 1, "exchange": "", "routing-keys": [queue]}
    headers = {**message.properties.headers, "x-death": [death]}
    return replace(message, properties=replace(message.properties, headers=headers))


class NoTransport:
    """The way out of a job that may make no requests."""

    @property
    def client(self) -> httpx.AsyncClient:
        self._refuse()

    async def send(self, request: Request) -> Response:
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
        limits: Limits | None = None,
        rules: Rules | None = None,
        telemetry: Telemetry | None = None,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        ids = itertools.count(1)
        self.clock = ManualClock()
        self.reports = _Reports()
        self.telemetry = telemetry or self.reports
        self.broker = MemoryBroker(self.clock, prefetch=prefetch or concurrency + concurrency // 4 + 1)
        self._registry = registry
        limiter = Limiter(limits or Limits(concurrency=concurrency), self.clock, self.telemetry)
        self._tools = Tools(transport or NoTransport(), limiter, self.clock)
        self._rules = rules or Rules(
            DecodeRules(frozenset({WORKER_USER})), CopyRules(self.broker.topology)
        )
        self._chance = chance
        self._fresh_id = lambda: f"id-{next(ids)}"
        self._lifespan = registry.running()
        self.pipeline: Pipeline

    async def __aenter__(self) -> Harness:
        state = await self._lifespan.__aenter__()
        self.pipeline = Pipeline(
            self.broker,
            self._registry,
            self._rules,
            self._tools,
            self.telemetry,
            state=state,
            chance=self._chance,
            fresh_id=self._fresh_id,
        )
        self._tidying = asyncio.create_task(self.pipeline.tidy())
        await self.broker.start(self.pipeline)
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
        while not self.broker.empty:
            await settle()
            if self.pipeline.running and await self._progress(patience):
                continue
            due = self.clock.next_due
            if due is None or self.clock.now() + due > until:
                raise TimeoutError(f"not quiet after {longest:g} s: {self.pipeline.jobs()}")
            await self.clock.advance(due)

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
