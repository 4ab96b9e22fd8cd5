"""Consuming pauses by itself: the decision as a table, and what it does on the broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from worker import Context, Registry
from worker.core.broker import Lane
from worker.core.job import Job
from worker.core.message import Properties
from worker.runtime.intake import Intake
from worker.runtime.limiter import Busy, Limit, Limiter, Places
from worker.runtime.limits.values import Asker
from worker.runtime.pausing import ALIVE, LONGEST, MOST_NAMED, SHORTEST, Lookout, Paused, Standstill
from worker.runtime.telemetry import Silent
from worker.testing import FakeTarget, Harness, ManualClock, MemoryBroker
from worker.testing.clock import START, let_run

HELD = 20
"""Ten in a row are enough then."""


def turned_away(
    lookout: Lookout, count: int, *, began: float = 100.0, every: float = 0.2, delay: float = 3.0, again: int = 1
) -> list[Standstill | None]:
    """So many in a row; every `again`th had been parked before, 0 for none."""
    return [
        lookout.turned_away(f"k{n % 2}", began + n * every, delay, again=bool(again) and n % again == 0)
        for n in range(count)
    ]


def first(found: list[Standstill | None]) -> int | None:
    return next((number for number, one in enumerate(found) if one is not None), None)


def ran(lookout: Lookout, *, well: bool) -> None:
    """A job that ended when the row began."""
    lookout.started()
    lookout.ended(100.0, well=well)


# What comes before, what comes then, and which of them is the one that says that nothing can run.
ROWS: dict[str, tuple[Callable[[Lookout], None], dict[str, Any], int | None]] = {
    "ten in two seconds": (lambda _: None, {"count": 10}, 9),
    "nine are not enough": (lambda _: None, {"count": 9}, None),
    "for less than a second": (lambda _: None, {"count": 100, "every": 0.009}, None),
    "until a second is over": (lambda _: None, {"count": 100, "every": 0.02}, 50),
    "too few in ten seconds": (lambda _: None, {"count": 100, "every": 1.2}, None),
    "half were parked before": (lambda _: None, {"count": 10, "again": 2}, 9),
    "a third was parked before": (lambda _: None, {"count": 100, "again": 3}, None),
    "all are new": (lambda _: None, {"count": 100, "again": 0}, None),
    "one runs": (lambda lookout: lookout.started(), {"count": 100}, None),
    "one has failed": (lambda lookout: ran(lookout, well=False), {"count": 10}, 9),
    "one has just succeeded": (lambda lookout: ran(lookout, well=True), {"count": 100}, int(ALIVE / 0.2)),
}


def test_few_of_many_keys_are_named() -> None:
    lookout = Lookout(HELD)
    found = [lookout.turned_away(f"k{n}", 100.0 + n * 0.2, 3.0, again=True) for n in range(10)]
    assert found[-1] is not None
    assert len(found[-1].keys) == MOST_NAMED


@pytest.mark.parametrize("name", ROWS)
def test_when_nothing_can_run(name: str) -> None:
    before, row, expected = ROWS[name]
    lookout = Lookout(HELD)
    before(lookout)
    assert first(turned_away(lookout, **row)) == expected


def test_a_start_begins_a_new_row() -> None:
    lookout = Lookout(HELD)
    turned_away(lookout, 9)
    lookout.started()
    lookout.ended(102.0, well=False)
    assert first(turned_away(lookout, 10, began=102.0)) == 9


def test_half_of_what_is_held_must_have_been_turned_away() -> None:
    assert first(turned_away(Lookout(200), 200, every=0.02)) == 99


@pytest.mark.parametrize(
    ("delays", "seconds"),
    [([30.0] * 10, LONGEST), ([4.0] * 10, 4.0 - 9 * 0.2), ([30.0] * 9 + [0.1], SHORTEST), ([0.0] * 10, SHORTEST)],
)
def test_it_lasts_until_the_first_may_run_within_bounds(delays: list[float], seconds: float) -> None:
    lookout, found = Lookout(HELD), None
    for number, delay in enumerate(delays):
        found = lookout.turned_away("k", 100.0 + number * 0.2, delay, again=True)
    assert found is not None
    assert found.seconds == pytest.approx(seconds)
    assert found.keys == ("k",)
    assert first(turned_away(lookout, 9, began=110.0)) is None  # then it is looked again


def test_what_is_paused_by_hand() -> None:
    one = Paused().pausing("a").pausing(None).pausing("b")
    assert one == Paused(everything=True, keys=frozenset("ab"))
    assert one.resuming(None) == Paused(keys=frozenset("ab"))
    assert one.resuming("a").resuming("x") == Paused(everything=True, keys=frozenset("b"))


class Taken:
    """Who is told of deliveries."""

    def __init__(self) -> None:
        self.count = 0

    def on_delivery(self, delivery: object) -> None:
        self.count += 1

    def on_epoch(self, epoch: object) -> None: ...
    def on_lost(self, epoch: object) -> None: ...


class Scene:
    """An intake over the broker in memory, and jobs that are turned away."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.taken = Taken()
        self.changes: list[str] = []
        self.intake = Intake(self.broker, self.clock, HELD, lambda: self.changes.append(self.intake.why))

    async def begin(self) -> None:
        await self.broker.start([Lane("jobs", 1000, self.taken)])

    async def delivered(self) -> bool:
        before = self.taken.count
        self.broker.put(b"{}", Properties())
        await let_run()
        return self.taken.count > before

    async def turn_away(self, count: int = 10, delay: float = 3.0) -> None:
        for _ in range(count):
            self.intake.turned_away(job(), Busy("down.example", "breaker", delay))
            await self.clock.advance(0.2)


def job() -> Job:
    return Job("id", "job", b"{}", {}, START, snoozes=1)


async def test_it_pauses_and_resumes_by_itself_and_tells_each_change_once() -> None:
    scene = Scene()
    await scene.begin()
    with capture_logs() as logs:
        await scene.turn_away()
        assert scene.intake.why == "nothing can run"
        assert not await scene.delivered()
        await scene.turn_away()  # what was here before says nothing new
        await scene.clock.advance(LONGEST)
        assert scene.intake.why == ""
        assert scene.taken.count == 1
        assert await scene.delivered()
    assert scene.changes == ["nothing can run", ""]
    told = [(line["event"], line["why"]) for line in logs]
    assert told == [("consuming.paused", "nothing can run"), ("consuming.resumed", "nothing can run")]
    assert logs[0]["keys"] == ["down.example"]
    assert 0 < logs[0]["seconds"] <= LONGEST


async def test_by_hand_outweighs_by_itself() -> None:
    scene = Scene()
    await scene.begin()
    await scene.intake.by_hand(paused=True)
    assert not await scene.delivered()
    await scene.intake.by_hand(paused=True)
    await scene.turn_away()
    await scene.clock.advance(60)
    assert (scene.intake.why, scene.changes) == ("by hand", ["by hand"])
    await scene.intake.by_hand(paused=False)
    assert scene.taken.count == 1

    await scene.turn_away()
    await scene.intake.by_hand(paused=True)
    await scene.clock.advance(60)
    assert not await scene.delivered()
    await scene.intake.by_hand(paused=False)
    assert scene.taken.count == 2
    assert scene.changes == ["by hand", "", "nothing can run", "by hand", ""]


async def test_who_resumes_by_hand_ends_a_pause_by_itself_too() -> None:
    scene = Scene()
    await scene.begin()
    await scene.turn_away()
    await scene.intake.by_hand(paused=True)
    await scene.intake.by_hand(paused=False)
    assert scene.intake.why == ""
    assert await scene.delivered()


async def test_orders_in_quick_succession_end_as_the_last_one_says() -> None:
    scene = Scene()
    await scene.begin()
    await asyncio.gather(*(scene.intake.by_hand(paused=paused) for paused in (True, False, True, False, True)))
    assert not await scene.delivered()
    await asyncio.gather(*(scene.intake.by_hand(paused=paused) for paused in (False, True, False)))
    assert scene.taken.count == 1


# Keys that are paused by hand.


def keyed(key: str = "tenant") -> tuple[Registry, list[Any]]:
    registry, runs = Registry(), list[Any]()

    @registry.handler("job", key=lambda payload: payload["key"])
    async def run(payload: dict[str, Any], context: Context) -> None:
        runs.append(payload["key"])

    return registry, runs


async def test_jobs_of_a_paused_key_are_parked_without_an_attempt_and_the_others_run() -> None:
    registry, runs = keyed()
    async with Harness(registry) as harness:
        harness._limiter.pause({"tenant"})
        for key in ("tenant", "other"):
            harness.publish("job", {"key": key}, id=key)
        await harness.clock.advance(600)
        assert runs == ["other"]
        parked = [report for report in harness.reports.all if report.disposition == "parked"]
        assert {(report.id, report.reason, report.attempt) for report in parked} >= {("tenant", "paused", 1)}
        assert {report.attempt for report in parked} == {1}
        asked = sum(report.reason == "paused" for report in parked)
        assert 2 <= asked <= 16  # the longer it lasts the more seldom
        assert [(one.key, one.reason, one.seconds) for one in harness._limiter.troubles()] == [
            ("tenant", "paused", 0.0)
        ]
        harness._limiter.pause(set())
        await harness.until_quiet(longest=600)
        assert runs == ["other", "tenant"]
        assert harness._limiter.troubles() == []


async def test_a_running_job_is_parked_when_it_comes_to_a_paused_host_and_keeps_its_steps() -> None:
    registry, calls, target = Registry(), list[str](), FakeTarget()

    async def note(name: str) -> str:
        calls.append(name)
        return name

    @registry.handler("job")
    async def run(payload: Any, context: Context) -> None:
        await context.step("one", note, "one")
        (await context.request("GET", "http://api.example/x")).raise_for_status()

    target.on("GET", "http://api.example/x").answers(200)
    async with Harness(registry, transport=target) as harness:
        harness._limiter.pause({"api.example"})
        harness.publish("job", {}, id="one")
        await harness.clock.advance(30)
        assert (calls, target.requests) == (["one"], [])
        harness._limiter.pause(set())
        await harness.until_quiet()
        assert (calls, len(target.requests)) == (["one"], 1)
        assert harness.broker.dead == []


async def test_who_waits_for_a_key_is_turned_away_when_it_is_paused() -> None:
    clock = ManualClock()
    limiter = Limiter(Places(keys={"tenant": Limit(1)}), clock, Silent(), lambda: 0.5)
    gone = asyncio.Event()

    async def hold() -> None:
        async with limiter.job(["tenant"], {}, Asker("a", START)):
            await gone.wait()

    async def wait() -> None:
        async with limiter.job(["tenant"], {}, Asker("b", START)):
            raise AssertionError("it got a place")

    holding = asyncio.create_task(hold())
    await let_run()
    waiting = asyncio.create_task(wait())
    await let_run()
    assert limiter.in_use()["waiting"] == 1
    limiter.pause(["tenant"])
    with pytest.raises(Busy) as busy:
        async with asyncio.timeout(5):
            await waiting
    assert (busy.value.reason, busy.value.delay >= 5) == ("paused", True)
    gone.set()
    await holding  # who runs goes on
    assert limiter.in_use() == {"slots": 0, "steps": 0, "gates": 0, "waiting": 0}


async def test_a_types_own_limit_is_not_a_key_of_that_name() -> None:
    limiter = Limiter(Places(), ManualClock(), Silent(), lambda: 0.5)
    limiter.pause(["job"])
    async with limiter.job([], {"job": 1}, Asker("a", START)):
        pass
    with pytest.raises(Busy):
        async with limiter.job(["job"], {}, Asker("a", START)):
            pass
