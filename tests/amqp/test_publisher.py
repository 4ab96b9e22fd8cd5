"""Publishing: confirmed or PublishFailed, whatever happens to the connection; and never another exception."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import pytest

from tests.amqp.contract import Outside, access, outgoing, outside, publish_until_confirmed, until
from tests.amqp.wire import Wire
from worker.amqp import publisher as publishing
from worker.amqp.connecting import CLOSE_SECONDS, Access, Refused, Unreachable
from worker.amqp.publisher import Publisher
from worker.core.broker import PublishFailed, Undeliverable
from worker.core.message import Message, Outgoing, Properties
from worker.dev.node import Node
from worker.dev.ports import free_ports


class Located(Protocol):
    @property
    def url(self) -> str: ...


Make = Callable[[Access], Publisher]


@pytest.fixture
async def other(rabbitmq: Located) -> AsyncIterator[Outside]:
    async with outside(rabbitmq.url) as other:
        yield other


@pytest.fixture
async def queue(other: Outside) -> AsyncIterator[str]:
    name = f"publisher-{uuid.uuid4().hex}"
    await other.declare(name, {})
    yield name
    await other.delete(name)


@pytest.fixture
async def publishers() -> AsyncIterator[Make]:
    """Makes publishers, and closes them."""
    made: list[Publisher] = []

    def make(way: Access) -> Publisher:
        made.append(Publisher(way))
        return made[-1]

    yield make
    for publisher in made:
        await publisher.close()


@pytest.fixture
def publisher(rabbitmq: Located, publishers: Make) -> Publisher:
    return publishers(access(rabbitmq.url))


@pytest.fixture
async def wire(rabbitmq: Located) -> AsyncIterator[Wire]:
    async with Wire("127.0.0.1", int(rabbitmq.url.rstrip("/").rpartition(":")[2])) as wire:
        yield wire


@pytest.fixture
async def there(node: Node) -> AsyncIterator[str]:
    """A queue of the node for faults."""
    name = f"publisher-{uuid.uuid4().hex}"
    async with outside(node.url) as other:
        await other.declare(name, {})
    yield name
    async with outside(node.url) as other:
        await other.delete(name)


@pytest.fixture
def frozen(node: Node, there: str) -> Iterator[Node]:
    """A node that a test may freeze; it goes on before the queue is deleted."""
    yield node
    node.thaw()


async def ends(*publishes: asyncio.Task[None]) -> list[type]:
    return [type(end) for end in await asyncio.gather(*publishes, return_exceptions=True)]


async def test_it_connects_when_first_needed_and_once_for_all(
    wire: Wire, rabbitmq: Located, queue: str, other: Outside, publishers: Make
) -> None:
    publisher = publishers(access(rabbitmq.url, wire.port))
    assert wire.seen == 0

    await asyncio.gather(*(publisher.publish(outgoing(queue)) for _ in range(20)))

    assert wire.seen == 1
    assert await other.count(queue) == 20


async def test_opened_beforehand_it_says_why_it_cannot_be(rabbitmq: Located, publishers: Make) -> None:
    (nobody,) = free_ports(1)
    with pytest.raises(Unreachable):
        await publishers(access(rabbitmq.url, nobody)).open()
    with pytest.raises(Refused):
        await publishers(access(rabbitmq.url, password="wrong")).open()


async def test_without_a_connection_a_publish_fails_and_the_next_tries_again(
    wire: Wire, rabbitmq: Located, queue: str, other: Outside, publishers: Make
) -> None:
    wire.refusing = True
    publisher = publishers(access(rabbitmq.url, wire.port))
    with pytest.raises(PublishFailed):
        await publisher.publish(outgoing(queue))

    wire.refusing = False
    await publisher.publish(outgoing(queue))

    assert await other.count(queue) == 1


async def test_a_cut_fails_what_is_on_its_way_and_nothing_after_it(
    wire: Wire, rabbitmq: Located, queue: str, other: Outside, publishers: Make
) -> None:
    publisher = publishers(access(rabbitmq.url, wire.port))
    confirmed = 0
    for moment in [0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.03] * 2:
        publishes = [asyncio.create_task(publisher.publish(outgoing(queue, bytes(1000)))) for _ in range(100)]
        await asyncio.sleep(moment)
        wire.cut()
        async with asyncio.timeout(10):
            found = await ends(*publishes)
        assert set(found) <= {type(None), PublishFailed}
        confirmed += found.count(type(None))

    await publish_until_confirmed(publisher, outgoing(queue))

    assert confirmed + 1 <= await other.count(queue) <= 1601


async def test_a_confirm_that_does_not_come_fails_the_publish(
    frozen: Node, there: str, monkeypatch: pytest.MonkeyPatch, publishers: Make
) -> None:
    monkeypatch.setattr(publishing, "CONFIRM_SECONDS", 0.5)
    monkeypatch.setattr(publishing, "WATCH_EVERY", 0.1)
    publisher = publishers(access(frozen.url))
    await publisher.publish(outgoing(there))
    frozen.freeze()

    publishes = [asyncio.create_task(publisher.publish(outgoing(there))) for _ in range(20)]
    async with asyncio.timeout(CLOSE_SECONDS + 2):
        # One that was sent before the freeze took hold may still have been confirmed.
        assert set(await ends(*publishes)) - {type(None)} == {PublishFailed}

    frozen.thaw()
    await publish_until_confirmed(publisher, outgoing(there))


async def test_a_connection_that_is_stuck_full_is_given_up(
    frozen: Node, there: str, monkeypatch: pytest.MonkeyPatch, publishers: Make
) -> None:
    monkeypatch.setattr(publishing, "CONFIRM_SECONDS", 0.5)
    monkeypatch.setattr(publishing, "WATCH_EVERY", 0.1)
    publisher = publishers(access(frozen.url))
    await publisher.publish(outgoing(there))
    frozen.freeze()

    publishes = [asyncio.create_task(publisher.publish(outgoing(there, bytes(1 << 20)))) for _ in range(20)]
    async with asyncio.timeout(2 * CLOSE_SECONDS + 2):
        assert set(await ends(*publishes)) == {PublishFailed}

    frozen.thaw()
    await publish_until_confirmed(publisher, outgoing(there))


async def test_the_end_fails_what_is_on_its_way(frozen: Node, there: str, publishers: Make) -> None:
    publisher = publishers(access(frozen.url))
    await publisher.publish(outgoing(there))
    frozen.freeze()
    waiting = asyncio.create_task(publisher.publish(outgoing(there, bytes(1 << 22))))
    await asyncio.wait({waiting}, timeout=0.1)

    async with asyncio.timeout(CLOSE_SECONDS + 1):
        await publisher.close()
        assert await ends(waiting) == [PublishFailed]

    with pytest.raises(PublishFailed, match="closed"):
        await publisher.publish(outgoing(there))


async def test_the_end_fails_what_waits_for_the_connection(rabbitmq: Located, queue: str, publishers: Make) -> None:
    silence = asyncio.Event()
    called = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await silence.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    publisher = publishers(access(rabbitmq.url, int(server.sockets[0].getsockname()[1])))
    publishes = [asyncio.create_task(publisher.publish(outgoing(queue))) for _ in range(2)]
    await called.wait()

    await publisher.close()

    assert await ends(*publishes) == [PublishFailed] * 2
    silence.set()
    server.close()
    await server.wait_closed()


async def test_a_cancelled_publish_is_cancelled(frozen: Node, there: str, publishers: Make) -> None:
    publisher = publishers(access(frozen.url))
    await publisher.publish(outgoing(there))
    frozen.freeze()
    publish = asyncio.create_task(publisher.publish(outgoing(there, bytes(1 << 22))))
    await asyncio.wait({publish}, timeout=0.1)

    publish.cancel()

    assert await ends(publish) == [asyncio.CancelledError]
    frozen.thaw()
    await publish_until_confirmed(publisher, outgoing(there))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"type": "x" * 256}, "type"),
        ({"priority": 300}, "priority"),
        ({"timestamp": -1}, "timestamp"),
        ({"headers": {"h": object()}}, "headers"),
    ],
)
async def test_what_cannot_be_written_fails_and_is_named(
    publisher: Publisher, queue: str, other: Outside, fault: dict[str, Any], named: str
) -> None:
    with pytest.raises(PublishFailed, match=named):
        await publisher.publish(outgoing(queue, **fault))

    await publisher.publish(outgoing(queue))
    assert await other.count(queue) == 1


# The fault is found out by the broker: what is published next may still meet the old connection.
@pytest.mark.parametrize("fault", [{"headers": {"h": "x" * 140_000}}, {"expiration": "soon"}])
async def test_what_the_broker_hangs_up_on_fails_and_the_next_works(
    publisher: Publisher, queue: str, other: Outside, fault: dict[str, Any]
) -> None:
    with pytest.raises(PublishFailed):
        await publisher.publish(outgoing(queue, **fault))

    await publish_until_confirmed(publisher, outgoing(queue))
    assert await other.count(queue) == 1


async def test_a_user_that_may_not_publish(node: Node, there: str, publishers: Make) -> None:
    await asyncio.to_thread(node.ctl, "add_user", "reader", "reads")
    try:
        await asyncio.to_thread(node.ctl, "set_permissions", "reader", ".*", "^$", ".*")
        publisher = publishers(access(node.url, user="reader", password="reads"))
        for _ in range(2):
            with pytest.raises(PublishFailed):
                await publisher.publish(outgoing(there))
    finally:
        await asyncio.to_thread(node.ctl, "delete_user", "reader")


async def test_its_connection_is_one_of_its_own(wire: Wire, rabbitmq: Located, queue: str, publishers: Make) -> None:
    way: Access = replace(access(rabbitmq.url, wire.port), name="shop")
    publisher = publishers(way)
    await publisher.open()
    await publisher.open()
    assert wire.seen == wire.open == 1

    wire.cut()
    await until(lambda: wire.open == 0)
    await publish_until_confirmed(publisher, outgoing(queue))
    assert wire.seen == 2
    await publisher.close()
    await until(lambda: wire.open == 0)


async def test_a_queue_that_was_full_takes_again_once_its_limit_is_lifted(
    node: Node, monkeypatch: pytest.MonkeyPatch, publishers: Make
) -> None:
    """RabbitMQ 3.10 would refuse the old channel for ever."""
    monkeypatch.setattr(publishing, "FRESH_AFTER", 0.5)
    name = f"publisher-{uuid.uuid4().hex}"
    limit = '{"max-length": 0, "overflow": "reject-publish"}'
    async with outside(node.url) as other:
        await other.declare(name, {"x-queue-type": "quorum"})
    await asyncio.to_thread(node.ctl, "set_policy", "--apply-to", "queues", "full", f"^{name}$", limit)
    publisher = publishers(access(node.url))
    try:
        await publisher.publish(outgoing(name))  # the first one is let in
        with pytest.raises(Undeliverable):
            await publisher.publish(outgoing(name))
    finally:
        await asyncio.to_thread(node.ctl, "clear_policy", "full")
    await publish_until_confirmed(publisher, outgoing(name))
    async with outside(node.url) as other:
        await other.delete(name)


async def test_a_refused_publish_moves_to_a_new_connection_and_leaves_the_old_one_its_work(
    wire: Wire, rabbitmq: Located, queue: str, other: Outside, monkeypatch: pytest.MonkeyPatch, publishers: Make
) -> None:
    monkeypatch.setattr(publishing, "FRESH_AFTER", 0.0)
    monkeypatch.setattr(publishing, "WATCH_EVERY", 0.1)
    full = f"{queue}-full"
    await other.declare(full, {"x-max-length": 0, "x-overflow": "reject-publish"})
    publisher = publishers(access(rabbitmq.url, wire.port))
    await publisher.open()

    ends = await asyncio.gather(
        *(publisher.publish(outgoing(full if number == 50 else queue)) for number in range(100)), return_exceptions=True
    )

    assert [type(end) for end in ends if end is not None] == [Undeliverable]
    assert await other.count(queue) == 99
    await publisher.publish(outgoing(queue))
    assert wire.seen == 2
    await until(lambda: wire.open == 1)
    await other.delete(full)


async def test_headers_that_no_frame_holds_fail_alone(publisher: Publisher, queue: str, other: Outside) -> None:
    small = [outgoing(queue) for _ in range(40)]
    properties = small[0].message.properties
    assert isinstance(properties, Properties)
    large = replace(properties, message_id="large", headers={"a": "x" * 200_000})
    big = Outgoing(queue, Message(b"1", large))
    found = await asyncio.gather(*map(publisher.publish, [*small[:20], big, *small[20:]]), return_exceptions=True)
    (fault,) = [end for end in found if end is not None]
    assert isinstance(fault, PublishFailed)
    assert "do not fit into the connection's frames" in str(fault)
    assert await other.count(queue) == 40
