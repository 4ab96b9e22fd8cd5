"""Whoever was answered 429 comes back when its key is held back no more, and not with all the others at once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from worker import Context, Registry, Snooze
from worker.testing import Answer, FakeTarget, Harness
from worker.testing.clock import START

URL = "http://full.example/x"
JOBS = 40


async def rush(
    asks: str | None, *, key: str | None, until: float, due: int | None = None
) -> tuple[Harness, list[float]]:
    """All jobs meet a target at once that answers 429 up to a moment. When each was answered well, from the first."""
    registry, target, chance = Registry(), FakeTarget(), random.Random(1)

    @registry.handler("job", key=lambda payload: key)
    async def job(payload: int, context: Context) -> None:
        response = await context.request("GET", URL)
        if response.status == 429:
            raise Snooze(float(response.headers.get("Retry-After", 10)), reason="retry_after")

    async with Harness(registry, transport=target, concurrency=JOBS, chance=chance.random) as the:
        since, well = the.clock.now(), list[float]()

        def answer(_: Any) -> Answer:
            passed = the.clock.now() - since
            if passed < until:
                return Answer(429, headers={} if asks is None else {"Retry-After": asks}, after=0.1)
            well.append(passed)
            return Answer(200)

        target.on("GET", URL).answers(answer)
        headers = {} if due is None else {"x-worker-deadline": due}
        for number in range(JOBS):
            the.publish("job", number, id=f"id{number}", headers=headers)
        await the.until_quiet()
        return the, well


def parks(the: Harness) -> Counter[str]:
    """How often each job was parked because it was asked to wait, or its key."""
    return Counter(report.id for report in the.reports.all if report.reason == "retry_after")


@pytest.mark.parametrize("key", ["full.example", None])
@pytest.mark.parametrize(("asks", "until"), [("20", 20.0), ("1", 1.0), (None, 1.0)])
async def test_who_was_asked_to_wait_is_parked_once(key: str | None, asks: str | None, until: float) -> None:
    the, _ = await rush(asks, key=key, until=until)
    assert set(parks(the).values()) == {1}


@pytest.mark.parametrize("asks", ["20", "3000"])
async def test_they_do_not_come_back_in_the_same_second(asks: str) -> None:
    _, well = await rush(asks, key=None, until=20.0)
    assert len(well) == JOBS
    assert max(Counter(int(moment) for moment in well).values()) <= JOBS / 4


async def test_a_deadline_is_not_missed_because_of_that() -> None:
    the, well = await rush("20", key=None, until=20.0, due=round((START + 25) * 1000))
    assert the.broker.dead == []
    assert len(well) == JOBS
