"""`context.http` with follow_redirects: what a later hop's failure says is said of the whole call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.http.hostile.connections import say_nothing
from tests.http.hostile.farm import Farm, Ledger
from tests.http.targets import Exchange, MakeEngine, Script, Serve
from worker import Context, NotSent, Registry, RequestTimeout, StepRetry
from worker.dev.ports import free_ports
from worker.http.client import HttpTransport
from worker.runtime.context import job_gate
from worker.runtime.transport import may_be_sent
from worker.testing import run_job


def to(location: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(303, b"", Location=location)

    return script


def closed() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}/"


@pytest.fixture
def silent() -> Iterator[tuple[int, Ledger]]:
    """A port that takes connections and answers no handshake."""
    with Farm() as farm:
        yield farm.open(say_nothing)


@pytest.fixture
def transport(make_engine: MakeEngine) -> HttpTransport:
    return HttpTransport(make_engine(), gate=job_gate)


async def test_a_later_hop_that_cannot_connect_is_no_call_that_was_not_sent(
    serve: Serve, transport: HttpTransport
) -> None:
    target = await serve(to(closed()))
    with pytest.raises(httpx.ReadError) as caught:
        await transport.client.post(target.url, content=b"pay", follow_redirects=True)
    assert not isinstance(caught.value, NotSent)
    assert len(target.seen) == 1


async def test_the_first_hop_that_cannot_connect_still_is(transport: HttpTransport) -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        await transport.client.post(closed(), content=b"pay", follow_redirects=True)
    assert isinstance(caught.value, NotSent)


async def test_a_later_hop_that_gets_no_connection_in_time_is_a_timeout_of_the_call(
    serve: Serve, transport: HttpTransport, silent: tuple[int, Ledger]
) -> None:
    port, _ = silent
    target = await serve(to(f"https://127.0.0.1:{port}/"))
    with pytest.raises(httpx.ReadTimeout) as caught:
        await transport.client.post(target.url, content=b"pay", follow_redirects=True, timeout=0.3)
    assert isinstance(caught.value, RequestTimeout)


async def test_a_cancelled_later_hop_may_have_been_sent(
    serve: Serve, transport: HttpTransport, silent: tuple[int, Ledger]
) -> None:
    port, ledger = silent
    target = await serve(to(f"https://127.0.0.1:{port}/"))
    call = asyncio.create_task(transport.client.post(target.url, content=b"pay", follow_redirects=True))
    while not ledger.connections:  # noqa: ASYNC110 - counted by the thread of the farm
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await call
    assert may_be_sent(caught.value)


async def test_a_step_that_is_repeated_when_unsent_sends_once(serve: Serve, transport: HttpTransport) -> None:
    registry = Registry()

    @registry.handler("pay")
    async def pay(payload: dict[str, Any], context: Context) -> None:
        async def post() -> int:
            answer = await context.http.post(payload["url"], content=b"pay", follow_redirects=True)
            return answer.status_code

        await context.step("pay", post, retry=StepRetry(attempts=3, when="unsent"))

    target = await serve(to(closed()))
    await run_job(registry, "pay", {"url": target.url}, transport=transport, attempts=1, patience=5)
    assert [seen.line for seen in target.seen] == ["POST / HTTP/1.1"]
