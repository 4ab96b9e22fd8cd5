"""The engine against hostile targets: what is counted here is what really reached the other side."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import itertools
import ssl
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trustme

from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Limits, MaybeSent, NotSent, Reject, Request, RequestError, RequestTimeout, may_be_sent
from worker.http.engine import Engine
from worker.http.lookups import LookupThreads

QUICK = 0.4


def get(url: str, **fields: Any) -> Request:
    return Request("GET", url, **fields)


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def raw(data: bytes) -> Callable[[Exchange], Any]:
    """A script that sends these bytes and closes."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        exchange.writer.close()

    return script


# --- what is sent


async def test_sends_the_url_as_written_and_only_expected_headers(serve: Serve, engine: Engine) -> None:
    target = await serve(ok)
    await engine.send(get(f"{target.url}a/../b%7e%2f?q=a+b&r=%C3%BC|#fragment"))
    seen = target.seen[0]
    assert seen.line == "GET /a/../b%7e%2f?q=a+b&r=%C3%BC%7C HTTP/1.1"
    assert sorted(name for name, _ in seen.headers) == ["Accept", "Accept-Encoding", "Host", "User-Agent"]
    assert str(seen.header("user-agent")).startswith("worker/")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_sends_a_body_without_inventing_a_content_type(serve: Serve, engine: Engine, method: str) -> None:
    target = await serve(ok)
    await engine.send(Request(method, target.url, body=b"hello"))
    await engine.send(Request(method, target.url, body=None))
    assert [seen.body for seen in target.seen] == [b"hello", b""]
    assert [seen.header("content-type") for seen in target.seen] == [None, None]
    assert [seen.header("transfer-encoding") for seen in target.seen] == [None, None]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "other"),
        ("content-length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("CONNECTION", "close"),
        ("Keep-Alive", "1"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Upgrade", "h2c"),
        ("Expect", "100-continue"),
        ("Proxy-Authorization", "x"),
        ("X-A", "a\r\nX-B: b"),
        ("X-A", "a\nb"),
        ("X-A", "a\x00b"),
        ("X A", "b"),
        ("X-A\r\nX-B", "b"),
        ("", "b"),
        ("X-A", "\ud800"),
    ],
)
async def test_refuses_headers_that_change_the_framing(serve: Serve, engine: Engine, name: str, value: str) -> None:
    target = await serve(ok)
    with pytest.raises(ValueError, match="header"):
        await engine.send(Request("POST", target.url, headers={name: value}, body=b"x"))
    assert target.connections == 0


@pytest.mark.parametrize("method", ["GET /x HTTP/1.1\r\nX:", "", "CONNECT", "a b"])
async def test_refuses_methods_http_cannot_carry(serve: Serve, engine: Engine, method: str) -> None:
    target = await serve(ok)
    with pytest.raises(ValueError, match="method"):
        await engine.send(Request(method, target.url))
    assert target.connections == 0


async def test_the_environment_has_no_say(
    serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    target, proxy = await serve(ok), await serve(ok)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.setenv("NETRC", str(netrc))
    await engine.send(get(target.url))
    assert (len(target.seen), len(proxy.seen)) == (1, 0)
    assert target.seen[0].header("authorization") is None


async def test_cookies_are_neither_kept_nor_sent(serve: Serve, engine: Engine) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(Set_Cookie="session=1; Path=/")

    target = await serve(script)
    for _ in range(2):
        await engine.send(get(target.url))
    await engine.send(get(f"http://localhost:{target.port}/"))
    assert [seen.header("cookie") for seen in target.seen] == [None, None, None]


# --- what is resent: nothing


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("close", ["fin", "reset"])
async def test_nothing_is_sent_twice(serve: Serve, engine: Engine, method: str, close: str) -> None:
    """By itself aiohttp sends GET, PUT and DELETE again when a reused connection breaks."""

    async def script(exchange: Exchange) -> None:
        if len(target.seen) == 1:
            await exchange.answer()
        elif close == "fin":
            exchange.writer.close()
        else:
            exchange.reset()

    target = await serve(script)
    await engine.send(get(target.url))
    with pytest.raises(MaybeSent):
        await engine.send(Request(method, target.url, body=b"x" if method in ("PUT", "POST") else None))
    assert len(target.seen) == 2
    assert target.connections == 1, "the broken request did go over the reused connection"


async def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent(serve: Serve, engine: Engine) -> None:
    """The close is in the socket, but the loop has not read it: nothing runs between it and the next request."""
    target = await serve(ok)
    for _ in range(3):
        await engine.send(Request("POST", target.url, body=b"x"))
        peer = target.writers[-1].get_extra_info("socket")
        _shutdown(peer.fileno())
    assert len(target.seen) == 3
    assert target.connections == 3


def _shutdown(number: int) -> None:
    import os
    import socket

    with socket.socket(fileno=os.dup(number)) as same:
        same.shutdown(socket.SHUT_WR)


async def test_an_unasked_answer_in_the_pool_is_not_taken_for_the_next_one(serve: Serve, engine: Engine) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(body=b"mine")
        await asyncio.sleep(0.02)
        await exchange.answer(body=b"poison")

    target = await serve(script)
    bodies = []
    for _ in range(5):
        bodies.append((await engine.send(get(target.url))).body)
        await asyncio.sleep(0.04)
    assert bodies == [b"mine"] * 5


# --- honest errors


async def test_a_refused_connection_was_not_sent(engine: Engine) -> None:
    with pytest.raises(NotSent, match="ECONNREFUSED"):
        await engine.send(get("http://127.0.0.1:9/"))


async def test_a_name_that_does_not_exist_was_not_sent(engine: Engine) -> None:
    with pytest.raises(NotSent, match="name was not resolved"):
        await engine.send(get("http://no-such-host.invalid/"))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08" * 9,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 999)[:-9],
    ],
)
async def test_half_and_broken_answers_are_maybe_sent(serve: Serve, engine: Engine, answer: bytes) -> None:
    target = await serve(raw(answer))
    with pytest.raises(MaybeSent) as caught:
        await engine.send(get(target.url))
    assert len(target.seen) == 1
    assert "SSH" not in str(caught.value), "nothing the target says gets into an error"


async def test_a_reset_after_the_request_is_maybe_sent(serve: Serve, engine: Engine) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.reset()

    target = await serve(script)
    with pytest.raises(MaybeSent):
        await engine.send(Request("POST", target.url, body=b"x"))


# --- deadlines


async def drip(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        await exchange.send(b"x")
        await asyncio.sleep(0.05)


async def drip_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        await exchange.send(b"X-%d: 1\r\n" % number)
        await asyncio.sleep(0.05)


async def silence(exchange: Exchange) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize("script", [drip, drip_headers, silence])
async def test_the_deadline_is_for_the_whole(serve: Serve, engine: Engine, script: Any) -> None:
    target = await serve(script)
    began = time.monotonic()
    with pytest.raises(RequestTimeout):
        await engine.send(get(target.url, timeout=QUICK))
    assert time.monotonic() - began < QUICK + 0.5


async def test_a_deadline_before_anything_was_sent_is_not_sent(make_engine: MakeEngine, serve: Serve) -> None:
    """One connection, taken by a hanging request: the second never gets one."""
    target = await serve(silence)
    engine = make_engine(Limits(max_connections=1))
    first = asyncio.create_task(engine.send(get(target.url, timeout=2)))
    await asyncio.sleep(0.1)
    with pytest.raises(NotSent):
        await engine.send(get(target.url, timeout=QUICK))
    first.cancel()
    assert len(target.seen) == 1


async def test_connecting_has_a_limit_of_its_own(make_engine: MakeEngine) -> None:
    """A listener whose backlog is full does not answer: no address off this machine is needed to see it."""
    with _full_backlog() as port:
        engine = make_engine(Limits(connect_timeout=0.3))
        began = time.monotonic()
        with pytest.raises(NotSent, match="no connection in time"):
            await engine.send(get(f"http://127.0.0.1:{port}/", timeout=10))
        assert time.monotonic() - began < 1.5


def _full_backlog() -> Any:
    import contextlib
    import socket

    @contextlib.contextmanager
    def listening() -> Any:
        with socket.socket() as listener, contextlib.ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            yield listener.getsockname()[1]

    return listening()


# --- caps


async def endless(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


async def test_a_body_without_end_is_cut(serve: Serve, engine: Engine) -> None:
    target = await serve(endless)
    with pytest.raises(Reject) as caught:
        await engine.send(get(target.url))
    assert caught.value.code == "response_too_large"


async def test_an_announced_size_is_refused_without_reading(serve: Serve, engine: Engine) -> None:
    target = await serve(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"))
    with pytest.raises(Reject) as caught:
        await engine.send(get(target.url))
    assert caught.value.code == "response_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_cut_in_time_and_memory(serve: Serve, engine: Engine, encoding: str) -> None:
    import tracemalloc

    zeros = bytes(64 << 20)
    bomb = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    del zeros

    async def script(exchange: Exchange) -> None:
        await exchange.answer(body=bomb, Content_Encoding=encoding)

    target = await serve(script)
    tracemalloc.start()
    try:
        with pytest.raises(Reject) as caught:
            await engine.send(get(target.url))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.code == "response_too_large"


@pytest.mark.parametrize(
    "packed",
    [
        ("gzip", gzip.compress(b"hello")),
        ("GZIP", gzip.compress(b"hel") + gzip.compress(b"lo")),
        ("x-gzip", gzip.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")[2:-4]),
    ],
)
async def test_known_encodings_are_inflated(serve: Serve, engine: Engine, packed: tuple[str, bytes]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(body=packed[1], Content_Encoding=packed[0])

    response = await engine.send(get((await serve(script)).url))
    assert response.body == b"hello"
    assert "content-encoding" not in response.headers
    assert "content-length" not in response.headers


async def test_other_encodings_are_handed_on_as_they_are(serve: Serve, engine: Engine) -> None:
    twice = gzip.compress(gzip.compress(b"hello"))

    async def script(exchange: Exchange) -> None:
        await exchange.answer(body=twice, Content_Encoding="gzip, gzip")

    response = await engine.send(get((await serve(script)).url))
    assert (response.body, response.headers["content-encoding"]) == (twice, "gzip, gzip")


@pytest.mark.parametrize(
    "lines",
    [b"X: " + b"a" * 20_000 + b"\r\n", b"".join(b"X-%d: 1\r\n" % n for n in range(5000))],
    ids=["one long header", "many headers"],
)
async def test_response_headers_are_capped(serve: Serve, engine: Engine, lines: bytes) -> None:
    target = await serve(raw(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n"))
    with pytest.raises((Reject, MaybeSent)):
        await engine.send(get(target.url))


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_a_body_may_announce_any(serve: Serve, engine: Engine, method: str, status: int) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 99999999\r\n\r\n"
    response = await engine.send(Request(method, (await serve(raw(head.encode()))).url))
    assert (response.status, response.body) == (status, b"")


async def test_odd_header_bytes_become_text_one_can_log(serve: Serve, engine: Engine) -> None:
    target = await serve(raw(b"HTTP/1.1 200 OK\r\nX-A: \xc3\xbc\r\nX-B: \xff\xfe\r\nContent-Length: 0\r\n\r\n"))
    headers = (await engine.send(get(target.url))).headers
    assert (headers["x-a"], headers["x-b"]) == ("ü", "ÿþ")
    headers["x-b"].encode()


# --- redirects


def to(location: Callable[[], str], status: int = 302) -> Callable[[Exchange], Any]:
    async def script(exchange: Exchange) -> None:
        if exchange.line.split()[1] == "/end":
            await exchange.answer(body=b"" if exchange.line.startswith("HEAD") else b"end")
        else:
            await exchange.answer(status, b"", Location=location())

    return script


async def test_redirects_are_not_followed_unless_asked(serve: Serve, engine: Engine) -> None:
    target = await serve(to(lambda: "/end"))
    assert (await engine.send(get(target.url))).status == 302
    response = await engine.send(get(target.url, redirects=1))
    assert (response.status, response.body, response.url) == (200, b"end", f"{target.url}end")


async def test_a_redirect_loop_ends_after_three(serve: Serve, engine: Engine) -> None:
    target = await serve(to(lambda: "/again"))
    assert (await engine.send(get(target.url, redirects=99))).status == 302
    assert len(target.seen) == 4


SECRETS = {
    "Authorization": "Bearer x",
    "Cookie": "a=b",
    "X-Api-Key": "x",
    "Idempotency-Key": "job/1",
    "traceparent": "t",
}


async def test_credentials_stay_with_their_origin(serve: Serve, engine: Engine) -> None:
    there = await serve(ok)
    here = await serve(to(lambda: there.url))
    same = await serve(to(lambda: "/end"))
    await engine.send(get(here.url, headers=SECRETS, redirects=1))
    assert {name for name in SECRETS if there.seen[0].header(name.lower())} == {"Idempotency-Key", "traceparent"}
    await engine.send(get(same.url, headers=SECRETS, redirects=1))
    assert {name for name in SECRETS if same.seen[1].header(name.lower())} == set(SECRETS)


@pytest.mark.parametrize(
    ("status", "method", "becomes", "keeps_body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (302, "PUT", "PUT", True),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", False),
        (307, "POST", "POST", True),
        (308, "POST", "POST", True),
    ],
)
async def test_what_a_redirect_makes_of_the_method(
    serve: Serve, engine: Engine, status: int, method: str, becomes: str, keeps_body: bool
) -> None:
    target = await serve(to(lambda: "/end", status))
    body = None if method == "HEAD" else b"body"
    await engine.send(Request(method, target.url, {"Content-Type": "x/y"}, body, redirects=1))
    last = target.seen[-1]
    assert (last.line.split()[0], last.body == b"body") == (becomes, keeps_body)
    assert (last.header("content-type") == "x/y") == (keeps_body or method == "HEAD")


@pytest.mark.parametrize("status", [307, 308])
async def test_a_body_does_not_cross_origins(serve: Serve, engine: Engine, status: int) -> None:
    there = await serve(ok)
    here = await serve(to(lambda: there.url, status))
    assert (await engine.send(Request("POST", here.url, body=b"x", redirects=3))).status == status
    assert there.connections == 0


@pytest.mark.parametrize("location", ["", "http://", "ftp://x/", "file:///etc/passwd", "http://a b/", "http://u:p@x/"])
async def test_a_redirect_that_cannot_be_read_is_the_answer(serve: Serve, engine: Engine, location: str) -> None:
    target = await serve(to(lambda: location))
    assert (await engine.send(get(target.url, redirects=3))).status == 302


async def test_a_redirect_is_judged_again(serve: Serve, engine: Engine) -> None:
    target = await serve(to(lambda: "http://169.254.169.254/latest/meta-data"))
    with pytest.raises(Reject) as caught:
        await engine.send(get(target.url, redirects=3))
    assert caught.value.code == "blocked_address"


async def test_an_error_after_a_redirect_is_never_called_not_sent(serve: Serve, engine: Engine) -> None:
    target = await serve(to(lambda: "http://127.0.0.1:9/"))
    with pytest.raises(MaybeSent):
        await engine.send(get(target.url, redirects=1))


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_checks_the_name_of_the_url(serve: Serve, make_engine: MakeEngine, authority: trustme.CA) -> None:
    right = await serve(ok, tls=server_context(authority, "localhost"))
    engine = make_engine(ssl_context=client_context(authority))
    for _ in range(2):
        assert (await engine.send(get(f"https://localhost:{right.port}/"))).status == 200
    assert right.connections == 1, "a TLS connection is used again"
    with pytest.raises(Reject) as caught:
        await engine.send(get(right.url))  # by address: not the certificate's name
    assert caught.value.code == "tls"
    assert len(right.seen) == 2


async def test_an_unknown_authority_and_an_old_certificate_are_refused(
    serve: Serve, make_engine: MakeEngine, authority: trustme.CA
) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    unknown = await serve(ok, tls=server_context(trustme.CA(), "localhost"))
    old = await serve(ok, tls=server_context(authority, "localhost", not_after=past))
    engine = make_engine(ssl_context=client_context(authority))
    for target in (unknown, old):
        with pytest.raises(Reject) as caught:
            await engine.send(get(f"https://localhost:{target.port}/"))
        assert caught.value.code == "tls"
        assert target.seen == []


async def test_a_target_that_speaks_no_tls_was_not_sent_anything(serve: Serve, engine: Engine) -> None:
    target = await serve(ok)
    with pytest.raises(NotSent):
        await engine.send(get(target.url.replace("http:", "https:"), timeout=2))
    assert target.seen == []


# --- the pool


async def test_the_pool_survives_cancellation_churn(serve: Serve, make_engine: MakeEngine) -> None:
    hanging, healthy = await serve(silence), await serve(ok)
    engine = make_engine(Limits(max_connections=100, max_connections_per_host=50))
    for _ in range(3):
        calls = [asyncio.create_task(engine.send(get(hanging.url))) for _ in range(300)]
        await asyncio.sleep(0.15)
        for call in calls:
            call.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True)
        )
    answers = await asyncio.gather(*(engine.send(get(healthy.url, timeout=2)) for _ in range(20)))
    assert [answer.status for answer in answers] == [200] * 20


async def test_a_hanging_host_leaves_the_others_alone(serve: Serve, make_engine: MakeEngine) -> None:
    hanging, healthy = await serve(silence), await serve(ok)
    engine = make_engine(Limits(max_connections=40, max_connections_per_host=20))
    stuck = [asyncio.create_task(engine.send(get(hanging.url))) for _ in range(100)]
    await asyncio.sleep(0.1)
    for _ in range(20):
        assert (await engine.send(get(healthy.url, timeout=1))).status == 200
    for call in stuck:
        call.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_four_hundred_at_once(serve: Serve, engine: Engine) -> None:
    async def slowly(exchange: Exchange) -> None:
        await asyncio.sleep(0.5)
        await exchange.answer()

    target = await serve(slowly)
    began = time.monotonic()
    answers = await asyncio.gather(*(engine.send(get(target.url)) for _ in range(400)))
    assert all(answer.status == 200 for answer in answers)
    assert time.monotonic() - began < 3
    assert target.connections == 400


async def test_a_closed_engine_sends_nothing(serve: Serve, engine: Engine) -> None:
    target = await serve(ok)
    await engine.send(get(target.url))
    await engine.aclose()
    with pytest.raises(NotSent):
        await engine.send(get(target.url))


@pytest.mark.parametrize("number", [0, 1])
async def test_a_cancellation_says_whether_anything_may_be_sent(
    serve: Serve, make_engine: MakeEngine, number: int
) -> None:
    """The second one waits for the connection that the first one holds."""

    async def script(exchange: Exchange) -> None:
        reached.set()
        await silence(exchange)

    reached = asyncio.Event()
    target = await serve(script)
    engine = make_engine(Limits(max_connections=1))
    calls = [asyncio.create_task(engine.send(get(target.url))) for _ in range(2)]
    await reached.wait()
    calls[number].cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await calls[number]
    assert may_be_sent(caught.value) is (number == 0)
    calls[1 - number].cancel()
    await asyncio.gather(*calls, return_exceptions=True)


# --- what is observed


async def test_a_host_is_observed_by_one_name(make_engine: MakeEngine) -> None:
    hosts: list[str] = []
    names = LookupThreads(lambda host: [])
    engine = make_engine(on_request=lambda host, result, seconds: hosts.append(host), names=names)
    for host in ("a.example", "A.example."):
        with suppress(RequestError, Reject):
            await engine.send(get(f"http://{host}/"))
    assert hosts == ["a.example"] * 2


async def test_every_end_is_observed_once(serve: Serve, make_engine: MakeEngine) -> None:
    results: list[tuple[str, str]] = []
    engine = make_engine(on_request=lambda host, result, seconds: results.append((host, result)))
    statuses = itertools.chain([200, 404, 503], itertools.repeat(200))

    async def script(exchange: Exchange) -> None:
        await exchange.answer(next(statuses))

    target, hanging, closing = await serve(script), await serve(silence), await serve(raw(b""))
    large = await serve(endless)
    urls = [target.url] * 3 + ["http://127.0.0.1:9/", closing.url, hanging.url, "http://10.0.0.1/", large.url]
    for url in urls:
        with suppress(RequestError, Reject):
            await engine.send(get(url, timeout=QUICK))
    call = asyncio.create_task(engine.send(get(hanging.url)))
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert [result for _, result in results] == [
        "2xx", "4xx", "5xx", "not_sent", "maybe_sent", "timeout", "blocked", "too_large", "cancelled"
    ]  # fmt: skip
    assert {host for host, _ in results} == {"127.0.0.1", "10.0.0.1"}
