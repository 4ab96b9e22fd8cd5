"""Settling: an ack follows the confirm of what replaces the job, however long that takes, and holds no slot."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.runtime.toys import RecordingBroker, Stage, raising
from worker import Reject, Retry, Snooze
from worker.core.message import Outgoing
from worker.runtime.settler import LONGEST_PAUSE
from worker.testing import Harness, ManualClock
from worker.testing.clock import let_run

WAIT = "jobs.wait.10s"


def recorded(stage: Stage) -> tuple[Harness, RecordingBroker]:
    harness = Harness(stage.registry)
    broker = harness.broker = RecordingBroker(harness.clock)
    return harness, broker


class SlowBroker(RecordingBroker):
    """Confirms nothing before `confirm` is set."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.confirm = asyncio.Event()

    async def publish(self, outgoing: Outgoing) -> None:
        self.calls.append("unconfirmed")
        await self.confirm.wait()
        await super().publish(outgoing)


@pytest.mark.parametrize(
    ("error", "queue"),
    [(Retry(after=10), WAIT), (Snooze(10), WAIT), (Retry(after=0), "jobs"), (Reject("no"), "jobs.dead")],
    ids=["retry", "snooze", "retry at once", "reject"],
)
async def test_the_ack_follows_the_confirm(error: Exception, queue: str) -> None:
    stage = Stage(raising(error))
    stage.go.set()
    harness = Harness(stage.registry)
    broker = harness.broker = SlowBroker(harness.clock)
    async with harness:
        harness.publish("job", 1, id="a")
        await let_run()
        assert broker.calls == ["unconfirmed"]
        assert broker.unacked == 1
        stage.go.clear()
        broker.confirm.set()
        await let_run()
        assert broker.calls[:4] == ["unconfirmed", f"publish {queue}", f"confirmed {queue}", "ack"]


async def test_a_job_that_returns_is_acked_after_its_handler_returned_and_not_before() -> None:
    stage = Stage()
    harness, broker = recorded(stage)
    async with harness:
        harness.publish("job", 1, id="a")
        await let_run()
        assert broker.calls == []
        stage.go.set()
        await let_run()
        assert broker.calls == ["ack"]


async def test_a_refused_publish_holds_the_delivery_and_repeats_neither_effect_nor_copy() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness, broker = recorded(stage)
    async with harness:
        broker.refusing.add(WAIT)
        harness.publish("job", 1, id="a")
        await harness.clock.advance(20)
        assert harness.pipeline.held == 1
        assert broker.unacked == 1
        assert "ack" not in broker.calls
        assert [row["state"] for row in harness.pipeline.jobs()] == ["settling"]
        broker.refusing.clear()
        await harness.clock.advance(LONGEST_PAUSE)
        assert harness.pipeline.held == 0
        assert stage.runs == [1]
        assert len(broker.messages(WAIT)) == 1
        assert broker.unacked == 0
        assert broker.calls[-2:] == [f"confirmed {WAIT}", "ack"]


async def test_the_pause_between_publishes_grows_to_a_bound() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness, broker = recorded(stage)
    async with harness:
        broker.refusing.add(WAIT)
        harness.publish("job", 1, id="a")
        await harness.clock.advance(25)
        pauses = [round(later - earlier, 3) for earlier, later in pairwise(broker.asked_at)]
        assert pauses[:8] == [0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


async def test_the_copy_keeps_its_id_over_all_publishes() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness = Harness(stage.registry)
    ids: set[object] = set()

    class Watching(RecordingBroker):
        async def publish(self, outgoing: Outgoing) -> None:
            ids.add(getattr(outgoing.message.properties, "message_id", None))
            await super().publish(outgoing)

    broker = harness.broker = Watching(harness.clock)
    async with harness:
        broker.refusing.add(WAIT)
        harness.publish("job", 1, id="a")
        await harness.clock.advance(5)
        assert len(broker.asked_at) > 3
        assert len(ids) == 1
        assert ids.isdisjoint({None, "a"})


async def test_settling_holds_no_slot() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    async with Harness(stage.registry, concurrency=1) as harness:
        harness.broker.refusing.add(WAIT)
        for number in range(2):
            harness.publish("job", number, id=f"id{number}")
        await let_run()
        assert stage.runs == [0, 1]
        assert harness.pipeline.running == 0
        assert harness.pipeline.held == 2


async def test_a_queue_that_is_missing_holds_the_delivery_until_it_is_there() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    async with Harness(stage.registry) as harness:
        queue = harness.broker._queues.pop(WAIT)
        harness.publish("job", 1, id="a")
        await harness.clock.advance(20)
        assert harness.pipeline.held == 1
        assert harness.broker.unacked == 1
        harness.broker._queues[WAIT] = queue
        await harness.clock.advance(LONGEST_PAUSE)
        assert harness.pipeline.held == 0
        assert len(harness.broker.messages(WAIT)) == 1
        assert stage.runs == [1]


async def test_a_drain_gives_back_what_is_held() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    harness, broker = recorded(stage)
    async with harness:
        broker.refusing.add(WAIT)
        harness.publish("job", 1, id="a")
        await harness.clock.advance(20)
        harness.pipeline.stop_starting()
        await broker.stop_consuming()
        harness.pipeline.settler.give_up()
        await let_run()  # at once: a drain does not wait for the pause to end
        assert broker.calls[-1] == "requeue"
        assert "ack" not in broker.calls
        assert len(broker.messages("jobs")) == 1
        assert broker.messages(WAIT) == []
        assert harness.pipeline.held == 0


async def test_a_session_lost_while_held_publishes_nothing_until_the_redelivery_joins() -> None:
    stage = Stage(raising(Retry(after=10)))
    stage.go.set()
    async with Harness(stage.registry) as harness:
        harness.broker.refusing.add(WAIT)
        harness.publish("job", 1, id="a")
        await let_run()
        harness.broker.lose_session()
        harness.broker.refusing.clear()
        await harness.clock.advance(20)
        assert harness.broker.messages(WAIT) == []
        harness.broker.reconnect()
        await let_run()
        assert len(harness.broker.messages(WAIT)) == 1
        assert harness.broker.unacked == 0
        assert stage.runs == [1]
