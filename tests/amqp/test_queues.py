"""Queues at the broker: declared, only looked for, or left alone; and all that is wrong with them told at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest

from tests.amqp.contract import Leftovers, Outside, Recorder, access, all_queues, outgoing, outside
from worker.amqp.broker import RabbitBroker
from worker.amqp.connecting import Connected, Refused, Unreachable, open_connection
from worker.amqp.queues import Mode, conflicts, passive_count
from worker.core.broker import Lane, PublishFailed
from worker.core.topology import RUNGS, Topology
from worker.dev.node import Node

LOCKED, PASSWORD = "locked", "locked-down"


class Located(Protocol):
    @property
    def url(self) -> str: ...


@pytest.fixture(scope="module")
def leftovers() -> Iterator[Leftovers]:
    left = Leftovers()
    yield left
    left.delete()


@pytest.fixture
def topology(rabbitmq: Located, leftovers: Leftovers) -> Topology:
    made = Topology(f"queues-{uuid.uuid4().hex}")
    leftovers.add(rabbitmq.url, made)
    return made


@pytest.fixture
async def other(rabbitmq: Located) -> AsyncIterator[Outside]:
    async with outside(rabbitmq.url) as other:
        yield other


@pytest.fixture
async def connected(rabbitmq: Located) -> AsyncIterator[Connected]:
    connected = await open_connection(access(rabbitmq.url), "test")
    yield connected
    await connected.close()


@pytest.fixture
async def locked(node: Node, topology: Topology, leftovers: Leftovers) -> AsyncIterator[Topology]:
    """Every queue is there, and the user `locked` may read and write but configure nothing."""
    leftovers.add(node.url, topology)
    async with outside(node.url) as other:
        await declare(other, topology)
    await asyncio.to_thread(node.ctl, "add_user", LOCKED, PASSWORD)
    await asyncio.to_thread(node.ctl, "set_permissions", LOCKED, "^$", ".*", ".*")
    yield topology
    await asyncio.to_thread(node.ctl, "delete_user", LOCKED)


async def declare(other: Outside, topology: Topology, *, ladder: bool = True) -> None:
    for queue in (topology.work, topology.suspect, topology.dead, *(topology.waits if ladder else ())):
        await other.declare(queue.name, dict(queue.arguments))


async def refusal(url: str, topology: Topology, mode: Mode) -> list[str]:
    broker = RabbitBroker(access(url), topology, mode)
    with pytest.raises(Refused) as refused:
        await broker.connect(5)
    await broker.close()
    return str(refused.value).splitlines()


async def test_every_conflict_is_told_at_once_with_the_argument_and_the_fix(
    rabbitmq: Located, topology: Topology, other: Outside
) -> None:
    wrong = {**topology.work.arguments, "x-message-ttl": 1000}
    await other.declare(topology.work.name, wrong)
    await other.declare(topology.dead.name, {"x-queue-type": "classic"})

    dead, work = await refusal(rabbitmq.url, topology, "declare")

    assert topology.dead.name in dead
    assert "'x-queue-type'" in dead
    assert topology.work.name in work
    assert "'x-message-ttl'" in work
    for line in (dead, work):
        assert "delete the queue" in line
        assert "WORKER_TOPOLOGY=passive" in line


async def test_declared_are_the_queues_that_are_needed_at_once(
    rabbitmq: Located, topology: Topology, other: Outside
) -> None:
    broker = RabbitBroker(access(rabbitmq.url), topology)
    await broker.connect(5)
    found = [await other.exists(queue) for queue in all_queues(topology)]
    assert found == [True] * 3 + [False] * len(RUNGS)

    await broker.publish(outgoing(topology.wait_name(3600)))
    assert await other.count(topology.wait_name(3600)) == 1
    await broker.close()

    again = RabbitBroker(access(rabbitmq.url), topology)
    await again.connect(5)
    await again.publish(outgoing(topology.wait_name(3600)))
    await again.close()
    assert await other.count(topology.wait_name(3600)) == 2


async def test_a_rung_that_was_deleted_is_declared_when_the_publish_is_repeated(
    rabbitmq: Located, topology: Topology, other: Outside
) -> None:
    wait = topology.wait(3600)
    broker = RabbitBroker(access(rabbitmq.url), Topology(topology.name, "classic"))
    await broker.publish(outgoing(wait.name))
    await other.delete(wait.name)

    with pytest.raises(PublishFailed, match="does not exist"):
        await broker.publish(outgoing(wait.name))
    await broker.publish(outgoing(wait.name))

    assert await other.count(wait.name) == 1
    await broker.close()


async def test_a_rung_with_other_arguments_is_named(rabbitmq: Located, topology: Topology, other: Outside) -> None:
    await other.declare(topology.wait_name(3600), {"x-message-ttl": 1})
    broker = RabbitBroker(access(rabbitmq.url), topology)

    with pytest.raises(PublishFailed, match="there with other arguments"):
        await broker.publish(outgoing(topology.wait_name(3600)))
    await broker.publish(outgoing(topology.wait_name(1800)))

    await broker.close()


async def test_passive_names_every_queue_that_is_missing(rabbitmq: Located, topology: Topology, other: Outside) -> None:
    await declare(other, topology, ladder=False)

    lines = await refusal(rabbitmq.url, topology, "passive")

    assert len(lines) == len(RUNGS)
    for line, wait in zip(lines, topology.waits, strict=True):
        assert repr(wait.name) in line
        assert "WORKER_TOPOLOGY=declare" in line
    assert not await other.exists(topology.wait_name(1))


async def test_passive_asks_only_whether_they_are_there(rabbitmq: Located, topology: Topology, other: Outside) -> None:
    for queue in all_queues(topology):
        await other.declare(queue, {})
    broker, recorder = RabbitBroker(access(rabbitmq.url), topology, "passive"), Recorder()
    await broker.connect(5)
    await broker.consume([Lane(topology.name, 1, recorder)])
    await broker.publish(outgoing(topology.name))
    await recorder.count(1)
    await broker.close()


async def test_none_looks_at_nothing(rabbitmq: Located, topology: Topology, other: Outside) -> None:
    broker, recorder = RabbitBroker(access(rabbitmq.url), topology, "none"), Recorder()
    await broker.connect(5)
    assert not await other.exists(topology.name)

    with pytest.raises(Unreachable, match=topology.name):
        await broker.consume([Lane(topology.name, 1, recorder)])

    assert recorder.events == ["epoch", "lost"]
    await broker.close()


async def test_a_user_that_may_not_declare_is_told_what_to_do(node: Node, locked: Topology) -> None:
    broker = RabbitBroker(access(node.url, user=LOCKED, password=PASSWORD), locked)
    with pytest.raises(Refused) as refused:
        await broker.connect(5)

    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    for line, queue in zip(lines, (locked.dead, locked.suspect, locked.work), strict=True):
        assert repr(queue.name) in line
        assert "WORKER_TOPOLOGY=none" in line


@pytest.mark.parametrize("mode", ["passive", "none"])
async def test_a_user_that_may_not_declare_can_work(node: Node, locked: Topology, mode: Mode) -> None:
    broker = RabbitBroker(access(node.url, user=LOCKED, password=PASSWORD), locked, mode)
    recorder = Recorder()
    await broker.connect(5)
    await broker.consume([Lane(locked.name, 1, recorder)])
    await broker.publish(outgoing(locked.wait_name(3600)))
    await broker.publish(outgoing(locked.name))
    (delivery,) = await recorder.count(1)
    await broker.ack(delivery)
    await broker.flush(delivery.epoch)
    await broker.close()


async def test_conflicts_are_none_where_all_is_well(topology: Topology, connected: Connected) -> None:
    for _ in range(2):
        assert await conflicts(connected.amqp, topology.waits, "declare") == []
    assert await conflicts(connected.amqp, topology.waits, "passive") == []


async def test_counting_what_is_ready(topology: Topology, other: Outside, connected: Connected) -> None:
    assert await passive_count(connected.amqp, topology.name) is None
    await other.declare(topology.name, dict(topology.work.arguments))
    assert await passive_count(connected.amqp, topology.name) == 0
    await other.put_many(topology.name, [b"0", b"1"])
    assert await passive_count(connected.amqp, topology.name) == 2
