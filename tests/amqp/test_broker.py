"""The real broker's own faults: what is lost comes back by itself, and nothing is lost with it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest
from structlog.testing import capture_logs

from tests.amqp.contract import (
    Leftovers,
    Outside,
    Recorder,
    access,
    outgoing,
    outside,
    publish_until_confirmed,
    until,
    until_known,
)
from tests.amqp.wire import Wire
from worker.amqp import connecting
from worker.amqp.broker import RabbitBroker
from worker.amqp.queues import Mode
from worker.core.broker import EpochLost, Lane, PublishFailed
from worker.core.message import Delivery, Epoch
from worker.core.topology import Topology
from worker.dev.node import Node

YOUNG = 2.0
"""Seconds. A quorum queue that is younger when its node is killed comes back empty, confirmed messages and all."""

ACKS_ARRIVE = 0.3
"""Seconds. A quorum queue loses acks that are followed sooner by the end of their connection."""


class Located(Protocol):
    @property
    def url(self) -> str: ...


@dataclass
class Stage:
    """A broker that consumes its work queue, who is told, and what it says of itself."""

    broker: RabbitBroker
    topology: Topology
    url: str
    recorder: Recorder = field(default_factory=Recorder)
    changes: list[bool] = field(default_factory=list)

    async def put(self, *bodies: bytes) -> None:
        async with outside(self.url) as other:
            await other.put_many(self.topology.name, list(bodies))

    async def count(self, queue: str) -> int:
        async with outside(self.url) as other:
            return await other.count(queue)

    async def started(self) -> None:
        """Return once the work queue dead-letters: before that it may not be deleted, see `Leftovers`."""
        await self.put(b"to be refused")
        await self.broker.refuse((await self.recorder.count(1))[0])
        await until_known(self._has_dead_letter)

    async def _has_dead_letter(self) -> bool:
        return await self.count(self.topology.dead_name) == 1

    async def settled(self, *deliveries: Delivery) -> None:
        """Ack these, and see to it that the acks stay."""
        for delivery in deliveries:
            await self.broker.ack(delivery)
        await self.broker.flush(deliveries[0].epoch)
        await asyncio.sleep(ACKS_ARRIVE)


LEFTOVERS = Leftovers()


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    LEFTOVERS.delete()


@contextlib.asynccontextmanager
async def consuming(
    url: str, *, prefetch: int = 100, mode: Mode = "declare", port: int | None = None, chance: float = 0.1
) -> AsyncIterator[Stage]:
    topology = Topology(f"broker-{uuid.uuid4().hex}")
    changes: list[bool] = []
    way = replace(access(url, port), name=topology.name)
    broker = RabbitBroker(way, topology, mode, on_change=changes.append, chance=lambda: chance)
    stage = Stage(broker, topology, url, changes=changes)
    LEFTOVERS.add(url, topology)
    async with outside(url) as other:
        if mode != "declare":
            await declare(other, topology)
    try:
        await broker.connect(10)
        await broker.consume([Lane(topology.name, prefetch, stage.recorder)])
        yield stage
    finally:
        await broker.close()


async def declare(other: Outside, topology: Topology) -> None:
    for queue in (topology.work, topology.suspect, topology.dead, *topology.waits):
        await other.declare(queue.name, dict(queue.arguments))


async def ctl(node: Node, *arguments: str) -> str:
    return await asyncio.to_thread(node.ctl, *arguments)


async def connection_pid(node: Node, name: str) -> str:
    """The broker's process of the connection of that name."""
    lines = (await ctl(node, "list_connections", "pid", "client_properties")).splitlines()
    (found,) = (line.split("\t")[0] for line in lines if name in line)
    return found


async def unanswered_flush(stage: Stage, epoch: Epoch) -> asyncio.Task[None]:
    """A flush the broker does not answer, being frozen; it may still have answered one that was asked for before."""
    while True:
        flushing = asyncio.create_task(stage.broker.flush(epoch))
        answered, _ = await asyncio.wait({flushing}, timeout=0.2)
        if not answered:
            return flushing


async def test_acks_right_before_the_end_are_not_lost(rabbitmq: Located) -> None:
    async with consuming(rabbitmq.url, prefetch=1000) as stage:
        await stage.put(*(b"%d" % number for number in range(500)))
        deliveries = await stage.recorder.count(500)

        await asyncio.gather(*map(stage.broker.ack, deliveries))
        await stage.broker.flush(deliveries[0].epoch)
        await asyncio.sleep(ACKS_ARRIVE)
        await stage.broker.close()

        await asyncio.sleep(ACKS_ARRIVE)
        assert await stage.count(stage.topology.name) == 0


async def test_it_consumes_again_after_the_broker_closed_every_connection(node: Node) -> None:
    async with consuming(node.url) as stage:
        await stage.put(b"0", b"1")
        first, second = await stage.recorder.count(2)
        await stage.settled(first)
        await stage.broker.publish(outgoing(stage.topology.dead_name))

        await ctl(node, "close_all_connections", "a test")
        await until(lambda: stage.changes == [True, False, True])

        assert stage.broker.consuming
        assert second.epoch.lost
        again = (await stage.recorder.count(3))[2]
        assert (again.message.body, again.redelivered) == (b"1", True)
        await stage.broker.ack(again)
        await publish_until_confirmed(stage.broker, outgoing(stage.topology.dead_name))
        assert await stage.count(stage.topology.dead_name) == 2


async def test_nothing_is_lost_when_the_broker_is_killed(node: Node) -> None:
    async with consuming(node.url, prefetch=10) as stage:
        await stage.put(*(b"%d" % number for number in range(20)))
        before = list(await stage.recorder.count(10))
        await stage.settled(*before[:5])
        await stage.recorder.count(15)
        await asyncio.sleep(YOUNG)

        await asyncio.to_thread(node.kill)
        await until(lambda: stage.changes == [True, False])
        assert not stage.broker.consuming
        stage.recorder.deliveries.clear()
        await asyncio.to_thread(node.start)
        await until(lambda: stage.changes == [True, False, True])

        seen = 0
        while seen < 15:
            await stage.recorder.count(seen + 1)
            await stage.broker.ack(stage.recorder.deliveries[seen])
            seen += 1
        settled = {delivery.message.body for delivery in before[:5]}
        assert sorted(stage.recorder.bodies) == sorted({b"%d" % number for number in range(20)} - settled)


async def test_a_deleted_queue_is_declared_again(rabbitmq: Located) -> None:
    async with consuming(rabbitmq.url) as stage, outside(rabbitmq.url) as other:
        await stage.started()
        await other.delete(stage.topology.name)
        await until(lambda: stage.changes == [True, False, True])

        await stage.put(b"later")

        await stage.recorder.count(2)
        assert stage.recorder.events == ["epoch", "delivery", "lost", "epoch", "delivery"]


async def test_a_deleted_queue_stays_deleted_where_it_may_not_be_declared(rabbitmq: Located) -> None:
    async with consuming(rabbitmq.url, mode="passive") as stage, outside(rabbitmq.url) as other:
        await stage.started()
        with capture_logs() as logs:
            await other.delete(stage.topology.name)
            await until(lambda: [line["event"] for line in logs].count("broker.unreachable") >= 3)

        assert stage.changes == [True, False]
        assert not stage.broker.consuming
        assert not await other.exists(stage.topology.name)
        said = next(line for line in logs if line["event"] == "broker.unreachable")
        assert said["log_level"] == "error"
        assert stage.topology.name in said["reason"]

        await declare(other, stage.topology)
        await until(lambda: stage.changes == [True, False, True])
        await stage.put(b"later")
        await stage.recorder.count(2)


async def test_during_an_alarm_acks_flow_and_publishes_wait(node: Node) -> None:
    async with consuming(node.url, prefetch=2) as stage:
        await stage.put(b"0", b"1", b"2", b"3")
        first, second = await stage.recorder.count(2)
        wait, dead = stage.topology.wait_name(3600), stage.topology.dead_name
        await stage.broker.publish(outgoing(dead))

        await ctl(node, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            parked = [asyncio.create_task(stage.broker.publish(outgoing(queue))) for queue in (dead, wait)]
            await until(lambda: stage.broker.blocked)
            await stage.settled(first, second)

            await stage.recorder.count(4)
            assert not any(publish.done() for publish in parked)
            assert stage.broker.consuming
        finally:
            await ctl(node, "set_vm_memory_high_watermark", "0.4")

        await asyncio.gather(*parked)
        assert [await stage.count(queue) for queue in (dead, wait)] == [2, 1]
        assert not stage.broker.blocked


async def test_a_queue_of_the_ladder_that_is_new_during_an_alarm(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "RPC_SECONDS", 1.0)  # a declaration on a blocked connection would get no answer
    async with consuming(node.url) as stage:
        await stage.broker.publish(outgoing(stage.topology.dead_name))
        await ctl(node, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            waiting = asyncio.create_task(stage.broker.publish(outgoing(stage.topology.dead_name)))
            await until(lambda: stage.broker.blocked)
            new = asyncio.create_task(stage.broker.publish(outgoing(stage.topology.wait_name(3600))))
            done, _ = await asyncio.wait({new}, timeout=1.5)
            assert not done
        finally:
            await ctl(node, "set_vm_memory_high_watermark", "0.4")
        await asyncio.gather(waiting, new)
        assert await stage.count(stage.topology.wait_name(3600)) == 1


async def test_the_loss_of_the_publishing_connection_does_not_disturb_the_consumer(node: Node) -> None:
    async with consuming(node.url) as stage:
        await stage.put(b"0")
        (delivery,) = await stage.recorder.count(1)
        dead = stage.topology.dead_name
        await stage.broker.publish(outgoing(dead))

        pid = await connection_pid(node, f"{stage.topology.name} publish")
        await ctl(node, "close_connection", pid, "a test")
        await publish_until_confirmed(stage.broker, outgoing(dead))

        assert await stage.count(dead) == 2
        assert not delivery.epoch.lost
        await stage.broker.ack(delivery)
        await stage.broker.flush(delivery.epoch)
        assert stage.changes == [True]


async def test_a_queue_that_is_full_refuses_until_there_is_room(rabbitmq: Located) -> None:
    async with consuming(rabbitmq.url) as stage, outside(rabbitmq.url) as other:
        full = stage.topology.wait_name(3600)
        await other.declare(full, {"x-max-length": 1, "x-overflow": "reject-publish"})
        publisher = RabbitBroker(access(rabbitmq.url), Topology("never declared"))
        try:
            await publisher.publish(outgoing(full))
            with pytest.raises(PublishFailed, match="takes nothing"):
                await publisher.publish(outgoing(full))
            assert await other.count(full) == 1

            await other.messages(full)
            await (await other.connection.channel()).queue_purge(full)
            await publisher.publish(outgoing(full))
            assert await other.count(full) == 1
        finally:
            await publisher.close()


async def test_the_end_does_not_wait_for_a_frozen_broker(node: Node) -> None:
    async with consuming(node.url) as stage:
        await stage.put(b"0")
        (delivery,) = await stage.recorder.count(1)
        await stage.broker.publish(outgoing(stage.topology.dead_name))
        node.freeze()
        try:
            flushing = await unanswered_flush(stage, delivery.epoch)
            pending = asyncio.create_task(stage.broker.publish(outgoing(stage.topology.dead_name)))
            await asyncio.sleep(0)
            began = time.monotonic()
            await stage.broker.close()
            took = time.monotonic() - began
            ends = await asyncio.gather(pending, flushing, return_exceptions=True)
        finally:
            node.thaw()
        assert took < 2 * connecting.CLOSE_SECONDS + 1
        assert [type(end) for end in ends] == [PublishFailed, EpochLost]


async def test_a_frozen_broker_is_noticed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "HEARTBEAT", 1)  # noticed after three times as long, and one beat more each time
    async with consuming(node.url) as stage:
        await stage.put(b"0")
        (delivery,) = await stage.recorder.count(1)
        await stage.broker.publish(outgoing(stage.topology.dead_name))
        node.freeze()
        try:
            flushing = await unanswered_flush(stage, delivery.epoch)
            pending = asyncio.create_task(stage.broker.publish(outgoing(stage.topology.dead_name)))
            ends = await asyncio.gather(pending, flushing, return_exceptions=True)
            await until(lambda: stage.changes == [True, False])
        finally:
            node.thaw()
        assert [type(end) for end in ends] == [PublishFailed, EpochLost]
        await until(lambda: stage.changes == [True, False, True])
        await stage.recorder.count(2)
        await publish_until_confirmed(stage.broker, outgoing(stage.topology.dead_name))


async def test_told_to_stop_during_an_outage_it_does_not_begin_again(rabbitmq: Located) -> None:
    port = int(rabbitmq.url.rstrip("/").rpartition(":")[2])
    async with Wire("127.0.0.1", port) as wire, consuming(rabbitmq.url, port=wire.port) as stage:
        await stage.put(b"0")
        await stage.recorder.count(1)
        wire.refusing = True
        wire.cut()
        await until(lambda: stage.changes == [True, False])

        await stage.broker.stop_consuming()
        wire.refusing = False
        await asyncio.sleep(1)

        assert stage.recorder.events == ["epoch", "delivery", "lost"]
        assert stage.changes == [True, False]
        assert await stage.count(stage.topology.name) == 1


@pytest.mark.parametrize("moment", [0.0, 0.005, 0.01, 0.02, 0.03])
async def test_the_end_in_the_middle_of_an_outage_leaves_nothing_behind(rabbitmq: Located, moment: float) -> None:
    port = int(rabbitmq.url.rstrip("/").rpartition(":")[2])
    before = asyncio.all_tasks()
    async with Wire("127.0.0.1", port) as wire:
        async with consuming(rabbitmq.url, port=wire.port, chance=0.0) as stage:
            wire.cut()
            await until(lambda: False in stage.changes)
            await asyncio.sleep(moment)  # so that another step of connecting is interrupted
            await stage.broker.close()
            with pytest.raises(PublishFailed):
                await stage.broker.publish(outgoing(stage.topology.dead_name))
        assert wire.open == 0
    await until(lambda: asyncio.all_tasks() <= before, within=5)
    assert stage.recorder.events.count("epoch") == stage.recorder.events.count("lost")


async def test_it_survives_a_line_that_is_cut_again_and_again(rabbitmq: Located) -> None:
    port = int(rabbitmq.url.rstrip("/").rpartition(":")[2])
    async with Wire("127.0.0.1", port) as wire, consuming(rabbitmq.url, port=wire.port, chance=0.0) as stage:
        await stage.put(*(b"%d" % number for number in range(10)))
        await stage.recorder.count(10)
        for pause in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08):
            wire.cut()  # each time at another point of what connecting and declaring are made of
            await asyncio.sleep(pause)
        wire.cut()
        stage.recorder.deliveries.clear()

        await stage.put(b"last")
        await until(lambda: b"last" in stage.recorder.bodies)
        await until_known(lambda: _nothing_ready(stage))
        assert {b"%d" % number for number in range(10)} | {b"last"} == set(stage.recorder.bodies)
        assert all(delivery.delivery_count >= 1 for delivery in stage.recorder.deliveries if delivery.redelivered)


async def _nothing_ready(stage: Stage) -> bool:
    return await stage.count(stage.topology.name) == 0
