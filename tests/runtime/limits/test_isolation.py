"""A light host beside a heavy one that gets into trouble: the whole way of a job, broker and ladder included."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from worker import Context, Registry
from worker.runtime.limiter import Limit, Places
from worker.testing import Answer, FakeTarget, Hangs, Harness, Refused

LIGHT, HEAVY = "http://light.example/", "http://heavy.example/"
LEAD, SECONDS = 2, 10
"""Seconds that all is well, and seconds in all."""


class Two(Harness):
    """Ten light jobs in a second and a hundred heavy ones, published evenly."""

    def __init__(self, *, breaker: bool) -> None:
        registry, self.lag = Registry(), dict[str, float]()

        @registry.handler("job", key=lambda payload: payload["host"], timeout=10)
        async def job(payload: dict[str, Any], context: Context) -> None:
            self.lag.setdefault(context.job.id, self.clock.now() - payload["at"])
            (await context.request("GET", f"http://{payload['host']}/", timeout=5)).raise_for_status()

        self.target = FakeTarget()
        for url in (LIGHT, HEAVY):
            self.target.on("GET", url).answers(lambda received: Answer(200, after=0.02))
        keys: dict[str, int | Limit] = {"heavy.example": Limit(breaker=breaker)}
        places = Places(concurrency=20, steps=40, keys=keys)
        super().__init__(registry, transport=self.target, prefetch=25, places=places)

    async def publishing(self, ends: Any) -> None:
        for hundredth in range(100 * SECONDS):
            if hundredth == 100 * LEAD and ends is not None:
                self.target.on("GET", HEAVY).answers(ends)
            self._one("heavy.example", hundredth)
            if hundredth % 10 == 0:
                self._one("light.example", hundredth)
            await self.clock.advance(0.01)

    def _one(self, host: str, number: int) -> None:
        self.publish("job", {"host": host, "at": self.clock.now()}, id=f"{host}-{number}")

    def light(self) -> list[float]:
        return [lag for name, lag in self.lag.items() if name.startswith("light")]

    def parked(self) -> Counter[str]:
        return Counter(report.reason for report in self.reports.all if report.disposition == "parked")


@pytest.mark.parametrize("breaker", [True, False])
@pytest.mark.parametrize(
    "ends",
    [Hangs(), Refused(), Answer(429), Answer(429, headers={"Retry-After": "5"}), Answer(200, after=4)],
    ids=["hangs", "refused", "429", "retry-after", "slow"],
)
async def test_a_light_host_is_not_held_up(ends: Any, *, breaker: bool) -> None:
    async with Two(breaker=breaker) as the:
        await the.publishing(ends)
        light = the.light()
        assert len(light) >= 10 * SECONDS - 1
        assert max(light) <= 0.5
        assert sorted(light)[len(light) * 9 // 10] <= 0.05
        done = [report for report in the.reports.all if report.id.startswith("light") and report.disposition == "done"]
        assert len(done) >= 10 * SECONDS - 2


@pytest.mark.parametrize(
    ("ends", "breaker"), [(Hangs(), True), (Hangs(), False), (Refused(), True)], ids=["hangs", "bare", "refused"]
)
async def test_what_had_to_go_is_back_soon_after_the_trouble(ends: Any, *, breaker: bool) -> None:
    async with Two(breaker=breaker) as the:
        await the.publishing(ends)
        the.target.on("GET", HEAVY).answers(lambda received: Answer(200, after=0.02))
        since = the.clock.now()
        await the.until_quiet()
        assert the.clock.now() - since <= 2 * (SECONDS - LEAD) + 15
        assert the.broker.dead == []


async def test_while_all_is_well_nobody_is_parked() -> None:
    async with Two(breaker=True) as the:
        await the.publishing(None)
        assert max(the.lag.values()) <= 0.05
        assert the.parked() == {}
