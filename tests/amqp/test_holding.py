"""A queue that is looked at without being changed: what is held, in which order it comes back, what is gone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.amqp.contract import until_known
from worker.amqp import holding
from worker.amqp.connecting import Access, Connected, Node, Refused, Unreachable, open_connection
from worker.amqp.dead import DeadLetter, dead_letters
from worker.amqp.frames import WireProperties
from worker.amqp.holding import Holder, Slices
from worker.amqp.publisher import Publisher
from worker.amqp.queues import passive_count, prepare
from worker.core.message import Message, Outgoing, Properties
from worker.core.topology import Topology

MANY = 10_000
USUAL = Slices()


class Place:
    """A dead queue of its own, and ways to look at it."""

    def __init__(self, url: str) -> None:
        self.user = urlsplit(url).username or "guest"
        self.access = Access((Node(url, "broker", self.user),), name="test")
        self.topology = Topology(f"dead-{uuid.uuid4().hex[:8]}")
        self.queue = self.topology.dead_name

    async def put(self, *ids: str, body: bytes = b"{}") -> None:
        publisher = Publisher(self.access)
        rest = iter(ids)

        async def lane() -> None:
            for job in rest:
                headers = {"x-worker-id": job, "x-worker-reason": "tls"}
                properties = Properties(type="t", message_id=str(uuid.uuid4()), headers=headers)
                await publisher.publish(Outgoing(self.queue, Message(body, properties)))

        await asyncio.gather(*(lane() for _ in range(100 if len(ids) > 1000 else 1)))
        await publisher.close()

    async def connect(self) -> Connected:
        return await open_connection(self.access, "dead")

    async def holder(self, slices: Slices = USUAL, keep: str = "") -> Holder[DeadLetter]:
        """Bodies are kept of all letters, or of the one of the job `keep`."""
        connected = await self.connect()
        return dead_letters(connected, self.topology, frozenset({self.user}), lambda one: keep in ("", one.id), slices)

    async def count(self) -> int | None:
        connected = await self.connect()
        try:
            return await passive_count(connected.amqp, self.queue)
        finally:
            await connected.close()

    async def ids(self, slices: Slices = USUAL) -> list[str]:
        """What a look at all of it finds."""
        holder = await self.holder(slices)
        found = await everything(holder)
        await self.over(holder, len(found))
        return [one.id for one in found]

    async def over(self, holder: Holder[DeadLetter], left: int) -> None:
        """Close it, and see `left` letters in the queue: the broker needs a moment to have them all back."""

        async def back() -> bool:
            return await self.count() == left

        await holder.close()
        await until_known(back)


async def everything(holder: Holder[DeadLetter], window: int = MANY) -> list[DeadLetter]:
    return [held.what async for several in holder.slices(min(window, await holder.number())) for held in several]


@pytest.fixture
async def place(rabbitmq: Any) -> AsyncIterator[Place]:
    found = Place(rabbitmq.url)
    connected = await found.connect()
    await prepare(connected.amqp, [found.topology.dead], "declare")
    yield found
    channel = await connected.amqp.channel()
    await channel.queue_delete(found.queue)
    await connected.close()


@pytest.mark.parametrize("size", [7, 500])
async def test_reading_takes_nothing_and_keeps_the_order(place: Place, size: int) -> None:
    ids = [f"job-{number}" for number in range(20)]
    await place.put(*ids)
    for _ in range(4):
        assert await place.ids(Slices(messages=size)) == ids
    assert await place.count() == 20


async def test_order_is_kept_over_many_slices_and_channels(place: Place) -> None:
    # More consumers than a quorum queue has back in order from one channel, and several channels.
    ids = [f"job-{number}" for number in range(2000)]
    await place.put(*ids)
    assert 3 * holding.CONSUMERS < 2000 / 10
    for _ in range(2):
        assert await place.ids(Slices(messages=10)) == ids
    assert await place.ids() == ids


async def test_letters_do_not_wear_out(place: Place) -> None:
    # More often than the 20 deliveries a quorum queue grants by default from 4.0 on.
    await place.put("job-1")
    for _ in range(25):
        assert await place.ids() == ["job-1"]


async def test_a_message_that_cannot_be_read_is_a_letter_too(place: Place) -> None:
    connected = await place.connect()
    channel = await connected.amqp.channel()
    content_type = WireProperties(b"\x80\x00\x01\xff", "not-in-it")
    await channel.basic_publish(b"1", routing_key=place.queue, properties=content_type)  # type: ignore[arg-type]
    await connected.close()
    await place.put("job-1")
    holder = await place.holder()
    first, second = await everything(holder)
    await place.over(holder, 2)
    assert (first.reason, first.detail) == ("malformed", "undecodable properties: content_type: not UTF-8")
    assert first.message.body == b"1"
    assert second.id == "job-1"
    assert await place.ids() == [first.id, "job-1"]


async def test_a_window_is_the_oldest(place: Place) -> None:
    await place.put("a", "b", "c")
    holder = await place.holder()
    assert await holder.number() == 3
    assert [one.id for one in await everything(holder, 2)] == ["a", "b"]
    await place.over(holder, 3)


async def test_bodies_are_kept_where_they_are_wanted(place: Place) -> None:
    await place.put("a", "b", body=b'"large"')
    holder = await place.holder(keep="b")
    letters = await everything(holder)
    assert [one.message.body for one in letters] == [b"", b'"large"']
    assert [one.message.size for one in letters] == [7, 7]
    assert [one.message.buffered for one in letters] == [False, True]
    await holder.close()


async def test_a_slice_is_bounded_by_its_bodies(place: Place) -> None:
    ids = [f"job-{number}" for number in range(10)]
    await place.put(*ids, body=b"x" * 1000)
    holder = await place.holder(Slices(messages=8, body_bytes=3500))
    slices = [[held.what.id for held in several] async for several in holder.slices(10)]
    assert [one for several in slices for one in several] == ids
    assert max(map(len, slices)) == 3
    await place.over(holder, 10)
    assert sorted(await place.ids()) == ids


async def test_what_is_larger_than_the_room_comes_alone(place: Place) -> None:
    await place.put("a", "b", body=b"x" * 1000)
    holder = await place.holder(Slices(messages=8, body_bytes=10))
    assert [[held.what.id for held in several] async for several in holder.slices(2)] == [["a"], ["b"]]
    await holder.close()


async def test_only_what_is_taken_is_gone(place: Place) -> None:
    await place.put("a", "b", "c")
    holder = await place.holder()
    async for held in holder.slices(3):
        await holder.take(held[1])
        await holder.flush()
    await place.over(holder, 2)
    assert await place.ids() == ["a", "c"]


async def test_letters_that_another_reader_holds_are_not_waited_for_for_ever(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "QUIET", 0.2)
    await place.put("a", "b")
    first, second = await place.holder(), await place.holder()
    assert len(await everything(first)) == 2
    assert [several async for several in second.slices(2)] == []
    await first.close()
    await second.close()


async def test_a_queue_that_is_deleted_meanwhile_is_told(place: Place) -> None:
    await place.put("a", "b", "c")
    holder = await place.holder(Slices(messages=1))
    connected = await place.connect()
    slices = holder.slices(3)
    (held,) = await anext(slices)
    channel = await connected.amqp.channel()
    await channel.queue_delete(place.queue)
    with pytest.raises(Unreachable):
        await anext(slices)
    with pytest.raises(Unreachable):
        await holder.take(held)
    await connected.close()
    await holder.close()


async def test_a_queue_that_is_not_there_is_refused(rabbitmq: Any) -> None:
    holder = await Place(rabbitmq.url).holder()
    with pytest.raises(Refused, match=r"does not exist: is WORKER_QUEUE right\?"):
        await holder.number()
    await holder.close()
