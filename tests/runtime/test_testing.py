"""The testing tools themselves: a clock that keeps its order, a broker that is strict, a job carried to its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.toys import Stage
from worker import Context, Registry, Retry, Snooze
from worker.core.broker import EpochLost, Lane, PublishFailed
from worker.core.message import Delivery, Epoch, Message, Outgoing, Properties
from worker.testing import Harness, ManualClock, MemoryBroker, run_job
from worker.testing.clock import let_run

# The clock.


async def test_timers_run_in_the_order_of_their_time_then_of_their_making() -> None:
    clock, seen = ManualClock(100), list[tuple[str, float]]()
    for name, delay in (("c", 3), ("a", 1), ("b1", 2), ("b2", 2)):
        clock.call_later(delay, lambda name=name: seen.append((name, clock.now())))  # type: ignore[misc]
    await clock.advance(2)
    assert seen == [("a", 101), ("b1", 102), ("b2", 102)]
    assert (clock.now(), clock.next_due) == (102, 1)


async def test_a_timer_made_by_a_timer_runs_in_its_turn() -> None:
    clock, seen = ManualClock(0), list[float]()

    def again() -> None:
        seen.append(clock.now())
        clock.call_later(1, again)

    clock.call_later(1, again)
    await clock.advance(3.5)
    assert seen == [1, 2, 3]
    assert clock.now() == 3.5


async def test_a_cancelled_timer_neither_runs_nor_counts() -> None:
    clock, seen = ManualClock(), list[int]()
    clock.call_later(1, lambda: seen.append(1)).cancel()
    assert clock.next_due is None
    await clock.advance(5)
    assert seen == []


async def test_sleepers_wake_when_due_and_leave_no_timer_when_cancelled() -> None:
    clock = ManualClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    await clock.advance(4.9)
    assert not sleeper.done()
    await clock.advance(0.1)
    assert sleeper.done()
    other = asyncio.create_task(clock.sleep(5))
    await let_run()
    other.cancel()
    await let_run()
    assert clock.next_due is None
    await clock.sleep(0)
    await clock.sleep(-1)


async def test_a_timeout_ends_its_block_when_due_and_not_after_it_was_left() -> None:
    clock = ManualClock()

    async def block(seconds: float | None) -> str:
        try:
            async with clock.timeout(seconds):
                await clock.sleep(10)
        except TimeoutError:
            return "timeout"
        return "done"

    tasks = [asyncio.create_task(block(seconds)) for seconds in (5, 20, None)]
    await clock.advance(30)
    assert [await task for task in tasks] == ["timeout", "done", "done"]


# The broker.


class Taker:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.events: list[str] = []

    def on_delivery(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def on_epoch(self, epoch: Epoch) -> None:
        self.events.append(f"epoch {epoch.number}")

    def on_lost(self, epoch: Epoch) -> None:
        assert epoch.lost
        self.events.append(f"lost {epoch.number}")


async def consuming(prefetch: int = 2) -> tuple[MemoryBroker, Taker]:
    broker, taker = MemoryBroker(ManualClock()), Taker()
    await broker.start([Lane("jobs", prefetch, taker)])
    return broker, taker


def fill(broker: MemoryBroker, count: int) -> None:
    for number in range(count):
        broker.put(str(number).encode(), Properties(message_id=str(number)))


async def test_prefetch_bounds_what_is_delivered() -> None:
    broker, taker = await consuming(prefetch=2)
    fill(broker, 5)
    assert len(taker.deliveries) == broker.unacked == 2
    await broker.ack(taker.deliveries[0])
    assert [delivery.message.body for delivery in taker.deliveries] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("first", ["ack", "requeue", "refuse"])
@pytest.mark.parametrize("second", ["ack", "requeue", "refuse"])
async def test_settling_twice_is_refused(first: str, second: str) -> None:
    broker, taker = await consuming()
    fill(broker, 1)
    await broker.stop_consuming()
    await getattr(broker, first)(taker.deliveries[0])
    with pytest.raises(AssertionError, match="settled twice"):
        await getattr(broker, second)(taker.deliveries[0])


async def test_a_lost_session_gives_back_in_order_flagged_and_counted() -> None:
    broker, taker = await consuming()
    fill(broker, 3)
    broker.lose_session()
    with pytest.raises(EpochLost):
        await broker.ack(taker.deliveries[0])
    assert [message.body for message in broker.messages("jobs")] == [b"0", b"1", b"2"]
    broker.reconnect()
    again = taker.deliveries[2:]
    assert [(delivery.message.body, delivery.redelivered, delivery.delivery_count) for delivery in again] == [
        (b"0", True, 1),
        (b"1", True, 1),
    ]
    assert taker.events == ["epoch 1", "lost 1", "epoch 2"]


async def test_flush_needs_a_living_session() -> None:
    broker, taker = await consuming()
    fill(broker, 1)
    epoch = taker.deliveries[0].epoch
    await broker.flush(epoch)
    broker.lose_session()
    with pytest.raises(EpochLost):
        await broker.flush(epoch)


async def test_the_ladder_returns_what_it_holds() -> None:
    clock, taker = ManualClock(), Taker()
    broker = MemoryBroker(clock)
    await broker.start([Lane("jobs", 2, taker)])
    await broker.publish(Outgoing("jobs.wait.10s", Message(b"x", Properties(message_id="a"))))
    await clock.advance(9)
    assert taker.deliveries == []
    assert not broker.empty
    await clock.advance(1)
    [delivery] = taker.deliveries
    assert isinstance(delivery.message.properties, Properties)
    assert delivery.message.properties.user_id == "worker"
    assert delivery.message.properties.headers["x-death"][0]["queue"] == "jobs.wait.10s"
    assert not delivery.redelivered


async def test_a_refused_message_is_in_the_dead_queue_with_the_brokers_mark() -> None:
    broker, taker = await consuming()
    fill(broker, 1)
    await broker.refuse(taker.deliveries[0])
    [dead] = broker.dead
    assert isinstance(dead.properties, Properties)
    assert dead.properties.headers["x-death"][0]["reason"] == "rejected"
    assert broker.empty


async def test_publishes_are_refused_where_there_is_no_queue_or_it_refuses() -> None:
    broker, _ = await consuming()
    broker.refusing.add("jobs.dead")
    for queue in ("nowhere", "jobs.dead"):
        with pytest.raises(PublishFailed, match=queue):
            await broker.publish(Outgoing(queue, Message(b"", Properties())))
    assert broker.empty


async def test_nothing_is_delivered_once_consuming_has_stopped() -> None:
    broker, taker = await consuming()
    fill(broker, 1)
    await broker.stop_consuming()
    fill(broker, 1)
    await broker.ack(taker.deliveries[0])
    assert len(taker.deliveries) == 1
    assert len(broker.messages("jobs")) == 1


# A job carried to its end.


async def test_run_job_says_how_a_job_ended() -> None:
    registry, tries = Registry(), []

    @registry.handler("job", attempts=4, backoff=(8, 8))
    async def job(payload: Any, context: Context) -> None:
        tries.append((context.job.attempt, context.job.snoozes, context.job.headers))
        if len(tries) == 1:
            raise Retry
        if len(tries) == 2:
            raise Snooze(100)

    result = await run_job(registry, "job", headers={"tenant": "t"})
    assert (result.status, result.attempts, result.snoozes, result.seconds) == ("succeeded", 2, 1, 108)
    assert (result.reason, result.dead_letter) == (None, None)
    assert [seen[:2] for seen in tries] == [(1, 0), (2, 0), (2, 1)]
    assert {seen[2]["tenant"] for seen in tries} == {"t"}


async def test_all_the_attempts_of_the_default_policy_take_moments() -> None:
    stage = Stage(lambda: 1 / 0)
    stage.go.set()
    since = asyncio.get_running_loop().time()
    result = await run_job(stage.registry, "job")
    assert (result.reason, result.attempts, len(stage.runs)) == ("attempts_exhausted", 16, 16)
    assert result.seconds > 3600
    assert asyncio.get_running_loop().time() - since < 5


async def test_a_job_that_never_ends_is_named() -> None:
    stage = Stage(timeout=3600)
    async with Harness(stage.registry) as harness:
        harness.publish("job", id="stuck")
        with pytest.raises(TimeoutError, match=r"not quiet after 60 s: .*stuck"):
            await harness.until_quiet(longest=60)


async def test_a_request_without_a_transport_says_what_to_do() -> None:
    registry, told = Registry(), []

    @registry.handler("job", attempts=1)
    async def job(payload: Any, context: Context) -> None:
        try:
            await context.request("GET", "http://a.example/")
        except RuntimeError as error:
            told.append(str(error))
        try:
            await context.http.get("http://a.example/")
        except RuntimeError as error:
            told.append(str(error))

    await run_job(registry, "job")
    assert told == ["this job makes requests: hand run_job() or Harness() a transport"] * 2
