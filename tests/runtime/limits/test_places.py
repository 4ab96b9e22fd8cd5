"""Places and starts of keys in the pipeline: who waits, who goes first, what is learnt, what is forgotten."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.runtime.limits.crowd import Crowd
from tests.runtime.toys import Stage
from worker import Context, Registry
from worker.core.units import Rate
from worker.runtime.limiter import Asker, Busy, Limit, Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import Answer, FakeTarget, Harness, ManualClock
from worker.testing.clock import let_run

URL = "http://api.example/x"


def limiter(places: Places, clock: ManualClock | None = None) -> Limiter:
    return Limiter(places, clock or ManualClock(), Silent(), lambda: 0.5)


async def enter(limits: Limiter, key: str, first_seen: float, name: str = "") -> AsyncExitStack:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limits.job([key], {}, Asker(name, first_seen, "job")))
        return stack.pop_all()
    raise AssertionError


async def test_a_free_place_goes_to_the_oldest_who_waits() -> None:
    limits = limiter(Places(keys={"a": 1}))
    inside = await enter(limits, "a", 0.0)
    young = asyncio.create_task(enter(limits, "a", 50.0))
    await let_run()
    old = asyncio.create_task(enter(limits, "a", 10.0))
    await let_run()
    await inside.aclose()
    await let_run()
    assert (old.done(), young.done()) == (True, False)
    await (await old).aclose()
    await (await young).aclose()


async def test_an_older_job_takes_the_place_of_the_youngest_who_waits() -> None:
    limits = limiter(Places(keys={"a": 1}, waiters=2))
    inside = await enter(limits, "a", 0.0)
    waiting = {seen: asyncio.create_task(enter(limits, "a", seen)) for seen in (20.0, 30.0)}
    await let_run()
    with pytest.raises(Busy):
        await enter(limits, "a", 40.0)
    old = asyncio.create_task(enter(limits, "a", 10.0))
    await let_run()
    with pytest.raises(Busy):
        await waiting[30.0]
    await inside.aclose()
    for task in (old, waiting[20.0]):
        await (await task).aclose()
    assert set(limits.in_use().values()) == {0}


async def test_one_key_does_not_keep_the_others_from_waiting() -> None:
    limits = limiter(Places(keys={"a": 1, "b": 1}, waiters=3))
    inside = [await enter(limits, key, 0.0) for key in ("a", "b")]
    crowd = [asyncio.create_task(enter(limits, "a", float(seen))) for seen in (10, 20, 30)]
    await let_run()
    other = asyncio.create_task(enter(limits, "b", 99.0))
    await let_run()
    assert [task.done() for task in (*crowd, other)] == [False, False, True, False]
    for stack in inside:
        await stack.aclose()
    for task in (crowd[0], crowd[1], other):
        await (await task).aclose()
    with pytest.raises(Busy):
        await crowd[2]


async def test_who_cannot_expect_a_place_in_time_is_parked_at_once_until_its_turn() -> None:
    clock = ManualClock()
    the = Crowd(limiter(Places(keys={"a": 1}), clock), clock)
    for number in range(3):
        the.job(f"job{number}", ["a"], lambda: 30.0, at=31.0 * number)
    await the.until(65)
    with pytest.raises(Busy) as busy:
        await enter(the.limiter, "a", clock.now())
    assert busy.value.delay == pytest.approx(27, abs=2)  # it began three seconds ago and takes thirty
    await the.until(200)


async def test_nothing_is_held_while_another_key_turns_the_job_away() -> None:
    limits = limiter(Places(keys={"a": 1, "b": 1}, waiters=0))
    inside = await enter(limits, "b", 0.0)
    with pytest.raises(Busy, match="b"):
        async with limits.job(["a", "b"], {}):
            raise AssertionError
    await (await enter(limits, "a", 0.0)).aclose()
    await inside.aclose()
    assert set(limits.in_use().values()) == {0}


async def test_who_waited_for_one_key_does_not_start_when_another_one_is_held_back_meanwhile() -> None:
    clock = ManualClock()
    limits = limiter(Places(keys={"a": 1, "b": Limit(rate=(Rate(1, 3600.0),))}), clock)
    inside = await enter(limits, "a", 0.0)

    async def both() -> None:
        async with limits.job(["a", "b"], {}):
            raise AssertionError

    waiting = asyncio.create_task(both())
    await let_run()
    limits.health.asked_to_wait(limits.key("b"), 30.0, clock.monotonic())
    await inside.aclose()
    with pytest.raises(Busy, match="b") as busy:
        await waiting
    assert busy.value.reason == "retry_after"
    await clock.advance(40)
    await (await enter(limits, "b", 0.0)).aclose()  # the start that was kept for it has been given up
    assert set(limits.in_use().values()) == {0}


async def test_a_key_that_is_held_back_turns_away_at_once_whatever_else_is_waited_for() -> None:
    clock = ManualClock()
    limits = limiter(Places(concurrency=2, keys={"a": 1}), clock)
    inside = [await enter(limits, key, 0.0) for key in ("a", "c")]
    limits.health.asked_to_wait(limits.key("b"), 30.0, clock.monotonic())

    async def both() -> None:
        async with limits.job(["a", "b"], {}):
            raise AssertionError

    for_gate = asyncio.create_task(both())
    for_slot = asyncio.create_task(enter(limits, "d", 0.0))
    await let_run()
    assert (for_gate.done(), for_slot.done()) == (True, False)
    limits.health.asked_to_wait(limits.key("d"), 30.0, clock.monotonic())
    await let_run()
    assert for_slot.done()
    for task in (for_gate, for_slot):
        with pytest.raises(Busy):
            await task
    for stack in inside:
        await stack.aclose()
    assert set(limits.in_use().values()) == {0}


async def test_the_narrowest_key_is_entered_first() -> None:
    limits = limiter(Places(keys={"a": 10, "z": 1}))
    admission = limits.job(["a", "z"], {"type:job": 5})
    assert [key.name.key for key in admission.keys] == ["z", "type:job", "a"]


async def test_a_job_above_the_rate_waits_a_moment_and_starts_are_not_lost_by_those_who_go() -> None:
    clock = ManualClock()
    limits = limiter(Places(keys={"a": Limit(rate=(Rate(2, 1.0),))}), clock)
    stacks = [await enter(limits, "a", float(number)) for number in range(2)]
    waiting = [asyncio.create_task(enter(limits, "a", 10.0 + number)) for number in range(2)]
    await clock.advance(0.9)
    assert not any(task.done() for task in waiting)
    waiting.pop().cancel()
    await clock.advance(0.2)
    assert waiting[0].done()
    stacks += [await waiting[0], await enter(limits, "a", 20.0)]
    for stack in stacks:
        await stack.aclose()
    assert set(limits.in_use().values()) == {0}


async def test_rates_count_the_elements_of_a_fan_out() -> None:
    registry, target = Registry(), FakeTarget()
    target.on("GET", URL).answers(200)

    @registry.handler("job")
    async def job(payload: int, context: Context) -> None:
        async def get(number: int) -> None:
            await context.request("GET", URL)

        await context.map("get", get, range(30), key="api.example", concurrency=30)

    places = Places(keys={"api.example": Limit(rate=(Rate(10, 1.0),))})
    async with Harness(registry, transport=target, places=places) as harness:
        harness.publish("job", 1, id="job")
        await harness.until_quiet()
        moments = sorted(one.at for one in target.requests)
        assert len(moments) == 30  # none of them twice: what was done before a park is kept
        assert all(later - earlier >= 1 for earlier, later in zip(moments, moments[10:], strict=False))
        assert {report.attempt for report in harness.reports.all} == {1}


async def test_an_adaptive_limit_shrinks_under_429_and_grows_back() -> None:
    class Told(Silent):
        def limit_changed(self, limit: str, places: int) -> None:
            changes.append(places)

    changes: list[int] = []
    registry, target, calm = Registry(), FakeTarget(), [False]
    target.on("GET", URL).answers(lambda received: 200 if calm[0] else Answer(503, after=0.5))

    @registry.handler("job", key=lambda payload: "api.example")
    async def job(payload: int, context: Context) -> None:
        await context.request("GET", URL)

    places = Places(keys={"api.example": Limit(10, adaptive=True, breaker=False)})
    async with Harness(registry, transport=target, places=places, telemetry=Told()) as harness:
        for number in range(40):
            harness.publish("job", number, id=f"id{number}")
        await harness.clock.advance(3)
        assert changes[:2] == [7, 4]
        calm[0] = True
        for number in range(200):
            harness.publish("job", number, id=f"more{number}")
        await harness.until_quiet()
        assert changes[-1] == 10
        assert min(changes) >= 1


async def test_a_fan_out_leaves_steps_to_others() -> None:
    registry, hold, ran = Registry(), asyncio.Event(), list[str]()

    async def wait(number: int) -> None:
        ran.append("many")
        await hold.wait()

    async def quick() -> None:
        ran.append("few")

    @registry.handler("many")
    async def many(payload: int, context: Context) -> None:
        await context.map("wait", wait, range(50), concurrency=50)

    @registry.handler("few")
    async def few(payload: int, context: Context) -> None:
        await context.step("quick", quick)

    async with Harness(registry, places=Places(concurrency=10, steps=20)) as harness:
        harness.publish("few", 1, id="first")
        await let_run()
        harness.publish("many", 1, id="many")
        await let_run()
        assert ran.count("many") == 16
        harness.publish("few", 1, id="second")
        await let_run()
        assert ran.count("few") == 2
        hold.set()
        await harness.until_quiet()
        assert ran.count("many") == 50


async def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    clock = ManualClock()
    limits = limiter(Places(), clock)
    for _ in range(20):
        limits.health.report(limits.key("down"), clock.monotonic(), failed=True)
    await clock.advance(6)
    probe = await enter(limits, "down", 0.0)
    with pytest.raises(Busy):
        await enter(limits, "down", 0.0)
    with pytest.raises(KeyError):
        async with probe:
            raise KeyError  # a fault of the handler
    async with await enter(limits, "down", 0.0):
        assert [one.key for one in limits.troubles()] == ["down"]
    assert limits.troubles() == []  # it ended well


async def test_an_answer_without_429_begins_the_waits_anew() -> None:
    clock = ManualClock()
    limits = limiter(Places(), clock)
    key = limits.key("full")
    rests = []
    for well in (False, False, True, False):
        if well:
            limits.health.report(key, clock.monotonic(), failed=False)
            continue
        limits.health.asked_to_wait(key, None, clock.monotonic())
        rests.append(round(limits.troubles()[0].seconds, 2))
        await clock.advance(10)
    assert rests == [1.05, 2.1, 1.05]


async def test_what_is_held_back_is_shown() -> None:
    clock = ManualClock()
    limits = limiter(Places(), clock)
    for _ in range(20):
        limits.health.report(limits.key("down"), clock.monotonic(), failed=True)
    limits.health.asked_to_wait(limits.key("full"), 30.0, clock.monotonic())
    limits.key("fine")
    shown = [(one.key, one.reason) for one in limits.troubles()]
    assert shown == [("down", "breaker"), ("full", "retry_after")]
    await clock.advance(40)
    assert [one.key for one in limits.troubles()] == ["down"]  # until a call has shown that it is back


@pytest.mark.parametrize("key", ["a", None])
async def test_reasons_and_delays_reach_the_job(key: str | None) -> None:
    stage = Stage(key=lambda payload: payload)
    places = Places(keys={"a": Limit(rate=(Rate(1, 3600.0),))}, waiters=0)
    async with Harness(stage.registry, places=places) as harness:
        stage.go.set()
        for number in range(3):
            harness.publish("job", key, id=f"id{number}")
        await let_run()
        parked = [(report.reason, report.next_in) for report in harness.reports.all if report.disposition == "parked"]
        assert len(parked) == (2 if key else 0)
        assert all(reason == "rate" and 300 <= (delay or 0) <= 330 for reason, delay in parked)


async def test_few_wait_here_for_what_is_left_of_a_longer_wait() -> None:
    """They would fill what may be delivered, and keep those behind them from being seen."""
    stage = Stage()
    stage.go.set()
    async with Harness(stage.registry, places=Places(concurrency=2, waiters=1), prefetch=4) as harness:
        soon = {"x-worker-not-before": round((harness.clock.now() + 0.5) * 1000)}
        for number in range(8):
            harness.publish("job", "later", id=f"id{number}", headers=soon)
        harness.publish("job", "now", id="now")
        await let_run()
        assert stage.runs == ["now"]
        assert len(harness.broker.messages("jobs.wait.1s")) == 7
        await harness.until_quiet()
        assert len(stage.runs) == 9
