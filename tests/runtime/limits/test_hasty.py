"""Whoever gives a host hardly any time to answer says nothing about it: the others may still use it."""

from __future__ import annotations

from typing import Any

import pytest

from worker import Context, Registry
from worker.testing import Answer, FakeTarget, Hangs, Harness

URL = "http://well.example/x"
HASTY_JOBS = 60


def registry() -> Registry:
    """Jobs of three kinds that wait for so many ms: by the request, by its step, by the job."""
    made = Registry()

    async def ask(context: Context, seconds: float) -> None:
        await context.request("GET", URL, timeout=seconds)

    @made.handler("request", attempts=1)
    async def request(payload: Any, context: Context) -> None:
        await ask(context, payload / 1000)

    @made.handler("step", attempts=1)
    async def step(payload: Any, context: Context) -> None:
        await context.step("ask", ask, context, 100.0, timeout=payload / 1000, retry=1)

    @made.handler("job", attempts=1, timeout=0.01)
    async def job(payload: Any, context: Context) -> None:
        await ask(context, 100.0)

    return made


@pytest.mark.parametrize("kind", ["request", "step", "job"])
async def test_a_host_that_had_hardly_any_time_is_not_left_alone(kind: str) -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(Answer(200, after=0.1))
    async with Harness(registry(), transport=target, concurrency=10) as the:
        for number in range(HASTY_JOBS):
            the.publish(kind, 10, id=f"hasty{number}")
        await the.clock.advance(5)
        assert len(the.broker.dead) == HASTY_JOBS
        assert the._limiter.troubles() == []
        the.publish("request", 2000, id="patient")
        await the.until_quiet()
        assert [report.id for report in the.reports.all if report.disposition == "done"] == ["patient"]


@pytest.mark.parametrize("kind", ["request", "step"])
async def test_one_that_had_time_and_says_nothing_is(kind: str) -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(Hangs())
    async with Harness(registry(), transport=target, concurrency=10) as the:
        for number in range(HASTY_JOBS):
            the.publish(kind, 2000, id=f"id{number}")
        await the.clock.advance(20)
        assert [one.reason for one in the._limiter.troubles()] == ["breaker"]
