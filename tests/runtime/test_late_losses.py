"""Sessions lost at unlucky moments, each found by the simulation (tests/simulation)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from tests.runtime.toys import AckLosingBroker, Stage
from worker import Registry
from worker.core.broker import EpochLost
from worker.core.child import ChildJob
from worker.core.message import Delivery, Epoch, Message, Properties
from worker.testing import Harness, ManualClock, MemoryBroker
from worker.testing.clock import let_run
from worker.testing.options import Retries


class DiesWithoutAWord(AckLosingBroker):
    """Answers the first round trip, and is dead at the next: what was acked before is still there."""

    round_trips = 0

    async def flush(self, epoch: Epoch) -> None:
        await super().flush(epoch)
        self.round_trips += 1
        if self.round_trips == 2:
            self.losing = False
            self.lose_session()
            raise EpochLost


async def test_a_broker_that_dies_before_it_has_taken_the_acks_is_noticed() -> None:
    stage = Stage()
    stage.go.set()
    harness = Harness(stage.registry)
    broker = harness.broker = DiesWithoutAWord(harness.clock)
    async with harness:
        harness.publish("job", 1, id="a")
        await harness.clock.advance(2)
        broker.reconnect()
        await let_run()
        assert stage.runs == [1]
        assert broker.empty


class SlowToRefuse(MemoryBroker):
    """The word stands in a queue that is full; meanwhile the session is lost."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.room = asyncio.Event()

    async def refuse(self, delivery: Delivery) -> None:
        await self.room.wait()
        await super().refuse(delivery)


async def test_a_redelivery_that_joins_before_the_loss_was_told_is_refused_too() -> None:
    harness = Harness(Registry())
    broker = harness.broker = SlowToRefuse(harness.clock)
    async with harness:
        broker._arrive("jobs", Message(b"", Properties(type="job", message_id="a"), announced=17 * 1024 * 1024))
        await let_run()
        broker.lose_session()
        broker.reconnect()
        await let_run()
        broker.room.set()
        await let_run()
        assert broker.unacked == 0
        assert len(broker.dead) == 1


async def test_a_suspect_keeps_its_callback_however_often_its_session_was_lost_while_it_ran() -> None:
    registry, go = Registry(), asyncio.Event()

    @registry.handler("job", callback=lambda payload, result: ChildJob("callback", "told", {"status": result.status}))
    async def job(payload: Any) -> None:
        await go.wait()

    rules = Retries().rules(registry.types, MemoryBroker(ManualClock()).topology)
    async with Harness(registry, rules=replace(rules, suspect_lane=True)) as harness:
        harness.publish("job", {}, id="a")
        await let_run()
        for _ in range(3):
            harness.broker.lose_session()
            harness.broker.reconnect()
            await let_run()
        await harness.broker.stop_consuming()
        go.set()
        await let_run()
        assert [message.body for message in harness.broker.messages("jobs")] == [b'{"status":"succeeded"}']
        assert harness.broker.unacked == 0
