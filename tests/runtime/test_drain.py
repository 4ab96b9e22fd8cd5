"""Draining: what waits goes back, what runs finishes or is carried on with its steps, nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.runtime.toys import RecordingBroker, Stage, headers
from worker import Context, Registry
from worker.core.message import Properties
from worker.runtime.executor import CLEANUP
from worker.runtime.limiter import Places
from worker.testing import Harness
from worker.testing.clock import let_run


async def begin_drain(harness: Harness) -> None:
    """As the service does it."""
    harness.pipeline.stop_starting()
    await harness.broker.stop_consuming()
    harness.pipeline.give_back()


async def test_what_waits_goes_back_and_what_runs_finishes() -> None:
    stage = Stage()
    async with Harness(stage.registry, concurrency=1, prefetch=3) as harness:
        for number in range(3):
            harness.publish("job", number, id=f"id{number}")
        await let_run()
        await begin_drain(harness)
        await let_run()
        assert sorted(message.body for message in harness.broker.messages("jobs")) == [b"1", b"2"]
        assert harness.broker.unacked == 1
        stage.go.set()
        await harness.pipeline.idle()
        assert stage.runs == [0]
        assert harness.broker.unacked == 0
        assert len(harness.broker.messages("jobs")) == 2


async def test_what_was_delivered_a_moment_ago_goes_back_too() -> None:
    """Its task has not taken its first step yet: cancelled there it would settle nothing."""
    stage = Stage()
    async with Harness(stage.registry) as harness:
        for number in range(3):
            harness.publish("job", number, id=f"id{number}")
        harness.pipeline.give_back()
        await harness.broker.stop_consuming()
        await harness.pipeline.idle()
        assert harness.broker.unacked == 0
        assert len(harness.broker.messages("jobs")) == 3
        assert stage.runs == []


async def test_nothing_is_given_back_while_the_queue_is_still_consumed() -> None:
    stage = Stage()
    harness = Harness(stage.registry)
    broker = harness.broker = RecordingBroker(harness.clock)
    async with harness:
        harness.pipeline.stop_starting()
        harness.publish("job", 1, id="a")
        await let_run()
        assert broker.calls == []
        await broker.stop_consuming()
        harness.pipeline.give_back()
        await harness.pipeline.idle()
        assert broker.calls == ["requeue"]
        assert stage.runs == []


@pytest.mark.parametrize("waits_for", ["key", "start"])
async def test_whatever_a_job_waits_for_it_goes_back(waits_for: str) -> None:
    stage = Stage(key=lambda payload: payload)
    async with Harness(stage.registry, places=Places(default_key=1)) as harness:
        harness.publish("job", "k", id="runs")
        await let_run()
        soon = {"x-worker-not-before": int(harness.clock.now() * 1000) + 500} if waits_for == "start" else {}
        harness.publish("job", "other" if waits_for == "start" else "k", id="waits", headers=soon)
        await let_run()
        await begin_drain(harness)
        await let_run()
        assert [message.properties.message_id for message in harness.broker.messages("jobs")] == ["waits"]  # type: ignore[union-attr]
        assert stage.runs == ["k"]


async def test_an_interrupted_job_without_steps_is_requeued_as_it_is() -> None:
    stage = Stage()
    harness = Harness(stage.registry)
    broker = harness.broker = RecordingBroker(harness.clock)
    async with harness:
        harness.publish("job", 1, id="a")
        await let_run()
        await begin_drain(harness)
        harness.pipeline.interrupt()
        await harness.pipeline.idle()
        assert broker.calls == ["requeue"]
        [message] = broker.messages("jobs")
        assert message.properties == Properties(type="job", message_id="a")
        assert [(r.outcome, r.disposition) for r in harness.reports.all] == [("interrupted", "requeued")]


@dataclass
class Stepping:
    """A handler with one quick step, then one that waits to be let go."""

    registry: Registry = field(default_factory=Registry)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    ran: list[str] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry.handler("job", attempts=2)(self.handle)

    async def handle(self, payload: Any, context: Context) -> None:
        self.attempts.append(context.job.attempt)
        await context.step("quick", self.quick)
        await context.step("slow", self.slow, timeout=100)

    async def quick(self) -> None:
        self.ran.append("quick")

    async def slow(self) -> None:
        self.ran.append("slow")
        await self.go.wait()


async def test_an_interrupted_job_is_parked_with_its_finished_steps_at_no_cost() -> None:
    stage = Stepping()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        await begin_drain(harness)
        harness.pipeline.interrupt()
        await harness.pipeline.idle()
        [copy] = harness.broker.messages("jobs")
        found = headers(copy)
        assert found["x-worker-steps"] == '{"quick":[null]}'
        assert (found["x-worker-attempt"], found["x-worker-interruptions"]) == (1, 1)
        assert found["x-worker-id"] == "a"
        assert harness.broker.unacked == 0


async def test_finished_steps_are_not_run_again_after_a_drain() -> None:
    stage = Stepping()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        harness.pipeline.interrupt()
        await let_run()  # it comes back at once, here to the same worker
        assert stage.ran == ["quick", "slow", "slow"]
        stage.go.set()
        await harness.until_quiet()
        assert stage.ran == ["quick", "slow", "slow"]
        assert harness.broker.dead == []


async def test_the_tenth_interruption_costs_an_attempt_and_the_last_attempt_is_the_last() -> None:
    stage = Stepping()
    async with Harness(stage.registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        for _ in range(11):
            harness.pipeline.interrupt()
            await let_run()
        assert stage.attempts == [1] * 10 + [2]
        [letter] = harness.broker.dead
        assert headers(letter)["x-worker-reason"] == "attempts_exhausted"
        assert stage.ran.count("quick") == 1


async def test_an_interrupted_job_that_returns_all_the_same_is_no_success() -> None:
    registry, runs = Registry(), []

    @registry.handler("job")
    async def job(payload: Any) -> str:
        runs.append(1)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "half done"

    async with Harness(registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        await begin_drain(harness)
        harness.pipeline.interrupt()
        await harness.pipeline.idle()
        assert [report.outcome for report in harness.reports.all] == ["interrupted"]
        assert len(harness.broker.messages("jobs")) == 1


async def test_a_handler_that_ignores_cancellation_does_not_hold_up_the_drain() -> None:
    registry, release = Registry(), asyncio.Event()

    @registry.handler("job")
    async def job(payload: Any) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with Harness(registry) as harness:
        harness.publish("job", 1, id="a")
        await let_run()
        await begin_drain(harness)
        harness.pipeline.interrupt()
        await harness.clock.advance(CLEANUP)
        assert not harness.pipeline.unsettled
        assert len(harness.broker.messages("jobs")) == 1
        release.set()
        await let_run()


async def test_closing_ends_what_waits_and_what_runs_and_settles_neither() -> None:
    stage = Stage()
    harness = Harness(stage.registry, concurrency=1, prefetch=3)
    broker = harness.broker = RecordingBroker(harness.clock)
    async with harness:
        for number in range(3):
            harness.publish("job", number, id=f"id{number}")
        await let_run()
        await asyncio.wait_for(harness.pipeline.close(), 5)
        assert broker.calls == []
        assert broker.unacked == 3
        await broker.close()
        assert len(broker.messages("jobs")) == 3
