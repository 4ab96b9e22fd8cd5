"""Steps that wait: in their job's slot, so not for long, unless the job has others that run meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from worker import Context, Registry
from worker.runtime.limiter import KEY_PATIENCE, Asker, Busy, Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import Harness, ManualClock
from worker.testing.clock import let_run


def limiter(places: Places, clock: ManualClock) -> Limiter:
    return Limiter(places, clock, Silent(), lambda: 0.5)


async def step_of_a_job(limits: Limiter, clock: ManualClock, key: str | None, seconds: float) -> None:
    async with limits.job([], {}, Asker("job", clock.now(), "type")), limits.step(key):
        await clock.sleep(seconds)


@pytest.mark.parametrize("waiters", [0, 1, 12])
async def test_a_fan_out_over_a_narrow_key_waits_for_its_own_elements(waiters: int) -> None:
    registry = Registry()

    @registry.handler("job", timeout=60)
    async def job(payload: int, context: Context) -> None:
        async def call(number: int) -> None:
            await harness.clock.sleep(0.7)

        await context.map("call", call, range(40), concurrency=20, key="api")

    async with Harness(registry, places=Places(waiters=waiters, keys={"api": 4})) as harness:
        harness.publish("job", 1, id="many")
        since = harness.clock.now()
        await harness.until_quiet()
        assert [report.disposition for report in harness.reports.all] == ["done"]
        assert harness.clock.now() - since <= 7.5  # 40 * 0.7 / 4 is the least


async def test_steps_that_wait_for_a_key_leave_the_room_to_deliveries() -> None:
    clock = ManualClock()
    limits = limiter(Places(waiters=1, keys={"api": 1, "other": 1}), clock)
    holders = [asyncio.create_task(step_of_a_job(limits, clock, key, 1.0)) for key in ("api", "other")]
    await let_run()
    steps = [asyncio.create_task(step_of_a_job(limits, clock, "api", 0.1)) for _ in range(3)]
    await let_run()
    async with asyncio.TaskGroup() as tasks:

        async def whole() -> None:
            async with limits.job(["other"], {}, Asker("whole", clock.now(), "type")):
                pass

        waits = tasks.create_task(whole())
        await let_run()
        assert not waits.done()
        await clock.advance(3.0)
    await asyncio.gather(*holders, *steps)
    assert set(limits.in_use().values()) == {0}


async def test_a_step_that_waits_for_a_common_place_gives_its_slot_back_in_time() -> None:
    registry, waited = Registry(), Counter[str]()

    @registry.handler("many", timeout=120)
    async def many(payload: int, context: Context) -> None:
        async def call(number: int) -> None:
            await harness.clock.sleep(30)

        await context.map("call", call, range(25), concurrency=25, timeout=40)

    @registry.handler("few", timeout=60)
    async def few(payload: int, context: Context) -> None:
        async def quick() -> None:
            waited["ran"] += 1

        await context.step("quick", quick)

    async with Harness(registry, places=Places(concurrency=10, steps=20)) as harness:
        harness.publish("many", 1, id="many")
        await harness.clock.advance(0.1)
        for number in range(3):
            harness.publish("few", 1, id=f"few{number}")
        await harness.clock.advance(KEY_PATIENCE + 0.1)
        parked = {report.id for report in harness.reports.all if report.reason == "busy_key"}
        assert parked == {"few0", "few1", "few2"}
        await harness.until_quiet()
        assert waited["ran"] == 3
        # The five elements above the places wait for those of their own job, however long.
        assert [report.disposition for report in harness.reports.all if report.id == "many"] == ["done"]


async def test_a_step_that_waits_for_a_common_place_leaves_when_its_key_is_held_back() -> None:
    clock = ManualClock()
    limits = limiter(Places(steps=1), clock)
    holds = asyncio.create_task(step_of_a_job(limits, clock, "fine", 1.0))
    await let_run()
    waits = {key: asyncio.create_task(step_of_a_job(limits, clock, key, 0.1)) for key in ("down", "fine")}
    await let_run()
    limits.health.asked_to_wait(limits.key("down"), 60.0, clock.monotonic())
    await let_run()
    assert (waits["down"].done(), waits["fine"].done()) == (True, False)
    with pytest.raises(Busy, match="down"):
        await waits["down"]
    await clock.advance(2.0)
    await asyncio.gather(holds, waits["fine"])
    assert set(limits.in_use().values()) == {0}


@pytest.mark.parametrize(("places", "jobs"), [(1, 1), (3, 30)])
async def test_a_step_under_the_key_of_its_job_has_the_place_of_its_job(places: int, jobs: int) -> None:
    registry, most, inside = Registry(), [0], [0]

    @registry.handler("job", key=lambda payload: "db")
    async def job(payload: int, context: Context) -> None:
        async def query() -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await harness.clock.sleep(0.1)
            inside[0] -= 1

        await context.step("query", query, key="db")

    async with Harness(registry, places=Places(concurrency=10, keys={"db": places})) as harness:
        for number in range(jobs):
            harness.publish("job", number, id=f"id{number}")
        await harness.until_quiet()
        assert [report.disposition for report in harness.reports.all] == ["done"] * jobs
        assert most[0] == places


async def test_the_metrics_hear_of_each_step_that_begins_and_ends() -> None:
    class Counting(Silent):
        def step_started(self) -> None:
            told["started"] += 1

        def step_ended(self) -> None:
            told["ended"] += 1

    told, clock = Counter[str](), ManualClock()
    limits = Limiter(Places(steps=2), clock, Counting())
    tasks = [asyncio.create_task(step_of_a_job(limits, clock, None, 0.1)) for _ in range(5)]
    await let_run()
    assert told == {"started": 2}
    await clock.advance(1.0)
    await asyncio.gather(*tasks)
    assert told == {"started": 5, "ended": 5}


async def test_a_worker_that_is_started_in_a_job_of_another_counts_for_itself() -> None:
    clock = ManualClock()
    outer, inner = (limiter(Places(default_key=1), clock) for _ in range(2))
    async with outer.job(["a"], {}), inner.step("a"), inner.step(None):
        assert inner.in_use()["steps"] == 2
        assert outer.key("a").steps.held == 0
        gate = inner.key("a").gate
        assert gate is not None
        assert gate.held == 1
    assert set(inner.in_use().values()) == {0}


async def test_one_more_step_of_a_job_waits_for_the_others_of_its_job() -> None:
    clock = ManualClock()
    limits = limiter(Places(steps=10), clock)
    await step_of_a_job(limits, clock, "light", 0.0)

    async def step() -> None:
        async with limits.step("slow"):
            await clock.sleep(8.0)

    async with limits.job([], {}, Asker("job", 1.0, "type")):
        steps = [asyncio.create_task(step()) for _ in range(8)]
        await clock.advance(4.0)
        late = asyncio.create_task(step())
        await clock.advance(3.0)
        assert not late.done()
        await clock.advance(20.0)
        await asyncio.gather(*steps, late)
    assert set(limits.in_use().values()) == {0}
