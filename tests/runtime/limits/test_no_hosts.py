"""Breakers of keys that are no hosts, and what a job's end says about its keys beside its requests."""

from __future__ import annotations

from tests.runtime.limits.told import URL, Told, asking, fill
from worker import Context, Registry
from worker.testing import Answer, FakeTarget


async def test_a_key_that_is_no_host_counts_what_ran_under_it_without_requests() -> None:
    registry, fails = Registry(), [True]

    @registry.handler("job", key=lambda payload: "crm", backoff=(1, 2))
    async def job(payload: int, context: Context) -> None:
        if fails[0]:
            raise TimeoutError

    @registry.handler("buggy", key=lambda payload: "shop", attempts=1)
    async def buggy(payload: int, context: Context) -> None:
        raise KeyError(payload)

    async with Told(registry, concurrency=5) as the:
        fill(the, 40)
        for number in range(40):
            the.publish("buggy", number, id=f"buggy{number}")
        await the.clock.advance(20)
        assert {key for key, _ in the.changes} == {"crm"}
        assert the.parked()["breaker"] >= 15
        fails[0] = False
        await the.until_quiet()
        assert the.changes[-1] == ("crm", "closed")
        assert len(the.broker.dead) == 40  # the buggy ones


async def test_a_step_under_a_key_counts_for_it() -> None:
    registry = Registry()

    async def query() -> None:
        raise ConnectionResetError

    @registry.handler("job", backoff=(1, 2))
    async def job(payload: int, context: Context) -> None:
        await context.step("query", query, key="database", retry=1)

    async with Told(registry, concurrency=5) as the:
        fill(the, 40)
        await the.clock.advance(10)
        assert {key for key, _ in the.changes} == {"database"}
        assert the.parked()["breaker"] >= 15


async def test_a_tenant_does_not_pay_for_a_host_that_is_down() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(500)
    async with Told(asking(key="tenant"), transport=target, concurrency=5) as the:
        fill(the, 40)
        await the.clock.advance(20)
        assert {key for key, _ in the.changes} == {"down.example"}


async def test_a_key_that_is_no_host_is_closed_by_a_job_that_makes_requests() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(Answer(200, after=0.5))
    registry, fails = Registry(), [True]

    @registry.handler("job", key=lambda payload: "tenant", backoff=(1, 2))
    async def job(payload: int, context: Context) -> None:
        if fails[0]:
            raise TimeoutError
        (await context.request("GET", URL, timeout=1)).raise_for_status()

    async with Told(registry, transport=target, concurrency=5) as the:
        fill(the, 30)
        await the.clock.advance(10)
        assert the.changes[0] == ("tenant", "open")
        fails[0] = False
        await the.clock.advance(30)
        assert the.changes[-1] == ("tenant", "closed")
        await the.until_quiet()


async def test_who_copes_with_a_host_that_is_down_does_not_vouch_for_it() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(500)
    registry = Registry()

    @registry.handler("job", key=lambda payload: "down.example")
    async def job(payload: int, context: Context) -> None:
        await context.request("GET", URL, timeout=1)

    async with Told(registry, transport=target, concurrency=5) as the:
        for number in range(6):
            fill(the, 1, first=number)
            await the.clock.advance(1)
        assert the.changes == [("down.example", "open")]
