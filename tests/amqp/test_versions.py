"""What RabbitMQ does differently from version to version, and what the worker makes of it on each."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from tests.amqp.contract import Recorder, access, all_queues, outgoing, until
from tests.conftest import installation
from worker.amqp.broker import RabbitBroker
from worker.amqp.connecting import open_connection
from worker.amqp.replies import Replies
from worker.core.broker import Lane
from worker.core.message import Delivery, Properties
from worker.core.topology import Topology
from worker.dev.node import Node

TIMEOUT = 1_000
"""Milliseconds of the broker's consumer timeout, here."""

CANCELS = (4, 3)
"""From here on a consumer timeout cancels the consumer; before, it closes the channel."""

FORGIVES = (4, 3)
"""From here on only what failed counts as a delivery that failed; before, whatever came back."""

REFUSES = (3, 13)
"""From here on a broker can be told to refuse what later versions have not."""


@pytest.fixture
def version(node: Node) -> tuple[int, ...]:
    return tuple(int(part) for part in node.version.split(".")[:2])


@pytest.fixture
async def impatient(node: Node) -> AsyncIterator[Node]:
    """A node whose consumer timeout is short, and looked after often."""
    setting = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    await asyncio.to_thread(node.ctl, "eval", setting.format(TIMEOUT, 500))
    try:
        yield node
    finally:
        await asyncio.to_thread(node.ctl, "eval", setting.format(1_800_000, 60_000))


@dataclass
class Stage:
    broker: RabbitBroker
    topology: Topology
    recorder: Recorder = field(default_factory=Recorder)
    changes: list[bool] = field(default_factory=list)


@contextlib.asynccontextmanager
async def consuming(node: Node) -> AsyncIterator[Stage]:
    topology = Topology(f"versions-{uuid.uuid4().hex}")
    changes: list[bool] = []
    broker = RabbitBroker(access(node.url), topology, on_change=changes.append, chance=lambda: 0.1)
    stage = Stage(broker, topology, changes=changes)
    try:
        await broker.connect(10)
        await broker.consume([Lane(topology.name, 10, stage.recorder)])
        yield stage
    finally:
        await broker.close()


def failures(delivery: Delivery) -> object:
    """How often the broker says that this message was delivered in vain."""
    assert isinstance(delivery.message.properties, Properties)
    return delivery.message.properties.headers.get("x-delivery-count", 0)


async def test_a_delivery_that_is_held_too_long_comes_again_on_a_new_session(
    impatient: Node, version: tuple[int, ...]
) -> None:
    with capture_logs() as logs:
        async with consuming(impatient) as stage:
            await stage.broker.publish(outgoing(stage.topology.name, b"long"))
            first, again = await stage.recorder.count(2)
            await stage.broker.ack(again)
            await stage.broker.flush(again.epoch)
            assert stage.broker.consuming

    assert stage.changes == [True, False, True]
    assert first.epoch.lost
    assert again.redelivered
    assert failures(again) == (0 if version >= FORGIVES else 1)
    reason = next(line["reason"] for line in logs if line["event"] == "session.lost")
    words = "consumer timeout" if version >= CANCELS else f"Timeout value used: {TIMEOUT} ms"
    assert stage.topology.name in reason
    assert words in reason


async def test_a_consumer_that_dies_counts_as_a_failed_delivery_everywhere(node: Node) -> None:
    """By this the worker knows the jobs that may have killed one."""
    async with consuming(node) as stage:
        await stage.broker.publish(outgoing(stage.topology.name, b"deadly"))
        for deaths in range(3):
            delivery = (await stage.recorder.count(deaths + 1))[deaths]
            assert failures(delivery) == deaths
            await asyncio.to_thread(node.ctl, "close_all_connections", "as if it had died")
            await until(lambda deaths=deaths: stage.changes.count(False) == deaths + 1)  # type: ignore[misc]
        last = (await stage.recorder.count(4))[3]
        assert failures(last) == 3
        await stage.broker.ack(last)
        await stage.broker.flush(last.epoch)


@pytest.fixture
def strict(node: Node, version: tuple[int, ...]) -> Iterator[Node]:
    """A node that refuses what later versions will refuse."""
    if version < REFUSES:
        pytest.skip(f"RabbitMQ {node.version} cannot be told to refuse what is deprecated")
    conf = [f"deprecated_features.permit.{name} = false" for name in ("transient_nonexcl_queues", "global_qos")]
    with Node(installation(), name="strict", conf=conf) as found:
        yield found


async def test_nothing_is_used_that_later_versions_refuse(strict: Node) -> None:
    async with consuming(strict) as stage:
        for queue in all_queues(stage.topology):
            await stage.broker.publish(outgoing(queue))  # which declares the rungs of the ladder
        await stage.recorder.count(1)
        replies = await Replies.over(await open_connection(access(strict.url), "replies"))
        await stage.broker.publish(outgoing(replies.queue, b"done"))
        assert (await replies.next()).body == b"done"
        await replies.close()
