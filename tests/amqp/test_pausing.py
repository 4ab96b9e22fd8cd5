"""Deliveries that stop for a while: the part of the broker's contract, on the broker in memory and on the real one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.amqp.contract import Bench, Leftovers, Recorder, memory_bench, rabbit_bench, until, until_known
from worker.amqp.credit import Credit
from worker.core.broker import Lane
from worker.core.message import Delivery

MOMENT = 0.3
"""Seconds in which a delivery that must not come would have come."""


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


async def put(bench: Bench, first: int, after: int) -> None:
    for number in range(first, after):
        await bench.put(b"%d" % number)


async def test_a_paused_broker_delivers_nothing_and_goes_on_under_the_same_epoch(
    bench: Bench, recorder: Recorder
) -> None:
    await put(bench, 0, 4)
    await bench.start(Lane(bench.topology.name, 2, recorder))
    zero, one = await recorder.count(2)

    await bench.broker.pause()
    await bench.broker.ack(zero)
    await bench.broker.flush(zero.epoch)
    await put(bench, 4, 5)
    await bench.pass_time(MOMENT)
    assert recorder.bodies == [b"0", b"1"]
    assert await bench.count(bench.topology.name) == 3

    await bench.broker.resume()
    await bench.broker.ack(one)  # it was delivered before, and is settled as ever
    for at in range(2, 5):
        await bench.broker.ack((await recorder.count(at + 1))[at])
    assert recorder.bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert recorder.events == ["epoch", *["delivery"] * 5]
    assert len({epoch for _, epoch in recorder.news}) == 1
    assert len({delivery.tag for delivery in recorder.deliveries}) == 5


async def test_pausing_and_resuming_twice_is_the_same_as_once(bench: Bench, recorder: Recorder) -> None:
    await bench.start(Lane(bench.topology.name, 2, recorder))
    await bench.broker.pause()
    await asyncio.gather(bench.broker.pause(), bench.broker.pause())
    await put(bench, 0, 5)
    await bench.pass_time(MOMENT)
    assert recorder.bodies == []

    await asyncio.gather(bench.broker.resume(), bench.broker.resume())
    await bench.broker.resume()
    await recorder.count(2)
    await bench.pass_time(MOMENT)
    assert recorder.bodies == [b"0", b"1"]


async def test_no_more_than_the_prefetch_is_held_however_often_it_is_paused(bench: Bench, recorder: Recorder) -> None:
    await put(bench, 0, 12)
    await bench.start(Lane(bench.topology.name, 4, recorder))
    held = list(await recorder.count(4))
    for _ in range(3):
        await bench.broker.pause()
        await bench.broker.resume()
        await bench.pass_time(MOMENT)
        assert len(recorder.deliveries) == 4

    for settled in range(1, 9):  # each one that is settled makes room for one
        await bench.broker.ack(held.pop(0))
        held.append((await recorder.count(4 + settled))[-1])
        assert len(recorder.deliveries) == 4 + settled
    await bench.pass_time(MOMENT)
    assert sorted(recorder.bodies) == sorted(b"%d" % number for number in range(12))
    assert await bench.count(bench.topology.name) == 0


async def test_a_session_lost_while_paused_is_followed_by_one_that_waits(bench: Bench, recorder: Recorder) -> None:
    await put(bench, 0, 2)
    await bench.start(Lane(bench.topology.name, 5, recorder))
    (before, _) = await recorder.count(2)
    await bench.broker.pause()

    await bench.lose_session()
    await bench.reconnect()
    await bench.pass_time(MOMENT)
    # Redeliveries are awaited from the moment an epoch begins: not before they can come.
    assert recorder.events == ["epoch", "delivery", "delivery", "lost"]
    assert await bench.count(bench.topology.name) == 2

    await bench.broker.resume()
    again = (await recorder.count(4))[2:]
    assert recorder.events == ["epoch", "delivery", "delivery", "lost", "epoch", "delivery", "delivery"]
    assert all(delivery.redelivered for delivery in again)
    assert {delivery.epoch for delivery in again}.isdisjoint({before.epoch})
    for delivery in again:
        await bench.broker.ack(delivery)


async def test_a_session_that_was_paused_all_its_life_is_lost_without_a_word(bench: Bench, recorder: Recorder) -> None:
    await bench.start(Lane(bench.topology.name, 5, recorder))
    await bench.broker.pause()
    for _ in range(2):
        await bench.lose_session()
        await bench.reconnect()
    assert recorder.events == ["epoch", "lost"]
    await bench.broker.resume()
    await until(lambda: recorder.events == ["epoch", "lost", "epoch"])


async def test_once_told_to_stop_it_cannot_be_resumed(bench: Bench, recorder: Recorder) -> None:
    await put(bench, 0, 4)
    await bench.start(Lane(bench.topology.name, 2, recorder))
    first, second = await recorder.count(2)
    await bench.broker.pause()

    await bench.stop_consuming()
    await bench.broker.resume()
    await bench.broker.ack(first)
    await bench.broker.requeue(second)
    await bench.broker.flush(first.epoch)

    await until_known(lambda: _has(bench, 3))
    await bench.pass_time(MOMENT)
    assert recorder.bodies == [b"0", b"1"]


async def test_every_lane_pauses(bench: Bench, recorder: Recorder) -> None:
    suspects = Recorder()
    await bench.start(Lane(bench.topology.name, 3, recorder), Lane(bench.topology.suspect_name, 1, suspects))
    await bench.broker.pause()
    for queue in (bench.topology.name, bench.topology.suspect_name):
        await bench.put(b"body", queue=queue)
    await bench.pass_time(MOMENT)
    assert (recorder.bodies, suspects.bodies) == ([], [])
    await bench.broker.resume()
    await recorder.count(1)
    await suspects.count(1)


async def test_nothing_is_lost_or_doubled_by_pauses_in_the_midst_of_the_flow(bench: Bench) -> None:
    jobs, acks = 400, asyncio.Queue[Delivery]()

    class Acking(Recorder):
        def on_delivery(self, delivery: Delivery) -> None:
            assert not paused, "delivered while paused"
            super().on_delivery(delivery)
            acks.put_nowait(delivery)

    async def settle() -> None:
        while True:
            await bench.broker.ack(await acks.get())
            await asyncio.sleep(0.001)

    paused, recorder = False, Acking()
    await put(bench, 0, jobs)
    settling = asyncio.create_task(settle())
    await bench.start(Lane(bench.topology.name, 20, recorder))
    for turn in range(1, 9):
        await recorder.count(turn * 40)
        await bench.broker.pause()
        paused = True
        await asyncio.sleep(0.02)
        paused = False
        await bench.broker.resume()
    await recorder.count(jobs)
    await until(acks.empty)
    settling.cancel()

    assert set(Counter(recorder.bodies).values()) == {1}
    assert len(recorder.bodies) == jobs
    assert recorder.events.count("epoch") == 1
    assert await bench.count(bench.topology.name) == 0


def test_credit_is_given_for_what_is_free_and_no_more() -> None:
    credit = Credit(8)
    assert credit.more == 8
    credit.grant(8)
    assert credit.more == 0
    for tag in range(1, 9):
        credit.delivered(tag)
    assert not credit.settled(1)  # the consumer has its place back by itself
    credit.cancelled()
    assert credit.more == 0  # one is free: fewer than a quarter
    assert credit.settled(2)
    assert credit.more == 2
    credit.grant(2)
    assert credit.more == 0
    credit.delivered(9)
    assert not credit.settled(9)
    assert [credit.settled(tag) for tag in range(3, 9)] == [False, True, True, True, True, True]
    assert credit.more == 6
    credit.grant(6)
    credit.cancelled()
    assert credit.more == 8


async def _has(bench: Bench, messages: int) -> bool:
    return await bench.count(bench.topology.name) == messages
