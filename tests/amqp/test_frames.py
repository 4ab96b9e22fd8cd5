"""One message must not kill the connection that carries it: what the broker passes on, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import struct
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import aiormq
import pamqp.frame
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp import commands as spec
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader
from structlog.testing import capture_logs

from tests.raw_properties import header, long, short, tables
from worker.amqp.codec import decode_properties, encode_properties
from worker.amqp.frames import (
    LARGEST_BUFFERED,
    DeliveryChannel,
    WireHeader,
    WireProperties,
    open_delivery_channel,
    tolerate,
)
from worker.core.message import Properties, Undecodable

SECONDS = 20.0


class Broker(Protocol):
    @property
    def url(self) -> str: ...


POISON = {
    "timestamp of 64 bits": b"\0\x40" + b"\xff" * 8,
    "header timestamp of 64 bits": header(b"T" + b"\xff" * 8),
    "header name": header(b"V", b"\xff\xfe"),
    "header name in a table": header(b"F" + long(short(b"\xff") + b"V")),
    "message_id": b"\0\x80" + short(b"\xff\xfe"),
    "content_type": b"\x80\0" + short(b"\xff"),
    "content_encoding": b"\x40\0" + short(b"\xc3"),
    "type": b"\0\x20" + short(b"\xc3\x28"),
    "correlation_id": b"\x04\0" + short(b"\xed\xa0\x80"),
    "reply_to": b"\x02\0" + short(b"\xff"),
    "app_id": b"\0\x08" + short(b"\xff"),
    "cluster_id": b"\0\x04" + short(b"\xff"),
}
"""Each accepted by the broker and fatal to the client as it comes."""

ODD = {
    "nothing": b"\0\0",
    "unknown flag": b"\0\x02",
    "empty message_id": b"\0\x80\0",
    "timestamp in milliseconds": b"\0\x40" + struct.pack(">Q", 1_700_000_000_123),
    "highest priority": b"\x08\0\xff",
    "tables 200 deep": header(tables(200)),
    "tables 2000 deep": header(tables(2000)),
    "long long L": header(b"L" + b"\xff" * 8),
    "decimal": header(b"D\xff\xff\xff\xff\xff"),
    "bytes": header(b"S" + long(b"\xff\xfe")),
    "binary": header(b"x" + long(b"\xff\xfe")),
    "boolean 2": header(b"t\x02"),
    "long header name": header(b"V", b"k" * 255),
    "empty header name": header(b"V", b""),
    "name twice": b"\x20\0" + long(short(b"a") + b"b\1" + short(b"a") + b"b\2"),
}

REFUSED = {
    "NaN": header(b"d\x7f\xf8" + bytes(6)),
    "infinity": header(b"d\x7f\xf0" + bytes(6)),
    "unknown type": header(b"Q\x02"),
    "left over": b"\0\0\xff",
    "second flag word": b"\0\x01\0\0",
    "truncated": b"\0\x80\x05ab",
}
"""What RabbitMQ closes the publisher's connection for, so that we neither meet nor may write it."""


class AsIs:
    """Properties that are published as these bytes. Without a message_id: ours are tested as WireProperties."""

    message_id = "unused"

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def marshal(self) -> bytes:
        return self._raw


@dataclass
class Seen:
    """What a DeliveryChannel handed over."""

    deliveries: list[tuple[spec.Basic.Deliver, bytes, bytes, int]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __call__(self, deliver: spec.Basic.Deliver, raw: bytes, body: bytes, announced: int) -> None:
        self.deliveries.append((deliver, raw, body, announced))
        task = asyncio.ensure_future(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(SECONDS), self.arrived:
            await self.arrived.wait_for(lambda: len(self.deliveries) >= wanted)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body, _ in self.deliveries]


@contextlib.asynccontextmanager
async def connected(broker: Broker) -> AsyncIterator[aiormq.Connection]:
    connection = await aiormq.connect(broker.url)
    try:
        yield connection
    finally:
        with contextlib.suppress(Exception):  # some tests lose theirs on purpose
            await connection.close()


@pytest.fixture
async def publisher(rabbitmq: Broker) -> AsyncIterator[aiormq.Channel]:
    async with connected(rabbitmq) as connection:
        yield cast(aiormq.Channel, await connection.channel())


@pytest.fixture(params=["quorum", "classic"])
async def queue(request: pytest.FixtureRequest, publisher: aiormq.Channel) -> AsyncIterator[str]:
    name = f"frames-{uuid.uuid4().hex}"
    await publisher.queue_declare(name, durable=True, arguments={"x-queue-type": request.param})
    yield name
    await publisher.queue_delete(name)


async def publish(channel: aiormq.Channel, queue: str, raw: bytes, body: bytes, exchange: str = "") -> None:
    await channel.basic_publish(
        body,
        exchange=exchange,
        routing_key=queue,
        properties=AsIs(raw),  # type: ignore[arg-type]  # only marshalled
        timeout=SECONDS,
    )


async def consume(channel: DeliveryChannel, queue: str) -> str:
    async def unused(_message: DeliveredMessage) -> None: ...

    return str((await channel.basic_consume(queue, unused, timeout=SECONDS)).consumer_tag)


def untolerant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `tolerate` replaced, taken from a fresh copy of the client's module."""
    spec_of = importlib.util.find_spec("pamqp.frame")
    assert spec_of is not None
    assert spec_of.loader is not None
    fresh = importlib.util.module_from_spec(spec_of)
    spec_of.loader.exec_module(fresh)
    for name in ("_unmarshal_header_frame", "_unmarshal_method_frame"):
        monkeypatch.setattr(pamqp.frame, name, getattr(fresh, name))


async def test_poison_and_its_neighbours_arrive_on_one_connection(
    rabbitmq: Broker, publisher: aiormq.Channel, queue: str
) -> None:
    innocent = encode_properties(Properties(type="http", message_id="innocent"))
    for name, raw in (POISON | ODD).items():
        await publish(publisher, queue, raw, name.encode())
        await publish(publisher, queue, innocent, b"innocent")
    wanted = 2 * len(POISON | ODD)

    async with connected(rabbitmq) as connection:
        seen = Seen()
        channel = await open_delivery_channel(connection, seen, timeout=SECONDS)
        await consume(channel, queue)
        await seen.count(wanted)
        await channel.basic_ack(0, multiple=True)
        await channel.basic_qos(prefetch_count=1)  # answered, so this channel and its connection are alive
        assert not connection.is_closed
        assert not connection.closing.done()

    assert len(seen.deliveries) == wanted
    assert not any(deliver.redelivered for deliver, *_ in seen.deliveries)
    decoded = {body.decode(): decode_properties(raw) for _, raw, body, _ in seen.deliveries}
    assert decoded["innocent"] == Properties(type="http", message_id="innocent")
    unreadable = {name for name, properties in decoded.items() if isinstance(properties, Undecodable)}
    assert unreadable == set(POISON) - {"timestamp of 64 bits", "header timestamp of 64 bits"} | {
        "tables 200 deep",
        "tables 2000 deep",
    }
    assert cast(Properties, decoded["timestamp of 64 bits"]).timestamp == 2**64 - 1
    assert cast(Properties, decoded["long long L"]).headers == {"h": -1}
    assert cast(Properties, decoded["long header name"]).headers == {"k" * 255: None}


@pytest.mark.parametrize("poison", POISON)
async def test_as_it_comes_the_client_loses_its_connection(
    rabbitmq: Broker, publisher: aiormq.Channel, poison: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"frames-{uuid.uuid4().hex}"
    await publisher.queue_declare(name, durable=True)
    await publish(publisher, name, POISON[poison], b"poison")

    async def unused(_message: DeliveredMessage) -> None: ...

    untolerant(monkeypatch)
    async with connected(rabbitmq) as connection:
        channel = await connection.channel()
        await channel.basic_consume(name, unused)
        await asyncio.wait({connection.closing}, timeout=SECONDS)
        assert connection.is_closed
        assert channel.is_closed

    await publisher.queue_delete(name)


async def test_another_user_of_the_client_lives_on(rabbitmq: Broker, publisher: aiormq.Channel, queue: str) -> None:
    tolerate()
    received: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    for name, raw in POISON.items():
        await publish(publisher, queue, raw, name.encode())
    await publish(publisher, queue, spec.Basic.Properties(message_id="m", headers={"a": 1}).marshal(), b"innocent")

    async with connected(rabbitmq) as connection, asyncio.timeout(SECONDS):
        channel = await connection.channel()
        await channel.basic_consume(queue, received.put, no_ack=True)
        messages = {(message := await received.get()).body.decode(): message for _ in range(len(POISON) + 1)}

    assert messages["innocent"].header.properties == spec.Basic.Properties(message_id="m", headers={"a": 1})
    for name in POISON:
        assert messages[name].header.properties.message_id is None


@pytest.mark.parametrize("refused", REFUSED)
async def test_what_the_broker_refuses_is_what_we_do_not_write(rabbitmq: Broker, refused: str) -> None:
    async with connected(rabbitmq) as connection:
        channel = cast(aiormq.Channel, await connection.channel())
        with pytest.raises((aiormq.exceptions.AMQPError, asyncio.CancelledError)):
            await publish(channel, "nowhere", REFUSED[refused], b"")


async def test_a_routing_key_and_an_exchange_that_are_not_text(
    rabbitmq: Broker, publisher: aiormq.Channel, queue: str
) -> None:
    exchange = f"frames-{uuid.uuid4().hex}"
    await publisher.exchange_declare(exchange, exchange_type="fanout")
    await publisher.queue_bind(queue, exchange)
    key = b"\xff\xfe"
    await publish_with_key(await publisher.connection.channel(publisher_confirms=False), exchange, key)
    await publish(publisher, queue, b"\0\0", b"innocent")

    async with connected(rabbitmq) as connection:
        seen = Seen()
        channel = await open_delivery_channel(connection, seen, timeout=SECONDS)
        tag = await consume(channel, queue)
        await seen.count(2)

    await publisher.exchange_delete(exchange)
    odd, innocent = (deliver for deliver, *_ in seen.deliveries)
    assert odd.routing_key is not None
    assert odd.routing_key.encode("utf-8", "surrogateescape") == key
    assert (odd.exchange, odd.consumer_tag, odd.delivery_tag, odd.redelivered) == (exchange, tag, 1, False)
    assert (innocent.exchange, innocent.routing_key, innocent.delivery_tag) == ("", queue, 2)


async def publish_with_key(channel: AbstractChannel, exchange: str, key: bytes) -> None:
    """Publish with a routing key that the client would not encode."""
    method = struct.pack(">IH", spec.Basic.Publish.index, 0) + short(exchange.encode()) + short(key) + b"\0"
    content = struct.pack(">HHQ", 60, 0, 0) + b"\0\0"
    frames = b"".join(
        struct.pack(">BHI", kind, channel.number, len(payload)) + payload + b"\xce"
        for kind, payload in ((1, method), (2, content))
    )
    await channel.connection.write_queue.put(aiormq.abc.ChannelFrame(payload=frames, should_close=False))
    await channel.basic_qos(prefetch_count=1)  # a round trip: the broker has read it


async def test_a_huge_body_is_announced_but_not_kept(rabbitmq: Broker, publisher: aiormq.Channel, queue: str) -> None:
    await publish(publisher, queue, b"\0\0", bytes(300_000))
    await publish(publisher, queue, b"\0\0", bytes(299_999))
    await publish(publisher, queue, b"\0\0", b"")
    await publish(publisher, queue, b"\0\0", b"small")

    async with connected(rabbitmq) as connection:
        seen = Seen()
        channel = await open_delivery_channel(connection, seen, largest_body=299_999, timeout=SECONDS)
        await consume(channel, queue)
        await seen.count(4)

    assert seen.bodies == [b"", bytes(299_999), b"", b"small"]
    assert [announced for *_, announced in seen.deliveries] == [300_000, 299_999, 0, 5]


async def test_more_than_16_mib_are_not_kept(rabbitmq: Broker, publisher: aiormq.Channel, queue: str) -> None:
    if int(str(publisher.connection.server_properties["version"]).partition(".")[0]) >= 4:
        pytest.skip("from 4.0 on the broker takes no message of 17 MiB")
    await publish(publisher, queue, b"\0\0", bytes(LARGEST_BUFFERED + (1 << 20)))
    await publish(publisher, queue, b"\0\0", b"small")

    async with connected(rabbitmq) as connection:
        seen = Seen()
        channel = await open_delivery_channel(connection, seen, timeout=SECONDS)
        await consume(channel, queue)
        await seen.count(2)

    assert seen.bodies == [b"", b"small"]
    assert seen.deliveries[0][3] == LARGEST_BUFFERED + (1 << 20)


async def test_a_receiver_that_raises_does_not_stop_the_reader(
    rabbitmq: Broker, publisher: aiormq.Channel, queue: str
) -> None:
    seen = Seen()

    def fail_first(deliver: spec.Basic.Deliver, raw: bytes, body: bytes, announced: int) -> None:
        seen(deliver, raw, body, announced)
        if body == b"first":
            raise RuntimeError("no")

    await publish(publisher, queue, b"\0\0", b"first")
    await publish(publisher, queue, b"\0\0", b"second")

    with capture_logs() as lines:
        async with connected(rabbitmq) as connection:
            channel = await open_delivery_channel(connection, fail_first, timeout=SECONDS)
            await consume(channel, queue)
            await seen.count(2)

    assert seen.bodies == [b"first", b"second"]
    assert [(line["event"], line["tag"]) for line in lines] == [("deliveries.failed", 1)]


async def test_encoded_properties_travel_as_they_are(rabbitmq: Broker, publisher: aiormq.Channel, queue: str) -> None:
    raw = encode_properties(Properties(type="http", message_id="m", timestamp=2**64 - 1, headers={"k" * 255: 0.1}))
    await publisher.basic_publish(
        b"body",
        routing_key=queue,
        properties=WireProperties(raw, "m"),  # type: ignore[arg-type]  # only marshalled
        mandatory=True,
    )

    async with connected(rabbitmq) as connection:
        seen = Seen()
        channel = await open_delivery_channel(connection, seen, timeout=SECONDS)
        await consume(channel, queue)
        await seen.count(1)

    assert seen.deliveries[0][1] == raw


@pytest.mark.parametrize("timestamp", [1_700_000_000, 2**64 - 1])
async def test_a_returned_message_is_known_whatever_its_properties(publisher: aiormq.Channel, timestamp: int) -> None:
    tolerate()
    raw = encode_properties(Properties(message_id="m", timestamp=timestamp))
    with pytest.raises(aiormq.exceptions.PublishError):
        await publisher.basic_publish(
            b"body",
            routing_key="nobody-has-this-queue",
            properties=WireProperties(raw, "m"),  # type: ignore[arg-type]  # only marshalled
            mandatory=True,
            timeout=SECONDS,
        )


def test_properties_without_an_id_are_refused() -> None:
    with pytest.raises(ValueError, match="message_id"):
        WireProperties(encode_properties(Properties()), "")


async def test_channels_of_both_kinds_share_a_connection(rabbitmq: Broker) -> None:
    async with connected(rabbitmq) as connection:
        channels = [
            await open_delivery_channel(connection, Seen(), timeout=SECONDS),
            await connection.channel(),
            await open_delivery_channel(connection, Seen(), timeout=SECONDS),
        ]
        assert {channel.number: channel for channel in channels} == connection.channels
        assert len(connection.channels) == 3


async def test_no_channel_on_a_closed_connection(rabbitmq: Broker) -> None:
    async with connected(rabbitmq) as connection:
        pass
    with pytest.raises(aiormq.exceptions.AMQPError):
        await open_delivery_channel(connection, Seen(), timeout=SECONDS)


def unmarshal(kind: int, payload: bytes) -> Any:
    frame = struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"
    size, channel, value = pamqp.frame.unmarshal(frame)
    assert (size, channel) == (len(frame), 1)
    return value


@pytest.mark.parametrize("redelivered", [False, True])
def test_a_delivery_is_read_as_the_client_reads_it(redelivered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = spec.Basic.Deliver("tag", 2**63 - 1, redelivered, "exchange", "é")
    payload = struct.pack(">I", given.index) + given.marshal()
    tolerate()
    ours = unmarshal(1, payload)
    untolerant(monkeypatch)
    theirs = unmarshal(1, payload)

    assert type(ours) is type(theirs)
    assert dict(ours) == dict(theirs) == dict(given)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (1, struct.pack(">I", spec.Basic.Deliver.index) + short(b"tag") + bytes(4)),
        (1, struct.pack(">I", spec.Basic.Deliver.index) + short(b"tag") + bytes(9)),
        (1, struct.pack(">I", spec.Basic.CancelOk.index) + short(b"\xff")),
        (1, struct.pack(">I", 0x7FFF7FFF)),
        (2, bytes(11)),
    ],
)
def test_what_is_no_frame_still_raises(kind: int, payload: bytes) -> None:
    tolerate()
    with pytest.raises(UnmarshalingException):
        unmarshal(kind, payload)


def test_a_header_is_decoded_when_asked_for_and_can_be_written_again() -> None:
    tolerate()
    tolerate()
    properties = spec.Basic.Properties(message_id="m", headers={"a": 1})
    payload = ContentHeader(body_size=7, properties=properties).marshal()

    header = unmarshal(2, payload)

    assert isinstance(header, WireHeader)
    assert (header.raw, header.body_size) == (properties.marshal(), 7)
    assert header.properties == properties
    assert header.marshal() == payload
