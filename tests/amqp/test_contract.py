"""The contract of `worker.core.broker.Broker`, on the broker in memory and on the real one: no test knows which it has.

What passes here may be relied on by everything that is tested on the broker in memory alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.amqp.contract import Bench, Leftovers, Recorder, memory_bench, outgoing, rabbit_bench, until, until_known
from worker.core.broker import EpochLost, Lane, Unroutable
from worker.core.message import Delivery, Message, Properties

MOMENT = 0.3
"""Seconds in which a delivery that must not come would have come."""

HEADERS = {
    "text": "grün",
    "number": 7,
    "large": 2**40,
    "fraction": 0.1,
    "yes": True,
    "none": None,
    "list": [1, "two", [3]],
    "table": {"a": {"b": "c"}},
    "x-worker-attempt": 3,
}

FULL = Properties(
    type="order.sync",
    message_id="m-1",
    content_type="application/json",
    content_encoding="identity",
    correlation_id="c-1",
    reply_to="replies.shop",
    expiration="600000",
    priority=3,
    timestamp=1_700_000_000_123,
    app_id="shop",
    headers=HEADERS,
)


@pytest.fixture(scope="module")
def leftovers() -> Iterator[Leftovers]:
    left = Leftovers()
    yield left
    left.delete()


@pytest.fixture(params=["memory", "rabbitmq"])
async def bench(request: pytest.FixtureRequest, leftovers: Leftovers) -> AsyncIterator[Bench]:
    if request.param == "memory":
        made = memory_bench()
    else:
        made = rabbit_bench(request.getfixturevalue("rabbitmq").url, leftovers)
    async with made as bench:
        yield bench


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def held(bench: Bench, recorder: Recorder, bodies: int, prefetch: int = 100) -> list[Delivery]:
    """So many messages, put into the work queue and delivered as far as the prefetch allows."""
    for number in range(bodies):
        await bench.put(b"%d" % number)
    await bench.start(Lane(bench.topology.name, prefetch, recorder))
    return list(await recorder.count(min(bodies, prefetch)))


def properties(message: Message) -> Properties:
    assert isinstance(message.properties, Properties)
    return message.properties


def death(message: Message) -> tuple[Any, Any]:
    """Why and where from it was dead-lettered last."""
    last = properties(message).headers["x-death"][0]
    return last["reason"], last["queue"]


async def test_messages_are_delivered_in_order_with_body_and_properties(bench: Bench, recorder: Recorder) -> None:
    sent = [replace(FULL, message_id=f"m-{number}") for number in range(5)]
    for number, one in enumerate(sent[:3]):
        await bench.put(b"%d" % number, one)
    await bench.start(Lane(bench.topology.name, 10, recorder))
    for number, one in enumerate(sent[3:], 3):
        await bench.put(b"%d" % number, one)

    deliveries = await recorder.count(5)

    assert recorder.bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert [delivery.message.properties for delivery in deliveries] == sent
    assert not any(delivery.redelivered or delivery.delivery_count for delivery in deliveries)
    assert len({delivery.tag for delivery in deliveries}) == 5


async def test_a_message_without_properties_has_none(bench: Bench, recorder: Recorder) -> None:
    (delivery,) = await held(bench, recorder, 1)

    assert delivery.message.properties == Properties()


async def test_no_more_is_held_than_the_prefetch(bench: Bench, recorder: Recorder) -> None:
    deliveries = await held(bench, recorder, 6, prefetch=3)

    await bench.pass_time(MOMENT)
    assert len(recorder.deliveries) == 3
    assert await bench.count(bench.topology.name) == 3

    await bench.broker.ack(deliveries[1])
    await recorder.count(4)
    await bench.pass_time(MOMENT)
    assert recorder.bodies == [b"0", b"1", b"2", b"3"]


async def test_what_is_acked_never_comes_again(bench: Bench, recorder: Recorder) -> None:
    for delivery in await held(bench, recorder, 3):
        await bench.broker.ack(delivery)
    await bench.broker.flush(recorder.deliveries[0].epoch)
    await bench.pass_time(MOMENT)  # a quorum queue loses acks that are followed by the end of their connection

    await bench.lose_session()
    await bench.reconnect()
    await bench.put(b"next")

    assert [delivery.message.body for delivery in (await recorder.count(4))[3:]] == [b"next"]
    assert await bench.count(bench.topology.name) == 0


async def test_what_is_given_back_comes_again_and_says_so(bench: Bench, recorder: Recorder) -> None:
    (first,) = await held(bench, recorder, 1)
    await bench.broker.requeue(first)
    _, second = await recorder.count(2)
    await bench.broker.requeue(second)
    _, _, third = await recorder.count(3)

    assert recorder.bodies == [b"0", b"0", b"0"]
    assert [delivery.redelivered for delivery in recorder.deliveries] == [False, True, True]
    assert len({delivery.tag for delivery in recorder.deliveries}) == 3
    assert [second.delivery_count, third.delivery_count] == ([1, 2] if bench.counts_requeues else [0, 0])


async def test_what_is_refused_ends_in_the_dead_queue(bench: Bench, recorder: Recorder) -> None:
    await bench.put(b"body", FULL)
    await bench.start(Lane(bench.topology.name, 10, recorder))
    (delivery,) = await recorder.count(1)

    await bench.broker.refuse(delivery)

    await until_known(lambda: _has(bench, bench.topology.dead_name, 1))
    (letter,) = await bench.messages(bench.topology.dead_name)
    assert letter.body == b"body"
    assert death(letter) == ("rejected", bench.topology.name)
    assert {name: properties(letter).headers[name] for name in HEADERS} == HEADERS
    assert replace(properties(letter), headers={}, expiration=None) == replace(FULL, headers={}, expiration=None)
    assert await bench.count(bench.topology.name) == 0


async def test_a_publish_returns_when_the_message_is_there(bench: Bench) -> None:
    await bench.start()
    for number in range(1, 11):
        await bench.broker.publish(outgoing(bench.topology.dead_name))

        assert await bench.count(bench.topology.dead_name) == number


async def test_publishes_at_once_are_all_there(bench: Bench) -> None:
    await bench.start()
    bodies = [b"%d" % number for number in range(50)]

    await asyncio.gather(*(bench.broker.publish(outgoing(bench.topology.dead_name, body)) for body in bodies))

    assert sorted(letter.body for letter in await bench.messages(bench.topology.dead_name)) == sorted(bodies)


async def test_a_published_message_arrives_as_it_is_under_the_workers_user(bench: Bench, recorder: Recorder) -> None:
    await bench.start(Lane(bench.topology.name, 10, recorder))
    forged = replace(FULL, user_id="somebody else")

    await bench.broker.publish(outgoing(bench.topology.name, b"body", **_fields(forged)))

    (delivery,) = await recorder.count(1)
    assert delivery.message.body == b"body"
    assert delivery.message.properties == replace(FULL, user_id=bench.user)


async def test_a_publish_to_a_queue_that_is_not_there_fails_alone(bench: Bench) -> None:
    await bench.start()
    missing, there = f"{bench.topology.name}.missing", bench.topology.dead_name

    tries = [bench.broker.publish(outgoing(queue)) for queue in (there, missing, there, missing, there)]
    ends = await asyncio.gather(*tries, return_exceptions=True)

    assert [type(end) for end in ends] == [type(None), Unroutable, type(None), Unroutable, type(None)]
    assert missing in str(ends[1])
    assert await bench.count(there) == 3


async def test_a_message_on_the_ladder_comes_back_after_its_time(bench: Bench, recorder: Recorder) -> None:
    await bench.start(Lane(bench.topology.name, 10, recorder))
    wait = bench.topology.wait_name(1)
    asked = bench.monotonic()

    await bench.broker.publish(outgoing(wait, b"body", type="order.sync", headers=HEADERS))
    await bench.pass_time(1)
    (delivery,) = await recorder.count(1)

    assert delivery.received - asked >= 0.99
    assert delivery.message.body == b"body"
    assert death(delivery.message) == ("expired", wait)
    assert {name: properties(delivery.message).headers[name] for name in HEADERS} == HEADERS
    assert (properties(delivery.message).type, properties(delivery.message).user_id) == ("order.sync", bench.user)
    assert (delivery.redelivered, delivery.delivery_count) == (False, 0)


async def test_a_lost_session_voids_its_deliveries(bench: Bench, recorder: Recorder) -> None:
    deliveries = await held(bench, recorder, 3)
    epoch = deliveries[0].epoch

    await bench.lose_session()

    assert epoch.lost
    for settle in (bench.broker.ack, bench.broker.requeue, bench.broker.refuse):
        with pytest.raises(EpochLost):
            await settle(deliveries[0])
    with pytest.raises(EpochLost):
        await bench.broker.flush(epoch)

    await bench.reconnect()
    with pytest.raises(EpochLost):
        await bench.broker.ack(deliveries[0])
    with pytest.raises(EpochLost):
        await bench.broker.flush(epoch)
    assert recorder.news.count(("lost", epoch)) == 1


async def test_what_was_not_settled_comes_again_under_a_new_epoch(bench: Bench, recorder: Recorder) -> None:
    before = await held(bench, recorder, 4)
    await bench.broker.ack(before[2])
    await bench.broker.flush(before[2].epoch)
    await bench.pass_time(MOMENT)

    await bench.lose_session()
    await bench.reconnect()
    after = (await recorder.count(7))[4:]

    assert sorted(delivery.message.body for delivery in after) == [b"0", b"1", b"3"]
    assert all(delivery.redelivered and delivery.delivery_count == 1 for delivery in after)
    (epoch,) = {delivery.epoch for delivery in after}
    assert epoch is not before[0].epoch
    assert epoch.number > before[0].epoch.number
    assert not epoch.lost
    for delivery in after:
        await bench.broker.ack(delivery)


async def test_an_epoch_is_announced_before_its_first_delivery_and_ended_once(bench: Bench, recorder: Recorder) -> None:
    await held(bench, recorder, 2)
    await bench.lose_session()
    await bench.reconnect()
    await recorder.count(4)
    await bench.close()

    life = ["epoch", "delivery", "delivery", "lost"]
    assert recorder.events == [*life, *life]
    assert len({epoch for _, epoch in recorder.news[:4]}) == len({epoch for _, epoch in recorder.news[4:]}) == 1


async def test_deliveries_are_settled_in_any_order(bench: Bench, recorder: Recorder) -> None:
    zero, one, two, three, four = await held(bench, recorder, 5, prefetch=5)

    await bench.broker.ack(three)
    await bench.broker.requeue(one)
    await bench.broker.refuse(four)
    await asyncio.gather(bench.broker.ack(two), bench.broker.ack(zero))
    await bench.broker.flush(zero.epoch)

    again = (await recorder.count(6))[5]
    assert (again.message.body, again.redelivered) == (b"1", True)
    await until_known(lambda: _has(bench, bench.topology.dead_name, 1))
    (letter,) = await bench.messages(bench.topology.dead_name)
    assert letter.body == b"4"
    await bench.broker.ack(again)


async def test_many_may_ask_for_a_flush_at_once(bench: Bench, recorder: Recorder) -> None:
    deliveries = await held(bench, recorder, 10)

    async def settle(delivery: Delivery) -> None:
        await bench.broker.ack(delivery)
        await bench.broker.flush(delivery.epoch)

    await asyncio.gather(*map(settle, deliveries))
    await bench.lose_session()
    with pytest.raises(EpochLost):
        await bench.broker.flush(deliveries[0].epoch)


async def test_once_told_to_stop_it_delivers_no_more(bench: Bench, recorder: Recorder) -> None:
    first, second = await held(bench, recorder, 4, prefetch=2)

    await bench.stop_consuming()
    await bench.broker.ack(first)
    await bench.broker.requeue(second)
    await bench.broker.flush(first.epoch)
    await bench.put(b"late")

    await until_known(lambda: _has(bench, bench.topology.name, 4))
    await bench.pass_time(MOMENT)
    assert recorder.bodies == [b"0", b"1"]
    bodies = [one.body for one in await bench.messages(bench.topology.name)]
    assert sorted(bodies) == [b"1", b"2", b"3", b"late"]


async def test_lanes_have_epochs_and_limits_of_their_own(bench: Bench, recorder: Recorder) -> None:
    suspects = Recorder()
    queues = (bench.topology.name, bench.topology.suspect_name)
    for number in range(4):
        for queue in queues:
            await bench.put(queue.encode() + b" %d" % number, queue=queue)

    await bench.start(Lane(queues[0], 3, recorder), Lane(queues[1], 1, suspects))
    await recorder.count(3)
    (suspect,) = await suspects.count(1)
    await bench.pass_time(MOMENT)

    assert [await bench.count(queue) for queue in queues] == [1, 3]
    assert recorder.bodies == [queues[0].encode() + b" %d" % number for number in range(3)]
    assert {delivery.epoch for delivery in recorder.deliveries}.isdisjoint({suspect.epoch})

    await bench.broker.ack(suspect)
    await suspects.count(2)
    assert len(recorder.deliveries) == 3

    await bench.lose_session()
    assert (recorder.events.count("lost"), suspects.events.count("lost")) == (1, 1)
    await bench.reconnect()
    await recorder.count(6)
    await suspects.count(3)


async def test_what_is_not_settled_at_the_end_is_ready_again(bench: Bench, recorder: Recorder) -> None:
    first, *others = await held(bench, recorder, 3)
    await bench.broker.ack(first)
    await bench.broker.flush(first.epoch)
    await bench.pass_time(MOMENT)

    await bench.close()

    await until(lambda: first.epoch.lost)
    await until_known(lambda: _has(bench, bench.topology.name, 2))
    with pytest.raises(EpochLost):
        await bench.broker.ack(others[0])


async def _has(bench: Bench, queue: str, messages: int) -> bool:
    return await bench.count(queue) == messages


def _fields(properties: Properties) -> dict[str, Any]:
    return {name: getattr(properties, name) for name in Properties.__dataclass_fields__}
