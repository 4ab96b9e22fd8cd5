"""What the tests of the runtime share: a handler that waits to be let go, brokers with one habit each, readers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from worker.core.broker import PublishFailed
from worker.core.message import Delivery, Message, Outgoing, Properties
from worker.runtime.clock import Clock
from worker.runtime.context import Context
from worker.runtime.cpu import ThreadCpu
from worker.runtime.limiter import Limiter
from worker.runtime.registry import Registry
from worker.runtime.telemetry import Silent
from worker.runtime.tools import Tools
from worker.runtime.transport import Transport
from worker.testing import JobResult, MemoryBroker, run_job
from worker.testing.clock import ManualClock


class Stage:
    """One handler, `job`, that counts its runs, waits to be let go, and then ends as `end` does."""

    def __init__(self, end: Callable[[], Any] = lambda: None, **options: Any) -> None:
        self.registry = Registry()
        self.end = end
        self.runs: list[Any] = []
        self.go = asyncio.Event()
        self.registry.handler("job", **options)(self._run)

    async def _run(self, payload: Any, context: Context) -> Any:
        self.runs.append(payload)
        await self.go.wait()
        return self.end()


def raising(error: BaseException) -> Callable[[], Any]:
    def end() -> None:
        raise error

    return end


Body = Callable[[Context], Awaitable[Any]]


def one(body: Body, **options: Any) -> Registry:
    """A registry whose handler `job` is `body`."""
    registry = Registry()

    @registry.handler("job", backoff=(10, 10), attempts=options.pop("attempts", 3), **options)
    async def job(payload: Any, context: Context) -> Any:
        return await body(context)

    return registry


async def run(body: Body, **options: Any) -> JobResult:
    return await run_job(one(body, **options), "job")


@dataclass
class Ran:
    """A step that counts how often each name of it ran."""

    names: list[str] = field(default_factory=list)

    async def __call__(self, name: str) -> str:
        self.names.append(name)
        return name.upper()

    async def step(self, name: str) -> str:
        return await self(name)


def tools(transport: Transport, limiter: Limiter, clock: Clock, **more: Any) -> Tools:
    """For a context of its own, with no broker behind it."""

    async def publish(outgoing: Outgoing) -> None:
        raise PublishFailed(f"no broker for {outgoing.queue}")

    return Tools(transport, limiter, clock, ThreadCpu(), publish, "jobs", **more)


class RecordingBroker(MemoryBroker):
    """Writes down what the worker asks for, each publish with the time it was asked for and when it was confirmed."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.calls: list[str] = []
        self.asked_at: list[float] = []

    async def publish(self, outgoing: Outgoing) -> None:
        self.calls.append(f"publish {outgoing.queue}")
        self.asked_at.append(self._clock.now())
        await super().publish(outgoing)
        self.calls.append(f"confirmed {outgoing.queue}")

    async def ack(self, delivery: Delivery) -> None:
        self.calls.append("ack")
        await super().ack(delivery)

    async def requeue(self, delivery: Delivery) -> None:
        self.calls.append("requeue")
        await super().requeue(delivery)


class AckLosingBroker(MemoryBroker):
    """Acks leave the worker and never arrive while `losing` is set."""

    losing = True

    async def ack(self, delivery: Delivery) -> None:
        if not self.losing:
            await super().ack(delivery)


class LostAcks(Silent):
    def __init__(self) -> None:
        self.count = 0

    def ack_lost(self) -> None:
        self.count += 1


def headers(message: Message) -> dict[str, Any]:
    assert isinstance(message.properties, Properties)
    return dict(message.properties.headers)


def taken_elsewhere(broker: MemoryBroker, queue: str = "jobs") -> None:
    """Another replica takes everything that is ready."""
    broker._queues[queue].clear()
