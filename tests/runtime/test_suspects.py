"""Jobs that were there when workers died: they move apart, and after three more deaths they are named."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from tests.runtime.toys import RecordingBroker, Stage, headers, raising
from worker import ChildJob, Registry, Retry
from worker.core.broker import Lane
from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.message import Delivery, Epoch, Message, Properties
from worker.core.result import ReplyRules
from worker.core.topology import Topology
from worker.runtime.rules import Rules
from worker.testing import Harness
from worker.testing.clock import let_run

LANE = Rules(
    DecodeRules(frozenset({"worker"})), CopyRules(Topology("jobs")), ReplyRules(Topology("jobs")), suspect_lane=True
)


def harness_over(registry: Registry, rules: Rules | None = None) -> tuple[Harness, RecordingBroker]:
    harness = Harness(registry, rules=rules)
    broker = harness.broker = RecordingBroker(harness.clock)
    return harness, broker


class DeadWorker:
    """Takes what it is given and dies with it."""

    def on_delivery(self, delivery: Delivery) -> None: ...
    def on_epoch(self, epoch: Epoch) -> None: ...
    def on_lost(self, epoch: Epoch) -> None: ...


async def deaths(broker: RecordingBroker, count: int) -> None:
    """So many workers have died with what is in the queue."""
    await broker.start([Lane("jobs", 10, DeadWorker())])
    for _ in range(count):
        broker.lose_session()
        broker.reconnect()
    broker.lose_session()


def arrives(broker: RecordingBroker, harness: Harness, count: int, **more: object) -> None:
    """A redelivery that the broker has counted `count` times."""
    properties = Properties(type="job", message_id="a", user_id="worker", headers={"x-delivery-count": count, **more})
    epoch = harness.pipeline.epoch
    assert epoch is not None
    [consumer] = broker._consumers.values()
    stored = type("Stored", (), {"message": Message(b"1", properties), "queue": "jobs", "count": count})()
    consumer.unacked[999] = stored
    harness.pipeline.on_delivery(Delivery(Message(b"1", properties), 999, True, epoch, 0.0))


@pytest.mark.parametrize(("count", "ran"), [(0, True), (1, True), (2, False), (7, False)])
async def test_a_job_that_saw_two_deaths_moves_by_a_confirmed_copy(count: int, ran: bool) -> None:
    stage = Stage()
    stage.go.set()
    harness, broker = harness_over(stage.registry)
    async with harness:
        arrives(broker, harness, count)
        await let_run()
        assert bool(stage.runs) is ran
        if not ran:
            assert broker.calls == ["publish jobs.suspect", "confirmed jobs.suspect", "ack"]
            [suspect] = broker.messages("jobs.suspect")
            assert headers(suspect)["x-worker-id"] == "a"
            assert headers(suspect)["x-worker-attempt"] == 1
            assert "x-delivery-count" not in headers(suspect)
        assert broker.unacked == 0


async def test_two_dead_workers_really_lead_there_and_neighbours_that_came_later_run() -> None:
    stage = Stage()
    stage.go.set()
    harness, broker = harness_over(stage.registry)
    harness.publish("job", "kills", id="a")
    await deaths(broker, 1)
    async with harness:
        harness.publish("job", "later", id="b")
        await let_run()
        assert stage.runs == ["later"]
        assert len(broker.messages("jobs.suspect")) == 1


async def test_what_the_publisher_writes_into_the_counter_counts_for_nothing() -> None:
    stage = Stage()
    stage.go.set()
    harness, broker = harness_over(stage.registry)
    async with harness:
        harness.publish("job", 1, id="a", headers={"x-delivery-count": 99})
        await let_run()
        assert stage.runs == [1]
        assert broker.messages("jobs.suspect") == []


@pytest.mark.parametrize(("count", "ran"), [(0, True), (2, True), (3, False)])
async def test_on_the_lane_three_more_deaths_name_the_job(count: int, ran: bool) -> None:
    stage = Stage()
    stage.go.set()
    harness, broker = harness_over(stage.registry, LANE)
    async with harness:
        arrives(broker, harness, count, **{"x-worker-attempt": 4})
        await let_run()
        assert bool(stage.runs) is ran
        assert [headers(letter)["x-worker-reason"] for letter in broker.dead] == ([] if ran else ["crashed_worker"])
        if not ran:
            assert headers(broker.dead[0])["x-worker-detail"] == "a worker died in each of 5 deliveries"
            assert headers(broker.dead[0])["x-worker-attempt"] == 4


async def test_what_the_lane_gives_back_is_a_fresh_copy_because_a_nack_counts() -> None:
    stage = Stage()
    harness, broker = harness_over(stage.registry, LANE)
    async with harness:
        arrives(broker, harness, 2)
        await let_run()
        assert len(stage.runs) == 1
        harness.pipeline.stop_starting()
        await broker.stop_consuming()
        harness.pipeline.give_back()
        harness.pipeline.interrupt()
        await harness.pipeline.idle()
        assert broker.calls == ["publish jobs.suspect", "confirmed jobs.suspect", "ack"]


async def test_what_waits_on_the_lane_is_given_back_the_same_way() -> None:
    stage = Stage(concurrency=1)
    harness, broker = harness_over(stage.registry, LANE)
    async with harness:
        harness.publish("job", "runs", id="b")
        await let_run()
        arrives(broker, harness, 2)
        await let_run()
        assert stage.runs == ["runs"]
        harness.pipeline.stop_starting()
        await broker.stop_consuming()
        harness.pipeline.give_back()
        await let_run()
        assert broker.calls == ["publish jobs.suspect", "confirmed jobs.suspect", "ack"]
        assert broker.unacked == 1


@pytest.mark.parametrize(("crashes", "ran"), [(0, True), (1, False)])
async def test_a_job_that_kills_now_and_then_is_found_over_its_copies(crashes: int, ran: bool) -> None:
    """It killed, failed, and killed again: a copy is a fresh message, of which the broker has counted one."""
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness, broker = harness_over(stage.registry)
    async with harness:
        arrives(broker, harness, 1, **{"x-worker-crashes": crashes})
        await let_run()
        assert bool(stage.runs) is ran
        [copy] = broker.messages("jobs.wait.10s" if ran else "jobs.suspect")
        assert headers(copy)["x-worker-crashes"] == crashes + 1


async def test_what_may_kill_is_not_validated_once_more_for_the_sake_of_a_callback() -> None:
    tried: list[int] = []

    def kills(value: int) -> int:
        tried.append(value)
        return value

    async def handler(payload: Any) -> None:
        return None

    handler.__annotations__["payload"] = Annotated[int, AfterValidator(kills)]
    registry = Registry()
    registry.handler("job", callback=lambda _payload, _result: ChildJob("callback", "t"))(handler)
    harness, broker = harness_over(registry, LANE)
    async with harness:
        arrives(broker, harness, 3)
        await let_run()
        [letter] = broker.dead
        assert headers(letter)["x-worker-reason"] == "crashed_worker"
        assert not broker.messages("jobs")
    assert not tried
