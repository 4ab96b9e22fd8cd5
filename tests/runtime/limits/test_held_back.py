"""Whole keys that are held back: by an open breaker, by a 429. Jobs that meet that are parked and lose nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.limits.told import URL, Told, asking, fill
from tests.runtime.toys import headers
from worker import Context, Registry, Retry
from worker.runtime.limiter import Limit, Places
from worker.testing import Answer, FakeTarget, Hangs, Refused


@pytest.mark.parametrize("ends", [500, 503, Refused(), Hangs()], ids=["500", "503", "refused", "silent"])
@pytest.mark.parametrize("key", ["down.example", None])
async def test_a_target_that_only_fails_is_left_alone(ends: Any, key: str | None) -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(ends)
    async with Told(asking(key=key), transport=target, concurrency=5) as the:
        fill(the, 60)
        await the.clock.advance(60)
        assert the.changes[0] == ("down.example", "open")
        assert len(target.requests) <= 20 + 5 + 6  # what opened it, what was under way, and a probe for each opening
        assert the.parked()["breaker"] >= 60 - 25
        assert the.parked()["retry"] == len(target.requests)
        for report in the.reports.all:
            assert report.reason != "breaker" or report.outcome in ("turned_away", "snoozed")
        target.on("GET", URL).answers(200)
        await the.until_quiet()
        assert the.changes[-1] == ("down.example", "closed")
        assert the.broker.dead == []
        assert the.attempts() <= 60 + 20 + 5 + 12


async def test_a_target_that_fails_is_probed_by_one_call_at_a_time() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(500)
    async with Told(asking(key="down.example"), transport=target, concurrency=20) as the:
        fill(the, 40)
        await the.clock.advance(4)
        asked = len(target.requests)
        target.on("GET", URL).answers(Answer(200, after=0.9))
        while len(target.requests) == asked:
            await the.clock.advance(0.05)
        await the.clock.advance(0.7)
        assert len(target.requests) == asked + 1
        assert the.changes[-1] == ("down.example", "half_open")
        await the.clock.advance(0.3)
        assert the.changes[-1] == ("down.example", "closed")
        await the.until_quiet()


@pytest.mark.parametrize("ends", [404, 429, 400, 501])
async def test_what_the_target_answers_properly_opens_nothing(ends: int) -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(ends)
    async with Told(asking(attempts=1), transport=target) as the:
        fill(the, 40)
        await the.clock.advance(5)
        assert the.changes == []


async def test_a_breaker_can_be_left_out() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(500)
    places = Places(concurrency=5, keys={"down.example": Limit(breaker=False)})
    async with Told(asking(attempts=1), transport=target, places=places) as the:
        fill(the, 60)
        await the.until_quiet()
        assert len(target.requests) == 60
        assert the.changes == []


async def test_finished_steps_are_kept_when_a_step_meets_an_open_breaker() -> None:
    registry, ran = Registry(), list[str]()

    async def good(name: str) -> str:
        ran.append(name)
        return name

    async def bad(context: Context) -> None:
        (await context.request("GET", URL)).raise_for_status()

    @registry.handler("job", backoff=(1, 2))
    async def job(payload: int, context: Context) -> None:
        await context.step("good", good, f"good{payload}")
        await context.step("bad", bad, context, retry=1)

    target = FakeTarget()
    target.on("GET", URL).answers(500)
    async with Told(registry, transport=target, concurrency=5) as the:
        fill(the, 40)
        await the.clock.advance(30)
        snoozed = [report for report in the.reports.all if report.reason == "breaker"]
        assert {report.outcome for report in snoozed} == {"snoozed"}  # it ran, and ended without an attempt
        target.on("GET", URL).answers(200)
        await the.until_quiet()
        assert len(ran) == 40
        assert the.broker.dead == []


@pytest.mark.parametrize("key", ["down.example", None])
async def test_quick_tries_end_when_the_breaker_opens(key: str | None) -> None:
    registry = Registry()

    async def ask(context: Context) -> None:
        (await context.request("GET", URL)).raise_for_status()

    @registry.handler("job", backoff=(100, 100), key=lambda payload: key)
    async def job(payload: int, context: Context) -> None:
        await context.step("ask", ask, context, retry=100)

    target = FakeTarget()
    target.on("GET", URL).answers(500)
    async with Told(registry, transport=target, timeout=600) as the:
        fill(the, 1)
        await the.clock.advance(90)
        assert the.parked() == {"retry": 1}  # it had its tries: that costs an attempt
        assert 5 <= len(target.requests) <= 20


async def test_a_request_cut_off_by_its_step_or_its_job_counts_and_another_cancelled_one_does_not() -> None:
    registry = Registry()

    async def ask(context: Context) -> None:
        await context.request("GET", URL, timeout=100)

    @registry.handler("step")
    async def in_step(payload: int, context: Context) -> None:
        await context.step("ask", ask, context, timeout=1, retry=1)

    @registry.handler("job", timeout=1)
    async def in_job(payload: int, context: Context) -> None:
        await ask(context)

    @registry.handler("hedge")
    async def hedge(payload: int, context: Context) -> None:
        task = asyncio.create_task(ask(context))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    target = FakeTarget()
    target.on("GET", URL).answers(Hangs())
    for kind, opens in (("hedge", False), ("step", True), ("job", True)):
        async with Told(registry, transport=target, attempts=1, concurrency=40) as the:
            for number in range(30):
                the.publish(kind, number, id=f"{kind}{number}")
            await the.clock.advance(5)
            assert bool(the.changes) == opens, kind


async def test_a_429_holds_back_the_whole_key_for_as_long_as_it_says() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(Answer(429, headers={"Retry-After": "30"}), 200)
    registry = Registry()

    @registry.handler("job", key=lambda payload: "down.example")
    async def job(payload: int, context: Context) -> None:
        if (await context.request("GET", URL)).status == 429:
            raise Retry(after=1)

    async with Told(registry, transport=target, concurrency=2) as the:
        fill(the, 1)
        await the.clock.advance(0)
        fill(the, 20, first=1)
        since = the.clock.now()
        await the.until_quiet()
        assert the.parked()["retry_after"] >= 20
        assert min(one.at for one in target.requests[1:]) >= since + 30
        assert max(one.at for one in target.requests) <= since + 30 * 2.5
        copies = [report for report in the.reports.all if report.reason == "retry_after"]
        assert {report.attempt for report in copies if report.id != "id0"} == {1}


async def test_an_attempt_that_waits_for_a_slot_when_its_key_is_held_back_is_not_started() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(Answer(429, headers={"Retry-After": "20"}, after=0.5), 200)
    async with Told(asking(key="down.example"), transport=target, concurrency=1, prefetch=10) as the:
        fill(the, 5)
        await the.clock.advance(1.5)
        assert len(target.requests) == 1
        assert the.parked()["retry_after"] == 4
        copies = the.broker.messages("jobs.wait.30s")
        assert {headers(one)["x-worker-attempt"] for one in copies} == {1}
        await the.until_quiet()


async def test_requests_outside_of_places_take_one_of_their_host() -> None:
    """Whoever calls a host that has a limit is bound by it, named as a key or not."""
    target = FakeTarget()
    target.on("GET", URL).answers(Answer(200, after=0.5))
    most = [0, 0]

    def watched(received: Any) -> Answer:
        return Answer(200, after=0.5)

    target.on("GET", URL).answers(watched)
    async with Told(asking(), transport=target, places=Places(concurrency=10, keys={"down.example": 2})) as the:
        fill(the, 10)
        for _ in range(200):
            await the.clock.advance(0.1)
            key = the._limiter.key("down.example")
            assert key.gate is not None
            most[0] = max(most[0], key.gate.held)
        assert most[0] == 2
        assert len({report.id for report in the.reports.all if report.disposition == "done"}) == 10


async def test_a_deadline_is_not_missed_because_jobs_are_spread() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(200)
    async with Told(asking(key="down.example"), transport=target) as the:
        the._limiter.pause(["down.example"])
        await the.clock.advance(600)
        for number in range(40):
            due = round((the.clock.now() + 30) * 1000)
            the.publish("job", number, id=f"id{number}", headers={"x-worker-deadline": due})
        await the.clock.advance(1)
        the._limiter.pause([])
        await the.until_quiet()
        assert len(target.requests) == 40
        assert the.broker.dead == []
