"""Admission: how many run at once, who is turned away, and that nothing leaks."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from tests.runtime.toys import Stage, headers
from worker import Context, Registry
from worker.runtime.limiter import KEY_PATIENCE, Busy, Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import Harness, ManualClock, run_job
from worker.testing.clock import let_run


def limiter(places: Places, clock: ManualClock | None = None) -> Limiter:
    return Limiter(places, clock or ManualClock(), Silent(), lambda: 0.5)


class Crowd:
    """Counts who is inside, and the most there ever were."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def __aenter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    async def __aexit__(self, *error: object) -> None:
        self.now -= 1


async def work(crowd: Crowd) -> None:
    async with crowd:
        for _ in range(3):
            await asyncio.sleep(0)


# In the pipeline.


async def test_concurrency_is_used_up_and_never_exceeded() -> None:
    registry, crowd = Registry(), Crowd()

    @registry.handler("job")
    async def job(payload: int) -> None:
        await work(crowd)

    async with Harness(registry, concurrency=3, prefetch=20) as harness:
        for number in range(20):
            harness.publish("job", number, id=f"id{number}")
        await harness.until_quiet()
        assert crowd.most == 3
        assert len(harness.reports.all) == 20


async def test_steps_in_flight_are_bounded_over_all_jobs() -> None:
    registry, crowd = Registry(), Crowd()

    async def step(number: int) -> None:
        await work(crowd)

    @registry.handler("job")
    async def job(payload: int, context: Context) -> None:
        await context.map("step", step, range(5), concurrency=5)

    async with Harness(registry, places=Places(concurrency=10, steps=4)) as harness:
        for number in range(5):
            harness.publish("job", number, id=f"id{number}")
        await harness.until_quiet()
        assert crowd.most == 4
        assert [report.outcome for report in harness.reports.all] == ["succeeded"] * 5


@pytest.mark.parametrize("places", [Places(keys={"a": 2}), Places(default_key=2), Places(keys={"b": 1}, default_key=2)])
async def test_a_key_of_the_registration_is_bounded(places: Places) -> None:
    stage = Stage(key=lambda payload: payload)
    async with Harness(stage.registry, places=places) as harness:
        for number in range(4):
            harness.publish("job", "a", id=f"id{number}")
        await let_run()
        assert stage.runs == ["a", "a"]


async def test_a_key_without_a_limit_bounds_nothing() -> None:
    stage = Stage(key=lambda payload: payload)
    async with Harness(stage.registry, places=Places(keys={"b": 1})) as harness:
        for number in range(4):
            harness.publish("job", "a", id=f"id{number}")
        await let_run()
        assert stage.runs == ["a"] * 4


async def test_several_keys_all_count_and_none_is_no_key() -> None:
    stage = Stage(key=lambda payload: payload)
    async with Harness(stage.registry, places=Places(default_key=1)) as harness:
        for number, keys in enumerate((["a", "b"], ["b", "c"], ["c"], None, None)):
            harness.publish("job", keys, id=f"id{number}")
        await let_run()
        assert stage.runs == [["a", "b"], ["c"], None, None]  # who waits for "b" does not hold "c" yet


async def test_a_types_own_concurrency_is_bounded() -> None:
    stage = Stage(concurrency=2)
    async with Harness(stage.registry) as harness:
        for number in range(4):
            harness.publish("job", number, id=f"id{number}")
        await let_run()
        assert stage.runs == [0, 1]


async def test_a_busy_key_parks_the_job_without_a_slot_and_costs_no_attempt() -> None:
    stage = Stage(key=lambda payload: payload)
    places = Places(concurrency=2, default_key=1, waiters=0)
    async with Harness(stage.registry, places=places, prefetch=10) as harness:
        for number, key in enumerate(("a", "a", "a", "b")):
            harness.publish("job", key, id=f"id{number}")
        await let_run()
        assert stage.runs == ["a", "b"]  # the second "a" took no slot on its way out
        parked = [report for report in harness.reports.all if report.reason == "busy_key"]
        assert [(report.id, report.disposition, report.ran) for report in parked] == [
            ("id1", "parked", False),
            ("id2", "parked", False),
        ]
        for copy in harness.broker.messages("jobs.wait.1s"):
            assert (headers(copy)["x-worker-attempt"], headers(copy)["x-worker-snoozes"]) == (1, 1)
            assert "x-worker-history" not in headers(copy)
        stage.go.set()
        await harness.until_quiet()
        assert stage.runs == ["a", "b", "a", "a"]
        assert harness.broker.dead == []


async def test_a_key_that_stays_busy_parks_for_longer_each_time() -> None:
    stage = Stage(key=lambda payload: payload, timeout=3600)
    async with Harness(stage.registry, places=Places(default_key=1, waiters=0)) as harness:
        for number in range(2):
            harness.publish("job", "a", id=f"id{number}")
        await harness.clock.advance(400)
        waits = [report.next_in for report in harness.reports.all if report.reason == "busy_key" and report.next_in]
        assert waits[0] == 2
        assert all(2.5 * before >= after >= before for before, after in itertools.pairwise(waits))
        assert 5 <= len(waits) <= 15  # it is asked for seldom, and not so seldom that it stands empty for long
        assert {report.id for report in harness.reports.all} == {"id1"}


async def test_a_job_that_waits_for_its_key_runs_when_it_is_free() -> None:
    stage = Stage(key=lambda payload: payload)
    async with Harness(stage.registry, places=Places(default_key=1)) as harness:
        for number in range(2):
            harness.publish("job", "a", id=f"id{number}")
        await let_run()
        assert stage.runs == ["a"]
        stage.go.set()
        await let_run()
        assert stage.runs == ["a", "a"]
        assert [report.disposition for report in harness.reports.all] == ["done", "done"]


async def test_a_job_whose_key_was_never_free_ends_expired_with_no_attempt_made() -> None:
    stage = Stage(key=lambda payload: payload, timeout=7200)
    async with Harness(stage.registry, places=Places(default_key=1, waiters=0)) as harness:
        harness.publish("job", "a", id="holds")
        await let_run()
        deadline = int((harness.clock.now() + 10) * 1000)
        harness.publish("job", "a", id="waits", headers={"x-worker-deadline": deadline})
        await harness.clock.advance(20)
        [letter] = harness.broker.dead
        assert headers(letter)["x-worker-reason"] == "expired"
        assert headers(letter)["x-worker-attempt"] == 0


async def test_a_step_key_that_is_busy_snoozes_the_job() -> None:
    registry, hold, ran = Registry(), asyncio.Event(), list[str]()

    async def step(name: str) -> None:
        ran.append(name)
        await hold.wait()

    @registry.handler("job")
    async def job(name: str, context: Context) -> None:
        await context.step("s", step, name, key="tenant")

    async with Harness(registry, places=Places(keys={"tenant": 1}, waiters=0)) as harness:
        harness.publish("job", "first", id="a")
        harness.publish("job", "second", id="b")
        await harness.clock.advance(KEY_PATIENCE)
        assert ran == ["first"]
        assert [(report.id, report.reason) for report in harness.reports.all] == [("b", "busy_key")]
        [copy] = harness.broker.messages(f"jobs.wait.{harness.reports.all[0].next_in:.0f}s")
        assert headers(copy)["x-worker-attempt"] == 1
        hold.set()
        await harness.until_quiet()
        assert ran == ["first", "second"]


async def test_a_key_function_that_raises_fails_the_attempt_and_nothing_else() -> None:
    def key(payload: object) -> str:
        raise SystemExit

    stage = Stage(key=key, attempts=1)
    result = await run_job(stage.registry, "job", 1)
    assert (result.reason, stage.runs) == ("attempts_exhausted", [])


# The gates themselves.


async def enter(limits: Limiter, keys: list[str], own: Mapping[str, int] | None = None) -> AsyncExitStack:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limits.job(keys, own or {}))
        return stack.pop_all()
    raise AssertionError


async def test_waiters_are_bounded_in_number_over_all_keys() -> None:
    limits = limiter(Places(default_key=1, waiters=2))
    inside = [await enter(limits, ["a"]), await enter(limits, ["b"])]
    waiting = [asyncio.create_task(enter(limits, [key])) for key in ("a", "b")]
    await let_run()
    for key in ("a", "b"):
        with pytest.raises(Busy, match=key):
            await enter(limits, [key])
    for stack in inside:
        await stack.aclose()
    for task in waiting:
        await (await task).aclose()
    assert set(limits.in_use().values()) == {0}


async def test_waiters_are_bounded_in_time() -> None:
    clock = ManualClock()
    limits = limiter(Places(default_key=1), clock)
    inside = await enter(limits, ["a"])
    waiting = asyncio.create_task(enter(limits, ["a"]))
    await clock.advance(KEY_PATIENCE - 0.1)
    assert not waiting.done()
    await clock.advance(0.1)
    with pytest.raises(Busy):
        await waiting
    await inside.aclose()
    assert set(limits.in_use().values()) == {0}


async def test_whoever_waits_for_a_slot_is_not_turned_away() -> None:
    clock = ManualClock()
    limits = limiter(Places(concurrency=1, waiters=0), clock)
    inside = await enter(limits, [])
    waiting = asyncio.create_task(enter(limits, []))
    await clock.advance(100)
    assert not waiting.done()
    await inside.aclose()
    await (await waiting).aclose()


async def test_a_key_named_twice_is_one_place() -> None:
    limits = limiter(Places(default_key=1, waiters=0))
    await (await enter(limits, ["a", "a"])).aclose()


@pytest.mark.parametrize("places", [Places(waiters=0), Places(default_key=5, waiters=0), Places(keys={"type:x": 5})])
async def test_a_key_spelled_like_a_types_limit_neither_widens_nor_fills_it(places: Places) -> None:
    limits = limiter(replace(places, waiters=0))
    by_key = await enter(limits, ["type:x"])
    by_type = await enter(limits, [], {"type:x": 1})
    for keys in ([], ["type:x"]):
        with pytest.raises(Busy):
            await enter(limits, keys, {"type:x": 1})
    by_key_again = await enter(limits, ["type:x"])
    for stack in (by_key, by_type, by_key_again):
        await stack.aclose()
    assert set(limits.in_use().values()) == {0}


async def test_metrics_name_configured_limits_and_types_and_no_key_of_a_stranger() -> None:
    class Waits(Silent):
        def limit_waited(self, limit: str, seconds: float) -> None:
            named.append(limit)

    named: list[str] = []
    limits = Limiter(Places(keys={"known": 1}, default_key=1), ManualClock(), Waits())
    for keys, own in ((["known"], {}), (["stranger"], {}), ([], {"type:x": 1})):
        inside = await enter(limits, keys, own)
        waiting = asyncio.create_task(enter(limits, keys, own))
        await let_run()
        await inside.aclose()
        await (await waiting).aclose()
    assert named == ["known", "default", "type:x"]


async def test_the_registrations_own_limit_outweighs_the_default() -> None:
    limits = limiter(Places(default_key=5, waiters=0))
    inside = await enter(limits, [], {"type:x": 1})
    with pytest.raises(Busy):
        await enter(limits, [], {"type:x": 1})
    await inside.aclose()


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_leaks_whatever_is_cancelled_when(seed: int) -> None:
    chance = random.Random(seed)
    clock = ManualClock()
    places = Places(concurrency=3, steps=2, default_key=2, waiters=4)
    limits, crowd = limiter(places, clock), Crowd()

    async def one() -> None:
        keys = chance.sample("abc", chance.randint(0, 2))
        async with limits.job(keys, {}), crowd, limits.step():
            for _ in range(chance.randint(0, 4)):
                await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    for _ in range(150):
        tasks.append(asyncio.create_task(one()))
        if chance.random() < 0.5:
            chance.choice(tasks).cancel()
        if chance.random() < 0.1:
            await clock.advance(KEY_PATIENCE)
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
    await clock.advance(10 * KEY_PATIENCE)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ended} <= {type(None), Busy, asyncio.CancelledError}
    assert crowd.most <= 3
    assert set(limits.in_use().values()) == {0}
