"""A request that is led to another host counts for that one from then on, and the first is not blamed."""

from __future__ import annotations

import asyncio

import pytest

from tests.http.targets import Exchange, MakeEngine, Script, Serve, Target
from worker import Request, RequestError, Response
from worker.http.client import HttpTransport
from worker.runtime.calls import WatchedCall
from worker.runtime.limiter import Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock

OTHER = "127.0.0.1"
ENOUGH = 25
"""Failures that open the breaker of a host."""


class Led:
    """A host that leads every request on to another one, and the limits of both."""

    def __init__(self, make_engine: MakeEngine, first: Target, places: Places) -> None:
        self.clock = ManualClock()
        self.limiter = Limiter(places, self.clock, Silent(), lambda: 0.0)
        self.calls: list[str] = []
        self.transport = HttpTransport(make_engine(), call=self._call)
        self._url = f"http://localhost:{first.port}/"

    async def send(self, timeout: float = 5.0) -> Response:
        return await self.transport.send(Request("GET", self._url, redirects=1, timeout=timeout))

    def _call(self, host: str) -> WatchedCall:
        self.calls.append(host)
        return WatchedCall(self.limiter, self.clock, host, lambda: False)

    def troubles(self) -> list[tuple[str, str]]:
        return [(one.key, one.reason) for one in self.limiter.troubles()]


async def led_to(serve: Serve, make_engine: MakeEngine, script: Script, places: Places | None = None) -> Led:
    other = await serve(script)

    async def lead_on(exchange: Exchange) -> None:
        await exchange.answer(302, b"", Location=other.url)

    return Led(make_engine, await serve(lead_on), places or Places(concurrency=100))


async def test_a_429_holds_back_the_host_that_gave_it(serve: Serve, make_engine: MakeEngine) -> None:
    async def too_many(exchange: Exchange) -> None:
        await exchange.answer(429, b"", Retry_After="60")

    led = await led_to(serve, make_engine, too_many)
    assert (await led.send()).status == 429
    assert led.troubles() == [(OTHER, "retry_after")]
    assert (await led.send()).status == 429  # what led there is sent: it is not turned back
    assert led.limiter.in_use() == {"slots": 0, "steps": 0, "gates": 0, "waiting": 0}


async def fail(exchange: Exchange) -> None:
    await exchange.answer(500, b"")


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def say_nothing(exchange: Exchange) -> None:
    await exchange.reader.read()


@pytest.mark.parametrize("script", [fail, reset, say_nothing])
async def test_the_breaker_of_the_host_that_fails_opens(serve: Serve, make_engine: MakeEngine, script: Script) -> None:
    led = await led_to(serve, make_engine, script)
    ends = await asyncio.gather(*(led.send(timeout=0.3) for _ in range(ENOUGH)), return_exceptions=True)
    assert all(isinstance(end, Response | RequestError) for end in ends)
    assert led.troubles() == [(OTHER, "breaker")]


async def test_a_hop_waits_for_a_place_of_its_host(serve: Serve, make_engine: MakeEngine) -> None:
    inside, most, answer = 0, 0, asyncio.Event()

    async def count(exchange: Exchange) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await answer.wait()
        inside -= 1
        await exchange.answer()

    led = await led_to(serve, make_engine, count, Places(concurrency=100, keys={OTHER: 1}))
    calls = [asyncio.create_task(led.send()) for _ in range(4)]
    while led.limiter.in_use()["waiting"] < 3:  # noqa: ASYNC110 - nobody tells when one begins to wait
        await asyncio.sleep(0.01)
    answer.set()
    assert [(await call).status for call in calls] == [200] * 4
    assert most == 1
    assert led.limiter.in_use()["gates"] == 0


async def test_the_same_host_is_one_call(serve: Serve, make_engine: MakeEngine) -> None:
    async def twice(exchange: Exchange) -> None:
        if exchange.line.startswith("GET /next"):
            await exchange.answer()
        else:
            await exchange.answer(302, b"", Location="/next")

    led = Led(make_engine, await serve(twice), Places())
    assert (await led.send()).status == 200
    assert led.calls == ["localhost"]
