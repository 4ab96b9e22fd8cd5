"""The httpx face: httpx's API and error tree over our engine, and what counts as worth a repeat."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Headers, Limits, MaybeSent, NotSent, Reject, Request, RequestTimeout, Response, StatusError
from worker.http.client import HttpTransport


@pytest.fixture
def transport(make_engine: MakeEngine) -> HttpTransport:
    return HttpTransport(make_engine())


@pytest.fixture
def client(transport: HttpTransport) -> httpx.AsyncClient:
    return transport.client


async def ok(exchange: Exchange) -> None:
    await exchange.answer(body=b'{"a": 1}', Content_Type="application/json")


async def silence(exchange: Exchange) -> None:
    await asyncio.sleep(30)


async def close(exchange: Exchange) -> None:
    exchange.writer.close()


async def nonsense(exchange: Exchange) -> None:
    await exchange.send(b"nonsense\r\n\r\n")
    exchange.writer.close()


async def large(exchange: Exchange) -> None:
    await exchange.answer(body=bytes((1 << 20) + 1))


async def test_a_plain_call(serve: Serve, client: httpx.AsyncClient) -> None:
    target = await serve(ok)
    response = await client.post(target.url, params={"q": "a b"}, json={"b": 2}, headers={"X-A": "1"})
    assert (response.status_code, response.json(), str(response.url)) == (200, {"a": 1}, f"{target.url}?q=a+b")
    seen = target.seen[0]
    assert (seen.line, seen.body) == ("POST /?q=a+b HTTP/1.1", b'{"b":2}')
    assert (seen.header("x-a"), seen.header("content-type")) == ("1", "application/json")
    assert len([name for name, _ in seen.headers if name.lower() in ("host", "content-length")]) == 2
    assert str(seen.header("user-agent")).startswith("worker/")


async def test_streams_go_both_ways_as_whole_bodies(serve: Serve, client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    target = await serve(ok)
    async with client.stream("POST", target.url, content=chunks()) as response:
        assert b"".join([chunk async for chunk in response.aiter_bytes()]) == b'{"a": 1}'
    assert target.seen[0].body == b"one two"
    assert target.seen[0].header("transfer-encoding") is None


async def test_a_request_stream_is_bounded(serve: Serve, make_engine: MakeEngine) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)

    target = await serve(ok)
    with pytest.raises(httpx.LocalProtocolError, match="above 5000 bytes"):
        await HttpTransport(make_engine(Limits(max_request=5000))).client.post(target.url, content=endless())
    assert target.connections == 0


async def test_inflated_once_and_never_by_httpx(serve: Serve, client: httpx.AsyncClient) -> None:
    async def packed(exchange: Exchange) -> None:
        twice = exchange.line.startswith("GET /twice")
        body = gzip.compress(gzip.compress(b"hello")) if twice else gzip.compress(b"hello")
        await exchange.answer(body=body, Content_Encoding="gzip, gzip" if twice else "gzip")

    target = await serve(packed)
    assert (await client.get(target.url)).content == b"hello"
    assert gzip.decompress(gzip.decompress((await client.get(f"{target.url}twice")).content)) == b"hello"


async def test_no_cookies_no_redirects_no_environment(
    serve: Serve, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(302, b"", Set_Cookie="a=1", Location="/next")

    target = await serve(script)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    for _ in range(2):
        assert (await client.get(target.url)).status_code == 302
    assert [seen.header("cookie") for seen in target.seen] == [None, None]
    assert not client.cookies


async def test_redirects_that_a_call_asks_for_are_judged(serve: Serve, client: httpx.AsyncClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(302, b"", Location="http://169.254.169.254/")

    target = await serve(script)
    with pytest.raises(Reject) as caught:
        await client.get(target.url, follow_redirects=True)
    assert caught.value.code == "blocked_address"


async def test_userinfo_becomes_a_header_and_leaves_the_url(serve: Serve, client: httpx.AsyncClient) -> None:
    target = await serve(ok)
    await client.get(target.url.replace("://", "://user:secret@"))
    assert str(target.seen[0].header("authorization")).startswith("Basic ")


# (script, options, httpx's class, ours)
ERRORS: list[tuple[Any, dict[str, Any], type[Exception], type[Exception]]] = [
    (close, {}, httpx.ReadError, MaybeSent),
    (nonsense, {}, httpx.RemoteProtocolError, MaybeSent),
    (silence, {"timeout": 0.2}, httpx.ReadTimeout, RequestTimeout),
    (silence, {"timeout": httpx.Timeout(0.2, connect=0.1)}, httpx.ReadTimeout, RequestTimeout),
    (large, {}, httpx.TransportError, Reject),
]


@pytest.mark.parametrize(("script", "options", "theirs", "ours"), ERRORS)
async def test_errors_are_httpxs_and_ours_at_once(
    serve: Serve,
    client: httpx.AsyncClient,
    script: Any,
    options: dict[str, Any],
    theirs: type[Exception],
    ours: type[Exception],
) -> None:
    target = await serve(script)
    with pytest.raises(httpx.HTTPError) as caught:
        await client.get(target.url, **options)
    assert isinstance(caught.value, theirs)
    assert isinstance(caught.value, ours)
    assert caught.value.request.url == target.url


@pytest.mark.parametrize(
    ("url", "theirs", "ours"),
    [
        ("http://127.0.0.1:9/", httpx.ConnectError, NotSent),
        ("http://no-such-host.invalid/", httpx.ConnectError, NotSent),
        ("http://10.0.0.1/", httpx.TransportError, Reject),
        ("ftp://127.0.0.1/", httpx.UnsupportedProtocol, Exception),
        ("/relative", httpx.UnsupportedProtocol, Exception),
        ("http://a,b/", httpx.LocalProtocolError, Exception),
    ],
)
async def test_errors_before_anything_is_sent(
    client: httpx.AsyncClient, url: str, theirs: type[Exception], ours: type[Exception]
) -> None:
    with pytest.raises(theirs) as caught:
        await client.get(url)
    assert isinstance(caught.value, ours)


async def test_waiting_for_a_connection_is_a_connect_timeout(serve: Serve, make_engine: MakeEngine) -> None:
    client = HttpTransport(make_engine(Limits(max_connections=1))).client
    target = await serve(silence)
    first = asyncio.create_task(client.get(target.url))
    await asyncio.sleep(0.1)
    with pytest.raises(httpx.ConnectTimeout):
        await client.get(target.url, timeout=0.2)
    first.cancel()


@pytest.mark.parametrize("headers", [{"Expect": "100-continue"}, {"Proxy-Authorization": "x"}, {"Upgrade": "h2c"}])
async def test_framing_headers_are_refused(serve: Serve, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    target = await serve(ok)
    with pytest.raises(httpx.LocalProtocolError):
        await client.get(target.url, headers=headers)
    assert target.connections == 0


async def test_framing_headers_are_ours_whatever_a_call_says(serve: Serve, client: httpx.AsyncClient) -> None:
    target = await serve(ok)
    odd = {"Content-Length": "0", "Transfer-Encoding": "chunked", "Host": "other", "Connection": "upgrade"}
    await client.post(target.url, content=b"body", headers=odd)
    seen = target.seen[0]
    assert (seen.body, seen.header("host"), seen.header("transfer-encoding")) == (
        b"body", f"127.0.0.1:{target.port}", None
    )  # fmt: skip


async def test_no_timeout_means_the_jobs_own(serve: Serve, make_engine: MakeEngine) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.4)
        await exchange.answer()

    client = HttpTransport(make_engine(Limits(timeout=0.2))).client
    target = await serve(slow)
    with pytest.raises(httpx.ReadTimeout):
        await client.get(target.url)
    assert (await client.get(target.url, timeout=None)).status_code == 200


async def test_both_faces_pass_the_gate(serve: Serve, make_engine: MakeEngine) -> None:
    passed: list[str] = []

    @asynccontextmanager
    async def gate(request: Request) -> AsyncIterator[Request]:
        passed.append(request.method)
        yield replace(request, headers={**request.headers, "Idempotency-Key": "job/step"})

    transport = HttpTransport(make_engine(), gate=gate)
    target = await serve(ok)
    await transport.send(Request("PUT", target.url))
    await transport.client.get(target.url)
    assert passed == ["PUT", "GET"]
    assert [seen.header("idempotency-key") for seen in target.seen] == ["job/step", "job/step"]


async def test_a_reject_of_the_gate_keeps_its_reason(serve: Serve, make_engine: MakeEngine) -> None:
    @asynccontextmanager
    async def gate(request: Request) -> AsyncIterator[Request]:
        raise Reject("more than 1000 requests")
        yield request

    client = HttpTransport(make_engine(), gate=gate).client
    with pytest.raises(Reject, match="more than 1000 requests") as caught:
        await client.get("http://127.0.0.1/")
    assert isinstance(caught.value, httpx.TransportError)


async def test_the_end_closes_both_faces(serve: Serve, transport: HttpTransport) -> None:
    target = await serve(ok)
    await transport.client.get(target.url)
    began = time.monotonic()
    await transport.aclose()
    assert time.monotonic() - began < 1
    assert transport.client.is_closed


def status(number: int, **headers: str) -> list[BaseException]:
    """The same answer as an error of both faces."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx.Request("GET", "http://a/")
    theirs = httpx.Response(number, headers=named, request=request)
    return [
        StatusError(Response(number, Headers(list(named.items())), b"", "http://a/")),
        httpx.HTTPStatusError("x", request=request, response=theirs),
    ]


def both(make: Callable[[str], BaseException]) -> list[BaseException]:
    return [make("x")]


@pytest.mark.parametrize(
    ("errors", "transient"),
    [
        (status(408), True),
        (status(425), True),
        (status(500), True),
        (status(502), True),
        (status(503), True),
        (status(504), True),
        (status(503, Retry_After="5"), False),
        (status(429), False),
        (status(429, Retry_After="5"), False),
        (status(400), False),
        (status(404), False),
        (status(501), False),
        (both(NotSent), True),
        (both(MaybeSent), True),
        (both(RequestTimeout), True),
        (both(TimeoutError), True),
        (both(httpx.ConnectError), True),
        (both(httpx.ReadTimeout), True),
        (both(httpx.PoolTimeout), True),
        (both(httpx.RemoteProtocolError), True),
        (both(httpx.LocalProtocolError), False),
        (both(httpx.UnsupportedProtocol), False),
        (both(Reject), False),
        (both(ValueError), False),
        (both(asyncio.CancelledError), False),
    ],
)
def test_what_is_worth_a_quick_repeat(transport: HttpTransport, errors: list[BaseException], transient: bool) -> None:
    assert [transport.is_transient(error) for error in errors] == [transient] * len(errors)


async def test_an_answer_that_is_too_large_is_not_repeated(serve: Serve, transport: HttpTransport) -> None:
    target = await serve(large)
    with pytest.raises(httpx.TransportError) as caught:
        await transport.client.get(target.url)
    assert not transport.is_transient(caught.value)
