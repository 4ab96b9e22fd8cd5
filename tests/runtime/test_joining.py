"""A lost session gives every delivery back: which redelivery joins the job that is already there, and which runs."""

from __future__ import annotations

import asyncio

import pytest

from tests.runtime.toys import AckLosingBroker, LostAcks, RecordingBroker, Stage, headers, raising, taken_elsewhere
from worker import Retry
from worker.core.message import Delivery, Epoch, Message, Outgoing, Properties, Undecodable
from worker.runtime.inflight import JOIN_AFTER_END, JOIN_WINDOW, InFlight
from worker.testing import Harness, ManualClock
from worker.testing.clock import let_run

WAIT = "jobs.wait.10s"


async def test_a_running_job_whose_session_is_lost_runs_once_and_its_redelivery_is_acked() -> None:
    stage = Stage()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        harness.broker.reconnect()
        await let_run()
        assert harness.broker.unacked == 1
        stage.go.set()
        await let_run()
        assert stage.runs == [1]
        assert harness.broker.empty
        assert [report.disposition for report in harness.reports.all] == ["done"]


async def test_two_losses_in_a_row_repeat_nothing() -> None:
    stage = Stage()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        for _ in range(2):
            harness.broker.lose_session()
            harness.broker.reconnect()
            await let_run()
        stage.go.set()
        await let_run()
        assert stage.runs == [1]
        assert harness.broker.empty
        assert harness.broker.messages("jobs.suspect") == []


async def test_a_loss_before_anything_came_back_repeats_nothing_either() -> None:
    stage = Stage()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        harness.broker.lose_session()
        stage.go.set()
        await let_run()
        harness.broker.reconnect()
        await let_run()
        assert stage.runs == [1]
        assert harness.broker.empty


async def test_a_job_that_ends_while_void_publishes_nothing_until_its_redelivery_has_joined() -> None:
    stage = Stage(raising(Retry(after=10)))
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        stage.go.set()
        await harness.clock.advance(60)
        assert harness.broker.messages(WAIT) == []
        assert len(harness.broker.messages("jobs")) == 1  # the original alone
        harness.broker.reconnect()
        await let_run()
        assert len(harness.broker.messages(WAIT)) == 1
        assert harness.broker.messages("jobs") == []
        assert harness.broker.unacked == 0
        assert stage.runs == [1]


class LosesAfterConfirm(RecordingBroker):
    """The session breaks between the first confirm and the ack."""

    broken = False

    async def publish(self, outgoing: Outgoing) -> None:
        await super().publish(outgoing)
        if not self.broken:
            self.broken = True
            self.lose_session()


async def test_a_loss_between_confirm_and_ack_leaves_one_copy_and_the_redelivery_is_acked() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness = Harness(stage.registry)
    broker = harness.broker = LosesAfterConfirm(harness.clock)
    async with harness:
        harness.publish("job", 1, id="a")
        await let_run()
        assert len(broker.messages("jobs")) == 1
        broker.reconnect()
        await let_run()
        assert broker.calls == [f"publish {WAIT}", f"confirmed {WAIT}", "ack"]
        assert len(broker.messages(WAIT)) == 1
        assert broker.messages("jobs") == []
        assert stage.runs == [1]


async def test_a_lost_ack_of_a_settled_job_is_repeated_without_a_run() -> None:
    stage = Stage()
    stage.go.set()
    harness = Harness(stage.registry)
    broker = harness.broker = AckLosingBroker(harness.clock)
    async with harness:
        harness.publish("job", 1, id="a")
        await let_run()
        assert broker.unacked == 1
        broker.losing = False
        broker.lose_session()
        broker.reconnect()
        await let_run()
        assert broker.empty
        assert stage.runs == [1]


async def test_a_lost_ack_of_a_parked_job_leaves_one_copy() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness = Harness(stage.registry)
    broker = harness.broker = AckLosingBroker(harness.clock)
    async with harness:
        harness.publish("job", 1, id="a")
        await let_run()
        broker.losing = False
        broker.lose_session()
        broker.reconnect()
        await let_run()
        assert len(broker.messages(WAIT)) == 1
        assert broker.unacked == 0
        assert stage.runs == [1]


async def test_what_the_broker_has_surely_processed_is_forgotten() -> None:
    stage = Stage()
    stage.go.set()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        assert len(harness.pipeline.inflight) == 1  # its ack can still be lost
        await harness.clock.advance(2)
        assert len(harness.pipeline.inflight) == 0


async def test_deliveries_that_had_not_started_run_once() -> None:
    stage = Stage()
    async with Harness(stage.registry, concurrency=1, prefetch=3) as harness:
        for number in range(3):
            harness.publish("job", number, id=f"id{number}")
        await let_run()
        assert stage.runs == [0]
        harness.broker.lose_session()
        harness.broker.reconnect()
        stage.go.set()
        await let_run()
        assert stage.runs == [0, 1, 2]
        assert harness.broker.empty


async def test_a_delivery_lost_before_its_task_began_runs_once() -> None:
    stage = Stage()
    stage.go.set()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        harness.broker.lose_session()
        harness.broker.reconnect()
        await let_run()
        assert stage.runs == [1]
        assert harness.broker.empty


async def test_without_a_message_id_the_job_runs_again_and_the_first_run_publishes_nothing() -> None:
    stage = Stage(raising(Retry(after=10)))
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1)
        await let_run()
        harness.broker.lose_session()
        harness.broker.reconnect()
        await let_run()
        assert stage.runs == [1, 1]
        stage.go.set()
        await let_run()
        assert len(harness.broker.messages(WAIT)) == 1
        assert harness.broker.unacked == 0


async def test_a_replay_has_the_job_id_and_does_not_join() -> None:
    stage = Stage()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        replay = Properties(type="job", message_id="b", user_id="worker", headers={"x-worker-id": "a"})
        harness.broker.put(b"1", replay)
        harness.broker.reconnect()
        await let_run()
        assert stage.runs == [1, 1]
        stage.go.set()
        await let_run()
        assert [report.id for report in harness.reports.all] == ["a", "a"]
        assert harness.broker.empty


async def test_a_replay_that_is_itself_redelivered_does_not_join_by_job_id() -> None:
    """Nothing but the message's own identity counts: were the replay acked, it would be lost."""
    stage = Stage()
    async with Harness(stage.registry, concurrency=1, prefetch=2) as harness:
        harness.publish("job", 1, id="a")
        replay = Properties(type="job", message_id="b", user_id="worker", headers={"x-worker-id": "a"})
        harness.broker.put(b"1", replay)
        await let_run()
        assert stage.runs == [1]
        harness.broker.lose_session()
        harness.broker._queues["jobs"].popleft()  # another replica has the first; the replay comes back here
        harness.broker.reconnect()
        stage.go.set()
        await let_run()
        assert stage.runs == [1, 1]
        assert harness.broker.empty


async def test_a_record_whose_redelivery_never_comes_is_dropped_after_its_window() -> None:
    lost = LostAcks()
    stage = Stage(raising(Retry(after=10)))
    async with Harness(stage.registry, telemetry=lost) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        taken_elsewhere(harness.broker)
        stage.go.set()
        await harness.clock.advance(10 * JOIN_WINDOW)
        assert len(harness.pipeline.inflight) == 1  # nothing can come while nothing is consumed
        harness.broker.reconnect()
        await harness.clock.advance(JOIN_WINDOW - 1)
        assert len(harness.pipeline.inflight) == 1
        await harness.clock.advance(3)
        assert len(harness.pipeline.inflight) == 0
        await harness.pipeline.idle()
        assert harness.broker.empty  # not a copy of what is another replica's now
        assert lost.count == 1


async def test_a_job_that_ends_after_the_window_still_waits_a_little() -> None:
    stage = Stage(raising(Retry(after=10)), timeout=600)
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        taken_elsewhere(harness.broker)
        harness.broker.reconnect()
        await harness.clock.advance(JOIN_WINDOW + 30)
        assert len(harness.pipeline.inflight) == 1  # it still runs
        stage.go.set()
        await harness.clock.advance(JOIN_AFTER_END - 1)
        assert len(harness.pipeline.inflight) == 1
        await harness.clock.advance(3)
        assert len(harness.pipeline.inflight) == 0


async def test_the_copy_of_a_joined_job_carries_on_the_first_deliverys_counters() -> None:
    stage = Stage(raising(Retry(after=10)))
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        harness.broker.reconnect()
        stage.go.set()
        await let_run()
        [copy] = harness.broker.messages(WAIT)
        assert headers(copy)["x-worker-id"] == "a"
        assert headers(copy)["x-worker-attempt"] == 2
        assert "x-delivery-count" not in headers(copy)


# The rules themselves, one delivery after another.


def delivery(
    epoch: Epoch, *, id: str | None = "a", body: bytes = b"1", again: bool = False, **more: object
) -> Delivery:
    properties = Properties(type="job", message_id=id, headers=dict(more))
    return Delivery(Message(body, properties), 1, again, epoch, 0.0)


@pytest.mark.parametrize(
    ("comes", "joins"),
    [
        ({"again": True}, True),
        ({"again": False}, False),
        ({"again": True, "body": b"2"}, False),
        ({"again": True, "id": "b"}, False),
        ({"again": True, "id": "b", "x-worker-id": "a"}, False),
        ({"again": True, "id": None}, False),
    ],
    ids=["the same message", "not flagged", "another body", "another id", "the same job id", "no id"],
)
async def test_what_joins(comes: dict[str, object], joins: bool) -> None:
    inflight, first = InFlight(ManualClock()), Epoch(1)
    record, _ = inflight.attach(delivery(first))
    first.lost = True
    found, joined = inflight.attach(delivery(Epoch(2), **comes))  # type: ignore[arg-type]
    assert joined is joins
    assert (found is record) is joins


async def test_nothing_joins_a_delivery_whose_session_lives() -> None:
    inflight, first = InFlight(ManualClock()), Epoch(1)
    inflight.attach(delivery(first))
    assert not inflight.attach(delivery(first, again=True))[1]


async def test_nothing_joins_without_a_message_id() -> None:
    inflight, first = InFlight(ManualClock()), Epoch(1)
    inflight.attach(delivery(first, id=None))
    first.lost = True
    assert not inflight.attach(delivery(Epoch(2), id=None, again=True))[1]


async def test_each_loss_serves_one_join() -> None:
    inflight, first, second = InFlight(ManualClock()), Epoch(1), Epoch(2)
    record, _ = inflight.attach(delivery(first))
    first.lost = True
    assert inflight.attach(delivery(second, again=True)) == (record, True)
    assert not inflight.attach(delivery(second, again=True))[1]
    second.lost = True
    assert inflight.attach(delivery(Epoch(3), again=True))[1]


async def test_undecodable_properties_are_known_by_their_bytes() -> None:
    inflight, first = InFlight(ManualClock()), Epoch(1)
    message, other = Message(b"", Undecodable(b"\x01", "?")), Message(b"", Undecodable(b"\x02", "?"))
    record, _ = inflight.attach(Delivery(message, 1, False, first, 0.0))
    first.lost = True
    assert not inflight.attach(Delivery(other, 1, True, Epoch(2), 0.0))[1]
    assert inflight.attach(Delivery(message, 2, True, Epoch(2), 0.0)) == (record, True)


async def test_two_messages_alike_are_two_jobs_before_and_after_a_loss() -> None:
    stage = Stage()
    async with Harness(stage.registry) as harness:
        for _ in range(2):
            harness.publish("job", 1, id="a")
        await let_run()
        assert len(stage.runs) == 2
        harness.broker.lose_session()
        harness.broker.reconnect()
        await let_run()
        stage.go.set()
        await asyncio.wait_for(harness.pipeline.idle(), 5)
        assert len(stage.runs) == 2
        assert harness.broker.empty
