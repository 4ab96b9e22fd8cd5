"""`context.http` with follow_redirects: httpx makes the hops, and each is judged as those of the lean face are."""

from __future__ import annotations

import ssl

import httpx
import pytest
import trustme

from tests.http.targets import Exchange, MakeEngine, Script, Serve
from worker import Reject
from worker.http.client import HttpTransport

SECRETS = {"X-Api-Key": "canary", "Authorization": "Bearer canary", "Cookie": "a=canary"}


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def to(location: str, status: int = 302) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, b"", Location=location)

    return script


@pytest.fixture
def client(make_engine: MakeEngine) -> httpx.AsyncClient:
    return HttpTransport(make_engine()).client


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_another_origin_sees_none_but_harmless_headers(
    serve: Serve, client: httpx.AsyncClient, status: int
) -> None:
    other = await serve(ok)
    target = await serve(to(other.url, status))
    answer = await client.get(target.url, headers={**SECRETS, "Accept-Language": "de"}, follow_redirects=True)
    assert answer.status_code == 200
    assert target.seen[0].header("x-api-key") == "canary"
    [seen] = other.seen
    assert not [value for _, value in seen.headers if "canary" in value]
    assert seen.header("accept-language") == "de"
    assert str(seen.header("user-agent")).startswith("worker/")
    assert seen.header("host") == f"127.0.0.1:{other.port}"


async def test_what_was_dropped_stays_dropped_on_later_hops(serve: Serve, client: httpx.AsyncClient) -> None:
    async def once_more(exchange: Exchange) -> None:
        if exchange.line.startswith("GET /next"):
            await exchange.answer()
        else:
            await exchange.answer(302, b"", Location="/next")

    other = await serve(once_more)
    target = await serve(to(other.url))
    await client.get(target.url, headers=SECRETS, follow_redirects=True)
    assert [seen.line for seen in other.seen] == ["GET / HTTP/1.1", "GET /next HTTP/1.1"]
    assert [seen.header("x-api-key") for seen in other.seen] == [None, None]


async def test_the_own_origin_keeps_headers_and_body(serve: Serve, client: httpx.AsyncClient) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.line.startswith("POST /next"):
            await exchange.answer()
        else:
            await exchange.answer(307, b"", Location="/next")

    target = await serve(script)
    answer = await client.post(target.url, content=b"body", headers=SECRETS, follow_redirects=True)
    assert answer.status_code == 200
    assert [(seen.body, seen.header("x-api-key")) for seen in target.seen] == [(b"body", "canary")] * 2


@pytest.mark.parametrize("status", [307, 308])
async def test_no_body_goes_to_another_origin(serve: Serve, client: httpx.AsyncClient, status: int) -> None:
    other = await serve(ok)
    target = await serve(to(other.url, status))
    with pytest.raises(httpx.TransportError, match="body to another origin") as caught:
        await client.post(target.url, content=b"body", follow_redirects=True)
    assert isinstance(caught.value, Reject)
    assert (len(target.seen), other.connections) == (1, 0)


async def test_a_post_that_becomes_a_get_goes_there_without_its_body(serve: Serve, client: httpx.AsyncClient) -> None:
    other = await serve(ok)
    target = await serve(to(other.url))
    await client.post(target.url, json={"a": 1}, headers=SECRETS, follow_redirects=True)
    [seen] = other.seen
    assert (seen.line, seen.body, seen.header("x-api-key")) == ("GET / HTTP/1.1", b"", None)
    assert seen.header("content-type") is None


@pytest.mark.parametrize("begins", ["https", "http"])
@pytest.mark.parametrize("status", [302, 307])
async def test_https_never_leads_to_http(serve: Serve, make_engine: MakeEngine, status: int, begins: str) -> None:
    """However the call began."""
    authority = trustme.CA()
    tls, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.configure_trust(trust)
    plain = await serve(ok)
    target = await serve(to(plain.url, status), tls=tls)
    first = target if begins == "https" else await serve(to(target.url, status))
    client = HttpTransport(make_engine(ssl_context=trust)).client
    with pytest.raises(httpx.TransportError, match="from https to http") as caught:
        await client.get(first.url, follow_redirects=True)
    assert isinstance(caught.value, Reject)
    assert (len(target.seen), plain.connections) == (1, 0)


async def test_a_redirect_that_a_handler_follows_itself_is_judged_too(serve: Serve, client: httpx.AsyncClient) -> None:
    other = await serve(ok)
    target = await serve(to(other.url))
    answer = await client.get(target.url, headers=SECRETS)
    assert answer.next_request is not None
    await client.send(answer.next_request)
    assert other.seen[0].header("x-api-key") is None


async def test_a_request_may_be_sent_again(serve: Serve, client: httpx.AsyncClient) -> None:
    target = await serve(ok)
    request = client.build_request("POST", target.url, content=b"body", headers=SECRETS)
    for _ in range(2):
        await client.send(request)
    assert [(seen.body, seen.header("x-api-key")) for seen in target.seen] == [(b"body", "canary")] * 2


@pytest.mark.parametrize("use", ["auth", "sign"])
async def test_a_credential_is_named_by_text(client: httpx.AsyncClient, use: str) -> None:
    with pytest.raises(httpx.LocalProtocolError, match=rf"extensions\['{use}'\] names a credential: .* not int"):
        await client.get("http://127.0.0.1:9/", extensions={use: 5})
