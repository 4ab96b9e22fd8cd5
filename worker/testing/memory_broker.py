"""RabbitMQ in memory, as far as the worker relies on it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from worker.core.broker import EpochLost, Lane, Undeliverable, Unroutable
from worker.core.message import Delivery, Epoch, Message, Outgoing, Properties
from worker.core.topology import Topology
from worker.testing.clock import ManualClock

WORKER_USER: Final = "worker"
"""The broker user of the worker here: its copies carry it, and it is trusted."""


@dataclass(slots=True)
class _Stored:
    message: Message
    queue: str
    redelivered: bool = False
    count: int = 0


class _Consumer:
    """One lane within one session."""

    def __init__(self, lane: Lane, epoch: Epoch) -> None:
        self.lane = lane
        self.epoch = epoch
        self.unacked: dict[int, _Stored] = {}
        self.taking = True
        self.has_begun = False


class MemoryBroker:
    """A broker with the queues of one work queue. Fulfils `worker.core.broker.Broker`, and lets tests look inside."""

    def __init__(self, clock: ManualClock, queue: str = "jobs") -> None:
        self.topology = Topology(queue)
        self.refusing: set[str] = set()
        """Queues that confirm no publish at present."""
        self.aside: Callable[[Outgoing], bool] = lambda _: False
        """Asked about every publish of the worker: what it takes is confirmed and gets into no queue."""
        self._clock = clock
        names = [queue, self.topology.suspect_name, self.topology.dead_name]
        names += [wait.name for wait in self.topology.waits]
        self._queues: dict[str, deque[_Stored]] = {name: deque() for name in names}
        self._own = frozenset(names) - {self.topology.dead_name}
        self._lanes: tuple[Lane, ...] = ()
        self._consumers: dict[Epoch, _Consumer] = {}
        self._tags = itertools.count(1)
        self._epochs = itertools.count(1)
        self._is_paused = False

    # What the worker calls.

    async def start(self, lanes: Iterable[Lane]) -> None:
        """Begin to consume."""
        self._lanes = tuple(lanes)
        self.reconnect()

    async def stop_consuming(self) -> None:
        """Deliver nothing more; what has been delivered can still be settled."""
        for consumer in self._consumers.values():
            consumer.taking = False

    async def pause(self) -> None:
        await asyncio.sleep(0)
        self._is_paused = True

    async def resume(self) -> None:
        await asyncio.sleep(0)
        self._is_paused = False
        for consumer in self._consumers.values():
            self._announce(consumer)
        self._feed()

    async def close(self) -> None:
        """End the session; what is not settled goes back."""
        self.lose_session()

    async def publish(self, outgoing: Outgoing) -> None:
        await asyncio.sleep(0)
        if self.aside(outgoing):
            return
        if outgoing.queue not in self._queues:
            raise Unroutable(f"no queue {outgoing.queue!r}")
        if outgoing.queue in self.refusing:
            raise Undeliverable(f"queue {outgoing.queue!r} refuses")
        properties = outgoing.message.properties
        assert isinstance(properties, Properties)
        self._arrive(outgoing.queue, replace(outgoing.message, properties=replace(properties, user_id=WORKER_USER)))

    async def ack(self, delivery: Delivery) -> None:
        self._take(delivery)
        self._feed()

    async def requeue(self, delivery: Delivery) -> None:
        self._put_back(self._take(delivery))
        self._feed()

    async def refuse(self, delivery: Delivery) -> None:
        stored = self._take(delivery)
        self._arrive(self.topology.dead_name, _with_death(stored.message, stored.queue, "rejected"))
        self._feed()

    async def flush(self, epoch: Epoch) -> None:
        await asyncio.sleep(0)
        if epoch.lost:
            raise EpochLost

    # What tests call.

    def put(self, body: bytes, properties: Properties, *, queue: str | None = None) -> None:
        """A message from a publisher."""
        self._arrive(queue or self.topology.name, Message(body, properties))

    def declare(self, queue: str) -> None:
        """One more queue, of somebody else: for replies, or for jobs of another service."""
        self._queues.setdefault(queue, deque())

    def messages(self, queue: str) -> list[Message]:
        """What is ready in a queue."""
        return [stored.message for stored in self._queues[queue]]

    @property
    def dead(self) -> list[Message]:
        """What is in the dead queue."""
        return self.messages(self.topology.dead_name)

    @property
    def unacked(self) -> int:
        """Deliveries that are not settled."""
        return sum(len(consumer.unacked) for consumer in self._consumers.values())

    @property
    def empty(self) -> bool:
        """Whether every queue of the worker but the dead one is, and nothing is unacknowledged."""
        busy = (name for name, stored in self._queues.items() if stored)
        return not self.unacked and not any(name in self._own for name in busy)

    def lose_session(self) -> None:
        """The connection breaks: every unsettled delivery goes back, flagged and counted."""
        consumers, self._consumers = list(self._consumers.values()), {}
        for consumer in consumers:
            consumer.epoch.lost = True
            for _, stored in sorted(consumer.unacked.items(), reverse=True):
                self._put_back(stored)
        for consumer in consumers:
            if consumer.has_begun:
                consumer.lane.receiver.on_lost(consumer.epoch)

    def reconnect(self) -> None:
        """A new session consumes."""
        for lane in self._lanes:
            epoch = Epoch(next(self._epochs))
            self._consumers[epoch] = _Consumer(lane, epoch)
            if not self._is_paused:
                self._announce(self._consumers[epoch])
        self._feed()

    def _announce(self, consumer: _Consumer) -> None:
        if not consumer.has_begun:
            consumer.has_begun = True
            consumer.lane.receiver.on_epoch(consumer.epoch)

    def _arrive(self, queue: str, message: Message) -> None:
        stored = _Stored(message, queue)
        self._queues[queue].append(stored)
        wait = self.topology.wait_called(queue)
        if wait is not None:
            self._clock.call_later(wait.arguments["x-message-ttl"] / 1000, lambda: self._return(queue, stored))
        else:
            self._feed()

    def _return(self, queue: str, stored: _Stored) -> None:
        self._queues[queue].remove(stored)
        self._arrive(self.topology.name, _with_death(stored.message, queue, "expired"))

    def _put_back(self, stored: _Stored) -> None:
        self._queues[stored.queue].appendleft(replace(stored, redelivered=True, count=stored.count + 1))

    def _take(self, delivery: Delivery) -> _Stored:
        consumer = self._consumers.get(delivery.epoch)
        if delivery.epoch.lost or consumer is None:
            raise EpochLost
        stored = consumer.unacked.pop(delivery.tag, None)
        if stored is None:
            raise AssertionError(f"delivery {delivery.tag} was settled twice")
        return stored

    def _feed(self) -> None:
        if self._is_paused:
            return
        for consumer in list(self._consumers.values()):
            ready = self._queues[consumer.lane.queue]
            while consumer.taking and ready and len(consumer.unacked) < consumer.lane.prefetch:
                stored, tag = ready.popleft(), next(self._tags)
                consumer.unacked[tag] = stored
                message, received = _counted(stored), self._clock.monotonic()
                consumer.lane.receiver.on_delivery(Delivery(message, tag, stored.redelivered, consumer.epoch, received))


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
