"""Going through a queue: passes, rates, faults in between; on a real broker."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.amqp.contract import until_known
from worker.amqp.connecting import Access, Node, Unreachable, open_connection
from worker.amqp.holding import Held, Holder, Slices
from worker.amqp.publisher import Publisher
from worker.amqp.queues import passive_count, prepare
from worker.cli.sweeping import CannotMove, Move, Orders, Sweep
from worker.core.broker import PublishFailed, Unroutable
from worker.core.message import Message, Outgoing, Properties
from worker.core.topology import Topology
from worker.core.units import Rate


class Yard:
    """A dead queue to go through and a work queue to fill, both of the test's own."""

    def __init__(self, url: str) -> None:
        self.access = Access((Node(url, "broker", urlsplit(url).username or "guest"),), name="test")
        self.topology = Topology(f"sweep-{uuid.uuid4().hex[:8]}")
        self.publisher = Publisher(self.access)
        self.copies: list[str] = []
        self.slices = Slices(messages=5)
        self.failures: list[tuple[str, str]] = []

    async def put(self, *names: str) -> None:
        for name in names:
            properties = Properties(message_id=str(uuid.uuid4()), app_id=name)
            await self.publisher.publish(Outgoing(self.topology.dead_name, Message(b"{}", properties)))

    async def open(self) -> Holder[Message]:
        connected = await open_connection(self.access, "sweep")
        return Holder(connected, self.topology.dead_name, lambda message: (message, 0), self.slices)

    def move(self, message: Message) -> Move | None:
        """All but what is called "left"."""
        assert isinstance(message.properties, Properties)
        name = message.properties.app_id or ""
        if name == "left":
            return None
        if name == "bad":
            raise CannotMove(name, "it is bad")
        copy = Outgoing(self.topology.name, Message(b"", Properties(message_id=str(uuid.uuid4()), app_id=name)))
        return Move(name, copy, identity=message.properties.message_id)

    async def publish(self, outgoing: Outgoing) -> None:
        assert isinstance(outgoing.message.properties, Properties)
        await self.publisher.publish(outgoing)
        self.copies.append(outgoing.message.properties.app_id or "")

    def sweep(self, **others: Any) -> Sweep[Message]:
        usual: dict[str, Any] = {"open": self.open, "move": self.move, "publish": self.publish, "window": 1000}
        return Sweep(Orders(**usual | {"on_failed": lambda *told: self.failures.append(told)} | others))

    async def count(self, queue: str) -> int | None:
        connected = await open_connection(self.access, "count")
        try:
            return await passive_count(connected.amqp, queue)
        finally:
            await connected.close()

    async def is_left(self, number: int) -> None:
        async def back() -> bool:
            return await self.count(self.topology.dead_name) == number

        await until_known(back)


@pytest.fixture
async def yard(rabbitmq: Any) -> AsyncIterator[Yard]:
    found = Yard(rabbitmq.url)
    connected = await open_connection(found.access, "yard")
    await prepare(connected.amqp, [found.topology.dead, found.topology.work], "declare")
    yield found
    await found.publisher.close()
    channel = await connected.amqp.channel()
    for queue in (found.topology.dead_name, found.topology.name):
        await channel.queue_delete(queue)
    await connected.close()


def names(number: int) -> list[str]:
    return [f"job-{one}" for one in range(number)]


async def test_what_is_wanted_is_moved_and_the_rest_stays(yard: Yard) -> None:
    await yard.put("left", *names(12), "left", "bad")
    swept = await yard.sweep().run()
    assert (swept.total, swept.looked_at, swept.done, swept.failed) == (15, 15, 12, 1)
    assert sorted(yard.copies) == sorted(names(12))
    assert yard.failures == [("bad", "it is bad")]
    await yard.is_left(3)
    assert await yard.count(yard.topology.name) == 12


async def test_each_that_cannot_be_moved_counts_and_the_same_words_are_said_once(yard: Yard) -> None:
    await yard.put("bad", *names(6), "bad", "bad", *names(6))
    swept = await yard.sweep(rate=Rate(20, 1.0), longest_pass=0.15).run()
    assert (swept.done, swept.failed) == (12, 3)
    assert yard.failures == [("bad", "it is bad")]


async def test_what_comes_meanwhile_is_left_alone(yard: Yard) -> None:
    await yard.put(*names(12))

    async def publish(outgoing: Outgoing) -> None:
        await yard.publish(outgoing)
        await yard.put("again")  # it dies again at once, as jobs do

    swept = await yard.sweep(publish=publish).run()
    assert swept.done == 12
    assert "again" not in yard.copies
    await yard.is_left(12)


async def test_a_window_ends_it(yard: Yard) -> None:
    await yard.put("left", *names(12))
    swept = await yard.sweep(window=8).run()
    assert (swept.total, swept.window, swept.looked_at, swept.done) == (13, 8, 8, 7)
    assert yard.copies == names(7)
    await yard.is_left(6)


async def test_a_rate_is_kept(yard: Yard) -> None:
    await yard.put("left", *names(11))
    started = time.monotonic()
    await yard.sweep(rate=Rate(20, 1.0)).run()
    assert time.monotonic() - started >= 10 / 20
    assert yard.copies == names(11)


async def test_messages_are_not_held_for_long(yard: Yard) -> None:
    await yard.put("left", *names(6), "left", "bad", *names(6))
    opened = itertools.count()

    async def opening() -> Holder[Message]:
        next(opened)
        return await yard.open()

    swept = await yard.sweep(open=opening, rate=Rate(20, 1.0), longest_pass=0.15).run()
    assert next(opened) > 2
    assert (swept.done, swept.failed, swept.looked_at) == (12, 1, 15)
    assert yard.copies == [*names(6), *names(6)]
    assert len(yard.failures) == 1
    await yard.is_left(3)


async def test_a_queue_that_takes_nothing_ends_it(yard: Yard) -> None:
    await yard.put(*names(12))

    async def publish(_outgoing: Outgoing) -> None:
        raise Unroutable("there is no such queue")

    swept = await yard.sweep(publish=publish, rate=Rate(100, 1.0)).run()
    assert (swept.done, swept.failed) == (0, 1)
    assert yard.failures == [("job-0", "there is no such queue")]
    await yard.is_left(12)


class Faulty(Holder[Message]):
    """Its acknowledgements are lost from that of "job-3" on, and its connection at "job-7"."""

    lost = False

    async def take(self, held: Held[Message]) -> None:
        assert isinstance(held.what.properties, Properties)
        self.lost = self.lost or held.what.properties.app_id == "job-3"
        if held.what.properties.app_id == "job-7":
            self._connected.line.cut()
        if not self.lost or held.what.properties.app_id == "job-7":
            await super().take(held)


async def test_what_comes_back_is_not_copied_twice(yard: Yard) -> None:
    await yard.put("left", *names(12))
    kinds: Iterator[type[Holder[Message]]] = iter([Faulty, Holder])

    async def opening() -> Holder[Message]:
        holder = await yard.open()
        holder.__class__ = next(kinds)
        return holder

    swept = await yard.sweep(open=opening, rate=Rate(1000, 1.0)).run()
    assert swept.done == 12
    assert yard.copies == names(12)
    await yard.is_left(1)


async def test_a_copy_that_was_not_confirmed_is_made_again(yard: Yard) -> None:
    await yard.put(*names(3))
    fails = iter([True])

    async def publish(outgoing: Outgoing) -> None:
        if next(fails, False):
            raise PublishFailed("the publishing connection broke")
        await yard.publish(outgoing)

    swept = await yard.sweep(publish=publish, rate=Rate(1000, 1.0)).run()
    assert swept.done == 3
    assert yard.copies == names(3)


async def test_a_broker_that_stays_away_is_told(yard: Yard) -> None:
    tries = itertools.count()

    async def nobody() -> Holder[Message]:
        next(tries)
        raise Unreachable("nobody answers")

    with pytest.raises(Unreachable):
        await yard.sweep(open=nobody).run()
    assert next(tries) == 3


async def test_what_was_done_is_safe_when_it_is_interrupted(yard: Yard) -> None:
    await yard.put(*names(12))
    reached = asyncio.Event()

    def tell(move: Move) -> None:
        if move.name == "job-7":
            reached.set()

    sweep = yard.sweep(rate=Rate(50, 1.0), on_done=tell)
    task = asyncio.create_task(sweep.run())
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sweep.swept.done >= 8
    await yard.is_left(12 - sweep.swept.done)
    assert yard.copies == names(sweep.swept.done)
