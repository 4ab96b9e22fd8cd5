"""Honest HTTP: a fault at every stage of a request, judged by what the target read; and what no request may carry."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.http.hostile.behaviour import GOOD, OK, says
from tests.http.hostile.connections import never_read, say_nothing
from tests.http.hostile.farm import Farm, Ledger, Peer, Script
from tests.http.targets import MakeEngine
from worker import Limits, MaybeSent, NotSent, Request, RequestError, RequestTimeout
from worker.http.client import HttpTransport
from worker.http.engine import Engine
from worker.http.handler import http_registry
from worker.http.headers import FORBIDDEN
from worker.http.lookups import LookupThreads
from worker.runtime.context import job_gate
from worker.testing import run_job

BODY = b"b" * 5000
LARGE = b"b" * (2 << 20)


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


def local(port: int) -> str:
    return f"http://127.0.0.1:{port}/"


# --- a fault at each stage: before anything is sent


async def test_a_name_that_is_not_resolved_in_time(make_engine: MakeEngine) -> None:
    answered = threading.Event()
    engine = make_engine(names=LookupThreads(lambda _: [str(answered.wait(5))]))
    with pytest.raises(NotSent):
        await engine.send(Request("POST", "http://slow.example/", body=BODY, timeout=0.2))
    answered.set()


async def test_a_connection_that_is_not_made_in_time(make_engine: MakeEngine) -> None:
    with _full() as port, pytest.raises(NotSent):
        await make_engine().send(Request("POST", local(port), body=BODY, timeout=0.2))


async def test_a_handshake_that_is_cut(farm: Farm, make_engine: MakeEngine) -> None:
    """Whatever part of the client's hello was read: it is no part of the request."""
    engine = make_engine()
    for size in (0, 1, 5, 100, 300):
        port, ledger = farm.open(_cut_after(size, "reset"))
        with pytest.raises(NotSent):
            await engine.send(Request("POST", f"https://localhost:{port}/", body=BODY, timeout=5))
        assert ledger.connections == 1


async def test_the_wait_for_a_connection_counts(farm: Farm, make_engine: MakeEngine) -> None:
    """The one connection is held for a part of the deadline; what is left of it is all the second one gets."""
    held = asyncio.Event()
    port, _ = farm.open(_answers_after(0.3))
    slow, ledger = farm.open(say_nothing)
    engine = make_engine(Limits(max_connections=1))

    async def first() -> None:
        held.set()
        await engine.send(Request("GET", local(port)))

    holding = asyncio.create_task(first())
    await held.wait()
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(RequestTimeout):
        await engine.send(Request("GET", local(slow), timeout=0.8))
    assert time.monotonic() - began < 0.8 + 0.4
    assert ledger.connections == 1
    await holding


@contextlib.contextmanager
def _full() -> Iterator[int]:
    """The port of a listener that takes no more connections."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _answers_after(seconds: float) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(seconds)
        await peer.say(GOOD)

    return script


# --- a fault at each stage: after n bytes of the request


def _cut_after(size: int, how: str, *, reused: bool = False) -> Script:
    """Read `size` bytes of a request and no more, then close or reset; of a reused connection, those of its second."""

    async def script(peer: Peer) -> None:
        if reused:
            await peer.request()
            await peer.say(GOOD)
        if size:
            await peer.reader.readexactly(size)
        if how == "reset":
            peer.reset()

    return script


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_one_byte_read_is_never_not_sent_and_nothing_is_sent_again(
    farm: Farm, make_engine: MakeEngine, method: str, reused: bool, how: str
) -> None:
    body = BODY if method in ("PUT", "POST") else None
    engine = make_engine()
    size = await _size(farm, engine, method, body)
    head = size - len(body or b"")
    for cut in sorted({1, 2, head // 2, head - 1, head, head + (size - head) // 2, size - 1, size}):
        port, ledger = farm.open(_cut_after(cut, how, reused=reused))
        if reused:
            await engine.send(Request(method, local(port), body=body))
        with pytest.raises(RequestError) as caught:
            await engine.send(Request(method, local(port), body=body, timeout=5))
        assert isinstance(caught.value, MaybeSent), (cut, caught.value)
        assert not isinstance(caught.value, RequestTimeout)
        assert ledger.connections == 1, "sent once, on the one connection"
        assert ledger.read <= size * (1 + reused)


async def _size(farm: Farm, engine: Engine, method: str, body: bytes | None) -> int:
    """Bytes of a request, as a target counts them. Ports are of five digits, all of them."""
    port, ledger = farm.open(says(GOOD))
    await engine.send(Request(method, local(port), body=body))
    return ledger.read


async def test_a_connection_that_is_closed_at_once_may_be_called_either(farm: Farm, make_engine: MakeEngine) -> None:
    """Nothing was read, so both are true; but it is not tried again in silence."""
    for how in ("close", "reset"):
        port, ledger = farm.open(_cut_after(0, how))
        with pytest.raises((NotSent, MaybeSent)):
            await make_engine().send(Request("PUT", local(port), body=BODY, timeout=5))
        assert (ledger.connections, ledger.requests) == (1, [])


@pytest.mark.parametrize("body", [None, BODY, LARGE], ids=["none", "short", "long"])
async def test_a_body_arrives_as_it_was_given(farm: Farm, make_engine: MakeEngine, body: bytes | None) -> None:
    """A long one goes out bit by bit: with its length, without a type that nobody gave."""
    port, ledger = farm.open(says(GOOD))
    await make_engine().send(Request("POST", local(port), body=body, headers={"X-One": "1"}))
    (head,) = ledger.heads
    assert f"Content-Length: {len(body or b'')}\r\n" in head
    assert ledger.read == len(head) + len(body or b"")
    names = sorted(line.partition(":")[0] for line in head.split("\r\n")[1:] if line)
    assert names == ["Accept", "Accept-Encoding", "Content-Length", "Host", "User-Agent", "X-One"]


async def test_what_a_target_calls_a_cookie_gets_into_no_log(
    farm: Farm, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A jar that keeps cookies parses them, and logs the names of those it cannot parse."""
    port, _ = farm.open(says(OK + b"Set-Cookie: \xc3\xa9cret=1\r\nContent-Length: 0\r\n\r\n"))
    with caplog.at_level("DEBUG"):
        await make_engine().send(Request("GET", f"http://localhost:{port}/"))  # of an address none would be taken
    assert not any("cret" in record.getMessage() for record in caplog.records)


# --- cancelled at any stage


async def test_cancelled_anywhere_no_slot_is_lost(farm: Farm, make_engine: MakeEngine) -> None:
    """While connecting, in the handshake, waiting, sending, before and in the answer."""
    many, barrier = 12, asyncio.Barrier(12)

    async def together(peer: Peer) -> None:
        await peer.request()
        await barrier.wait()
        await peer.say(GOOD)

    in_body = says(OK + b"Content-Length: 9\r\n\r\nhalf", then="hang")
    silent, deaf, half = (farm.open(script)[0] for script in (say_nothing, never_read, in_body))
    good, _ = farm.open(together)
    engine, chance = make_engine(Limits(max_connections=many)), random.Random(1)
    with _full() as full:
        urls = [local(port) for port in (silent, deaf, half, full)] + [f"https://localhost:{silent}/"]
        for _ in range(3):
            calls = [
                asyncio.create_task(engine.send(Request("POST", urls[n % len(urls)], body=LARGE))) for n in range(30)
            ]
            for call in chance.sample(calls, len(calls)):
                await asyncio.sleep(chance.choice((0, 0.002, 0.01)))
                call.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    answers = await asyncio.gather(*(engine.send(Request("GET", local(good), timeout=5)) for _ in range(many)))
    assert [answer.status for answer in answers] == [200] * many


# --- what no request carries

REFUSED = [*sorted(FORBIDDEN), "proxy-authorization", "Proxy-Connection", "HOST", "Te"]
BREAKS = ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\0b", "a\x0bb", "a\x7fb"]

Job = Callable[[dict[str, Any]], Awaitable[Any]]


@pytest.fixture
def target(farm: Farm) -> tuple[str, Ledger]:
    port, ledger = farm.open(says(GOOD))
    return local(port), ledger


@pytest.fixture
def transport(make_engine: MakeEngine) -> HttpTransport:
    return HttpTransport(make_engine(), gate=job_gate)


@pytest.fixture
def job(transport: HttpTransport) -> Job:
    async def run(payload: dict[str, Any]) -> Any:
        return await run_job(http_registry(), "http", payload, transport=transport, attempts=1, patience=1)

    return run


@pytest.mark.parametrize("name", REFUSED)
async def test_a_header_that_frames_is_refused_everywhere(
    target: tuple[str, Ledger], transport: HttpTransport, job: Job, name: str
) -> None:
    """To httpx only what it does not set itself; that is ours whatever a call says (see test_client.py)."""
    url, ledger = target
    done = await job({"url": url, "headers": {name: "x"}})
    assert done.reason == "invalid_payload"
    with pytest.raises(ValueError, match="header"):
        await transport.send(Request("POST", url, headers={name: "x"}, body=b"x"))
    if name.lower() not in ("host", "connection", "content-length", "transfer-encoding"):
        with pytest.raises(httpx.LocalProtocolError):
            await transport.client.post(url, headers={name: "x"}, content=b"x")
    assert ledger.connections == 0


@pytest.mark.parametrize("text", BREAKS, ids=ascii)
@pytest.mark.parametrize(
    "field",
    ["method", "url", "header name", "header value"],
)
async def test_a_line_break_is_refused_everywhere(
    target: tuple[str, Ledger], transport: HttpTransport, job: Job, field: str, text: str
) -> None:
    url, ledger = target
    wrongs: dict[str, dict[str, Any]] = {
        "method": {"method": f"GET{text}"},
        "url": {"url": url + text},
        "header name": {"headers": {f"X{text}": "x"}},
        "header value": {"headers": {"X": text}},
    }
    wrong = wrongs[field]
    done = await job({"url": url, **wrong})
    assert done.reason == "invalid_payload"
    assert "evil" not in done.detail.lower() or field == "header name"
    with pytest.raises(ValueError, match=r".") as caught:
        await transport.send(Request(**{"method": "GET", "url": url, **wrong}))
    assert text not in str(caught.value)
    assert ledger.connections == 0


@pytest.mark.parametrize("text", BREAKS, ids=ascii)
async def test_a_line_break_out_of_a_result_is_refused_or_encoded(farm: Farm, job: Job, text: str) -> None:
    """A header is refused; in path, query, form and JSON it is encoded, and one request stays one request."""
    answer = httpx.Response(200, json={"evil": text}).content
    head = OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
    first, _ = farm.open(says(head + answer))
    port, ledger = farm.open(says(GOOD))
    url, evil = local(port), "{{ first.json.evil }}"
    fields: list[tuple[dict[str, Any], str | None]] = [
        ({"url": url, "headers": {"X-A": evil}}, "template"),
        ({"url": url, "headers": {"X-A": f"b{evil}"}}, "template"),
        ({"url": evil}, "template"),
        ({"url": f"{url}{evil}"}, None),
        ({"url": f"{url}?q={evil}"}, None),
        ({"url": url, "query": {"q": evil}}, None),
        ({"url": url, "method": "POST", "form": {"q": evil}}, None),
        ({"url": url, "method": "POST", "json": {"q": evil}}, None),
    ]
    for step, reason in fields:
        before = len(ledger.heads)
        done = await job({"steps": [{"id": "first", "url": local(first)}, {"id": "then", "needs": ["first"], **step}]})
        assert done.reason == reason, (step, done.detail)
        assert len(ledger.heads) - before == (reason is None)
        assert "evil:" not in done.detail.lower()
    assert not any("\nx-evil" in sent.lower() or "\0" in sent for sent in ledger.heads)
