"""What the contract of a broker is tested on: one bench for the broker in memory, one for the real one."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import aiormq
import pika

from tests.amqp.wire import Wire
from worker.amqp.broker import RabbitBroker
from worker.amqp.codec import decode_properties, encode_properties
from worker.amqp.connecting import Access, Node
from worker.amqp.frames import WireHeader, tolerate
from worker.amqp.publisher import Publisher
from worker.core.broker import Broker, Lane, PublishFailed
from worker.core.message import Delivery, Epoch, Message, Outgoing, Properties
from worker.core.topology import Topology
from worker.testing import ManualClock, MemoryBroker
from worker.testing.memory_broker import WORKER_USER

PATIENCE: Final = 15.0
"""Seconds a condition may take to come true; far more than it takes where nothing is wrong."""


async def until(holds: Callable[[], bool], within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


async def until_known(holds: Callable[[], Awaitable[bool]], within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not await holds():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def message(body: bytes = b"{}", **properties: object) -> Message:
    """A message as the worker publishes it: with an id of its own."""
    return Message(body, Properties(**({"message_id": uuid.uuid4().hex} | properties)))  # type: ignore[arg-type]


def outgoing(queue: str, body: bytes = b"{}", **properties: object) -> Outgoing:
    return Outgoing(queue, message(body, **properties))


async def publish_until_confirmed(publisher: Broker | Publisher, outgoing: Outgoing) -> None:
    """As the worker does: a loss is noticed at the latest when a publish fails."""

    async def confirmed() -> bool:
        try:
            await publisher.publish(outgoing)
        except PublishFailed:
            return False
        return True

    await until_known(confirmed)


@dataclass
class Recorder:
    """Who is told: keeps the deliveries, and all that happened in its order."""

    deliveries: list[Delivery] = field(default_factory=list)
    news: list[tuple[str, Epoch]] = field(default_factory=list)

    def on_delivery(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.news.append(("late delivery" if delivery.epoch.lost else "delivery", delivery.epoch))

    def on_epoch(self, epoch: Epoch) -> None:
        self.news.append(("epoch", epoch))

    def on_lost(self, epoch: Epoch) -> None:
        self.news.append(("lost" if epoch.lost else "lost, and the epoch does not say so", epoch))

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.deliveries]

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.news]

    async def count(self, wanted: int) -> list[Delivery]:
        """The deliveries once there are this many."""
        await until(lambda: len(self.deliveries) >= wanted)
        return self.deliveries


class Bench(Protocol):
    """A broker to be tested, and what is done to it from outside."""

    @property
    def broker(self) -> Broker: ...

    @property
    def topology(self) -> Topology: ...

    @property
    def user(self) -> str:
        """The broker user of the worker."""

    @property
    def counts_requeues(self) -> bool:
        """Whether a delivery that is given back counts as failed: not from RabbitMQ 4.3 on."""

    def monotonic(self) -> float: ...

    async def start(self, *lanes: Lane) -> None: ...

    async def stop_consuming(self) -> None: ...

    async def close(self) -> None: ...

    async def put(self, body: bytes, properties: Properties | None = None, queue: str | None = None) -> None:
        """Publish as another system does, to the work queue if no other is named."""

    async def messages(self, queue: str) -> list[Message]:
        """What is ready in a queue, which keeps it."""

    async def count(self, queue: str) -> int:
        """How many messages are ready in a queue."""

    async def lose_session(self) -> None: ...

    async def reconnect(self) -> None:
        """Let a new session begin, and wait for it."""

    async def pass_time(self, seconds: float) -> None: ...


class MemoryBench:
    """The broker in memory, on a clock that is moved."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.topology = self.broker.topology
        self.user = WORKER_USER
        self.counts_requeues = True

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def start(self, *lanes: Lane) -> None:
        await self.broker.start(lanes)

    async def stop_consuming(self) -> None:
        await self.broker.stop_consuming()

    async def close(self) -> None:
        await self.broker.close()

    async def put(self, body: bytes, properties: Properties | None = None, queue: str | None = None) -> None:
        self.broker.put(body, properties or Properties(), queue=queue)

    async def messages(self, queue: str) -> list[Message]:
        return self.broker.messages(queue)

    async def count(self, queue: str) -> int:
        return len(self.broker.messages(queue))

    async def lose_session(self) -> None:
        self.broker.lose_session()

    async def reconnect(self) -> None:
        self.broker.reconnect()

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class AsIs:
    """Properties that are published as these bytes."""

    message_id = "known to nobody but the client"

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def marshal(self) -> bytes:
        return self._raw


class Outside:
    """Another program at the broker: looks into queues, publishes, tidies up."""

    def __init__(self, connection: aiormq.Connection) -> None:
        self.connection = connection

    async def put(self, queue: str, body: bytes, properties: Properties) -> None:
        channel = await self._channel()
        await channel.basic_publish(
            body,
            routing_key=queue,
            properties=AsIs(encode_properties(properties)),  # type: ignore[arg-type]  # only marshalled
            mandatory=True,
        )
        await channel.close()

    async def put_many(self, queue: str, bodies: list[bytes]) -> None:
        channel = await self._channel()
        await asyncio.gather(*(channel.basic_publish(body, routing_key=queue) for body in bodies))
        await channel.close()

    async def count(self, queue: str) -> int:
        channel = await self._channel()
        found = await channel.queue_declare(queue, passive=True)
        await channel.close()
        assert found.message_count is not None
        return found.message_count

    async def exists(self, queue: str) -> bool:
        try:
            await self.count(queue)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        return True

    async def messages(self, queue: str) -> list[Message]:
        channel = await self._channel()
        found = []
        while isinstance((got := await channel.basic_get(queue)).header, WireHeader):
            found.append(Message(got.body, decode_properties(got.header.raw)))
        await channel.close()  # gives them back
        return found

    async def declare(self, queue: str, arguments: dict[str, object]) -> None:
        channel = await self._channel()
        await channel.queue_declare(queue, durable=True, arguments=arguments)  # type: ignore[arg-type]
        await channel.close()

    async def delete(self, *queues: str) -> None:
        channel = await self._channel()
        for queue in queues:
            await channel.queue_delete(queue)
        await channel.close()

    async def _channel(self) -> aiormq.Channel:
        return cast(aiormq.Channel, await self.connection.channel())


@contextlib.asynccontextmanager
async def outside(url: str) -> AsyncIterator[Outside]:
    tolerate()
    connection = await aiormq.connect(url)
    try:
        yield Outside(connection)
    finally:
        await connection.close()


def access(url: str, port: int | None = None, user: str = "", password: str = "") -> Access:
    """The way to the broker of this URL, or by another port, or as another user."""
    parts = urlsplit(url)
    user, password = user or parts.username or "guest", password or parts.password or "guest"
    address = f"{parts.hostname}:{port or parts.port or 5672}"
    return Access((Node(f"amqp://{user}:{password}@{address}{parts.path}", f"amqp://{user}@{address}", user),))


class Leftovers:
    """Queues that tests have left behind, to be deleted when they are old.

    RabbitMQ 3.10.8: a quorum queue with at-least-once dead-lettering that is deleted while it starts takes the
    supervisor of all such queues with it, and from then on its node cannot declare one.
    """

    OLD: Final = 2.0
    """Seconds after which such a queue has surely started, also after a restart of its node."""

    def __init__(self) -> None:
        self._queues: dict[str, list[str]] = {}

    def add(self, url: str, topology: Topology) -> None:
        self._queues.setdefault(url, []).extend(all_queues(topology))

    def delete(self) -> None:
        if self._queues:
            time.sleep(self.OLD)
        for url, queues in self._queues.items():
            connection = pika.BlockingConnection(pika.URLParameters(url))
            channel = connection.channel()
            for queue in queues:
                channel.queue_delete(queue)
            connection.close()


def all_queues(topology: Topology) -> list[str]:
    named = (topology.work, topology.suspect, topology.dead, *topology.waits)
    return [queue.name for queue in named]


class RabbitBench:
    """A real broker. Its connections go through a wire that can be cut, ours do not."""

    counts_requeues: bool

    def __init__(self, url: str, wire: Wire, outside: Outside) -> None:
        self._wire = wire
        self._outside = outside
        self.topology = Topology(f"contract-{uuid.uuid4().hex}")
        way = access(url, wire.port)
        self.user = way.nodes[0].user
        self.broker = RabbitBroker(way, self.topology, chance=lambda: 0.1)
        version = str(outside.connection.server_properties["version"]).split(".")
        self.counts_requeues = (int(version[0]), int(version[1])) < (4, 3)

    def monotonic(self) -> float:
        return time.monotonic()

    async def prepare(self) -> None:
        await self.broker.connect(PATIENCE)

    async def start(self, *lanes: Lane) -> None:
        await self.broker.consume(lanes)

    async def stop_consuming(self) -> None:
        await self.broker.stop_consuming()

    async def close(self) -> None:
        await self.broker.close()

    async def put(self, body: bytes, properties: Properties | None = None, queue: str | None = None) -> None:
        await self._outside.put(queue or self.topology.name, body, properties or Properties())

    async def messages(self, queue: str) -> list[Message]:
        return await self._outside.messages(queue)

    async def count(self, queue: str) -> int:
        return await self._outside.count(queue)

    async def lose_session(self) -> None:
        self._wire.refusing = True
        self._wire.cut()
        await until(lambda: not self.broker.consuming)

    async def reconnect(self) -> None:
        self._wire.refusing = False
        await until(lambda: self.broker.consuming)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def memory_bench() -> AsyncIterator[Bench]:
    yield MemoryBench()


@contextlib.asynccontextmanager
async def rabbit_bench(url: str, leftovers: Leftovers) -> AsyncIterator[Bench]:
    parts = urlsplit(url)
    async with outside(url) as other, Wire(parts.hostname or "127.0.0.1", parts.port or 5672) as wire:
        bench = RabbitBench(url, wire, other)
        leftovers.add(url, bench.topology)
        await bench.prepare()
        try:
            yield bench
        finally:
            await bench.close()
