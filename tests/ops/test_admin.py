"""The admin listener and the probe, over real sockets: what is answered to whom, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from worker.ops.admin import AdminListener, CannotListen, Check, Patience
from worker.ops.admin_http import Ask, Refused, check_host, parse_head
from worker.ops.probe import DEFAULT_ADMIN, admin_address, probe

TOKEN = "correct-horse-battery"


class Source:
    def __init__(self) -> None:
        self.is_live = Check(ok=True, detail={"loop": "turns"})
        self.is_ready = Check(ok=False, detail={"state": "connecting"})
        self.page = 'worker_jobs_total{type="ü"} 1\n'
        self.fault: Exception | None = None
        self.delay = 0.0
        self.orders: list[tuple[str, str | None]] = []

    async def live(self) -> Check:
        await asyncio.sleep(self.delay)
        return self.is_live

    async def ready(self) -> Check:
        if self.fault:
            raise self.fault
        return self.is_ready

    async def metrics(self) -> str:
        return self.page

    async def jobs(self) -> list[dict[str, Any]]:
        return [{"id": "1", "since": 1.5, "odd": Path("x")}]

    async def pause(self, key: str | None) -> dict[str, Any]:
        self.orders.append(("pause", key))
        return {"changed": True}

    async def resume(self, key: str | None) -> dict[str, Any]:
        self.orders.append(("resume", key))
        return {"changed": True}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse(answer: bytes) -> Reply:
    head, _, body = answer.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    return Reply(int(start.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body)


Exchange = Callable[[bytes], Awaitable[bytes]]


class Served:
    """A listener that runs, and ways to talk to it."""

    def __init__(self, listener: AdminListener, source: Source, address: tuple[str, int]) -> None:
        self.listener, self.source, self.address = listener, source, address

    async def raw(self, request: bytes, *, eof: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.address[1])
        try:
            writer.write(request)
            if eof:
                writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def get(self, path: str, host: str = "localhost", method: str = "GET", **headers: str) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers.items())]
        return parse(await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")))


Start = Callable[..., Awaitable[Served]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    listeners: list[AdminListener] = []

    async def started(host: str = "127.0.0.1", **options: Any) -> Served:
        source = Source()
        listener = AdminListener(source, host, 0, **options)
        listeners.append(listener)
        return Served(listener, source, await listener.start())

    yield started
    for listener in listeners:
        await listener.stop()


# --- answers


async def test_checks_are_200_or_503_with_their_detail(start: Start) -> None:
    served = await start()
    live, ready = await served.get("/live"), await served.get("/ready?verbose=1")
    assert (live.status, live.json) == (200, {"ok": True, "loop": "turns"})
    assert (ready.status, ready.json) == (503, {"ok": False, "state": "connecting"})
    served.source.is_ready = Check(ok=True)
    assert (await served.get("/ready")).status == 200


async def test_metrics_are_text_as_prometheus_wants_it(start: Start) -> None:
    served = await start()
    reply = await served.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert reply.body.decode() == served.source.page
    assert reply.headers["content-length"] == str(len(reply.body))


async def test_jobs_are_a_list_even_of_odd_values(start: Start) -> None:
    assert (await (await start()).get("/jobs")).json == [{"id": "1", "since": 1.5, "odd": "x"}]


async def test_answers_are_for_nobody_elses_page(start: Start) -> None:
    reply = await (await start()).get("/live", Origin="http://evil.example", Cookie="a=b")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not {"set-cookie", "access-control-allow-origin"} & set(reply.headers)


async def test_a_large_page_arrives_whole(start: Start) -> None:
    served = await start()
    served.source.page = "x" * 5_000_000
    assert (await served.get("/metrics")).body == served.source.page.encode()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/live/", "GET", 404),
        ("/LIVE", "GET", 404),
        ("/live", "POST", 405),
        ("/live", "OPTIONS", 405),
        ("/nothing", "DELETE", 405),
    ],
)
async def test_other_paths_and_methods_are_refused(start: Start, path: str, method: str, status: int) -> None:
    reply = await (await start()).get(path, method=method)
    assert reply.status == status
    assert reply.json["error"]
    assert reply.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


async def test_head_has_the_length_and_no_body(start: Start) -> None:
    served = await start()
    reply = await served.get("/metrics", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == str(len(served.source.page.encode()))


async def test_a_source_that_fails_is_a_500_without_its_words(start: Start) -> None:
    served = await start()
    served.source.fault = RuntimeError("amqp://u:s3cret@h")
    reply = await served.get("/ready")
    assert reply.status == 500
    assert b"s3cret" not in reply.body


async def test_a_source_that_hangs_is_a_503_in_time(start: Start) -> None:
    served = await start(patience=Patience(answer=0.1))
    served.source.delay = 30
    before = time.monotonic()
    assert (await served.get("/live")).status == 503
    assert time.monotonic() - before < 5


# --- who may ask


HOSTS = [
    ("localhost", True, True),
    ("LOCALHOST:8080", True, True),
    ("127.0.0.1:8080", True, True),
    ("10.1.2.3", True, True),
    ("[::1]:8080", True, True),
    ("bound.example", True, True),
    ("worker:8080", False, True),
    ("worker.prod.svc:8080", False, True),
    ("worker.prod.svc.cluster.local", False, True),
    ("evil.example", False, False),
    ("localhost.evil.example", False, False),
    ("127.0.0.1.evil.example", False, False),
    ("worker.svc.evil.example", False, False),
    ("user@localhost", False, False),
    ("localhost:80:80", False, False),
    ("", False, False),
]


@pytest.mark.parametrize(("host", "on_loopback", "off_loopback"), HOSTS)
def test_the_host_header_decides(host: str, on_loopback: bool, off_loopback: bool) -> None:
    for loopback, served in ((True, on_loopback), (False, off_loopback)):
        ask = Ask("GET", "/live", {"host": host})
        if served:
            check_host(ask, "bound.example", on_loopback=loopback)
        else:
            with pytest.raises(Refused) as refused:
                check_host(ask, "bound.example", on_loopback=loopback)
            assert refused.value.answer.status == 421


async def test_a_foreign_host_gets_nothing(start: Start) -> None:
    for path in ("/live", "/ready", "/metrics", "/jobs"):
        assert (await (await start()).get(path, host="evil.example")).status == 421
    reply = parse(await (await start()).raw(b"GET /live HTTP/1.1\r\n\r\n"))
    assert reply.status == 421


AUTHORIZED: list[tuple[str, str | None, str | None, int]] = [
    ("127.0.0.1", None, None, 200),
    ("127.0.0.1", TOKEN, None, 200),
    ("localhost", TOKEN, None, 200),
    ("0.0.0.0", None, None, 403),
    ("0.0.0.0", None, "Bearer ", 403),
    ("0.0.0.0", TOKEN, None, 401),
    ("0.0.0.0", TOKEN, f"Bearer {TOKEN}x", 401),
    ("0.0.0.0", TOKEN, f"Basic {TOKEN}", 401),
    ("0.0.0.0", TOKEN, TOKEN, 401),
    ("0.0.0.0", TOKEN, "Bearer \xff", 401),
    ("0.0.0.0", TOKEN, f"Bearer {TOKEN}", 200),
    ("0.0.0.0", TOKEN, f"bearer  {TOKEN}", 200),
]


@pytest.mark.parametrize(("host", "token", "given", "status"), AUTHORIZED)
async def test_off_loopback_jobs_need_the_token(
    start: Start, host: str, token: str | None, given: str | None, status: int
) -> None:
    served = await start(host, token=lambda: token)
    headers = {} if given is None else {"Authorization": given}
    reply = await served.get("/jobs", **headers)
    assert reply.status == status
    assert (reply.headers.get("www-authenticate") == "Bearer") is (status == 401)
    assert TOKEN.encode() not in reply.body
    if status == 403:
        assert "WORKER_ADMIN_TOKEN" in reply.json["error"]


async def test_a_token_that_changes_counts_from_then_on_and_the_old_one_no_more(start: Start) -> None:
    tokens = ["before-0123456789"]
    served = await start("0.0.0.0", token=lambda: tokens[-1])

    async def status(token: str) -> int:
        return (await served.get("/jobs", Authorization=f"Bearer {token}")).status

    assert [await status("before-0123456789"), await status("after-0123456789")] == [200, 401]
    tokens.append("after-0123456789")
    assert [await status("before-0123456789"), await status("after-0123456789")] == [401, 200]


@pytest.mark.parametrize("path", ["/live", "/metrics"])
async def test_probes_and_metrics_never_need_it(start: Start, path: str) -> None:
    assert (await (await start("0.0.0.0", token=lambda: TOKEN)).get(path)).status == 200


# --- requests that are none


BROKEN = [
    b"GET /live\r\n\r\n",
    b"GET  /live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /live HTTP/2.0\r\nHost: localhost\r\n\r\n",
    b"GET http://localhost/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /li\x00ve HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: localhost\r\n folded: yes\r\n\r\n",
    b"GET /live HTTP/1.1\nHost: localhost\n\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: localhost\r\nx\r\n\r\n",
    b"GET /live HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(65)) + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", BROKEN)
def test_a_malformed_head_is_refused(request_bytes: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_head(request_bytes)
    assert refused.value.answer.status == 400


def test_a_head_is_understood() -> None:
    ask = parse_head(b"GET /jobs?x=/y HTTP/1.0\r\nHOST:  a \r\nX-Y:\r\n\r\n")
    assert ask == Ask("GET", "/jobs", {"host": "a", "x-y": ""}, "x=/y")


async def test_a_malformed_request_is_answered_and_the_next_one_served(start: Start) -> None:
    served = await start()
    assert parse(await served.raw(b"nonsense\r\n\r\n")).status == 400
    assert (await served.get("/live")).status == 200


async def test_a_body_that_nobody_wants_does_not_cost_the_answer(start: Start) -> None:
    served = await start()
    body = b"x" * 20_000_000  # more than all buffers: it can only be sent to somebody who reads

    def post() -> bytes:
        with socket.create_connection(served.address, timeout=10) as client:
            client.sendall(b"POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            client.shutdown(socket.SHUT_WR)
            return client.makefile("rb").read()

    assert parse(await asyncio.to_thread(post)).status == 405


@pytest.mark.parametrize("head", [b"GET /live HTTP/1.1\r\nHost: localhost\r\nX: ", b""])
async def test_an_endless_head_is_refused(start: Start, head: bytes) -> None:
    assert parse(await (await start()).raw(head + b"x" * 20_000, eof=True)).status == 431


# --- those that hold on


async def test_a_connection_that_says_nothing_is_closed(start: Start) -> None:
    served = await start(patience=Patience(head=0.2))
    before = time.monotonic()
    assert await served.raw(b"") == b""
    assert await served.raw(b"GET /live HTTP/1.1\r\n") == b""
    assert time.monotonic() - before < 5


async def test_many_idle_connections_are_bounded_and_pass(start: Start) -> None:
    served = await start(patience=Patience(head=1.0), most_connections=8)
    idle = [await asyncio.open_connection("127.0.0.1", served.address[1]) for _ in range(30)]
    await asyncio.sleep(0.2)
    assert len(served.listener._open) == 8
    await asyncio.sleep(1.2)
    assert (await served.get("/live")).status == 200
    for _, writer in idle:
        writer.close()


async def test_a_reader_that_takes_nothing_is_let_go(start: Start) -> None:
    served = await start(patience=Patience(taken=0.3))
    served.source.page = "x" * 50_000_000
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(client.connect, ("127.0.0.1", served.address[1]))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.2)
        assert len(served.listener._open) == 1
        await asyncio.sleep(1.0)
        assert len(served.listener._open) == 0


async def test_stop_ends_open_connections_and_frees_the_port(start: Start) -> None:
    served = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.address[1])
    await asyncio.sleep(0.05)
    async with asyncio.timeout(2):
        await served.listener.stop()
        await served.listener.stop()
        assert await reader.read() == b""
    writer.close()
    again = AdminListener(Source(), "127.0.0.1", served.address[1])
    assert await again.start() == served.address
    await again.stop()


async def test_a_taken_port_names_the_setting(start: Start) -> None:
    served = await start()
    with pytest.raises(CannotListen, match="address already in use; set WORKER_ADMIN"):
        await AdminListener(Source(), "127.0.0.1", served.address[1]).start()
    with pytest.raises(CannotListen, match="set WORKER_ADMIN"):
        await AdminListener(Source(), "192.0.2.1", 0).start()


# --- the probe


async def test_the_probe_tells_what_the_listener_says(start: Start) -> None:
    served = await start()
    admin = f"127.0.0.1:{served.address[1]}"
    assert await asyncio.to_thread(probe, admin) == (
        1,
        f'/ready of {admin}: 503 {{"ok": false, "state": "connecting"}}',
    )
    served.source.is_ready = Check(ok=True)
    assert await asyncio.to_thread(probe, admin) == (0, f'/ready of {admin}: 200 {{"ok": true}}')
    assert (await asyncio.to_thread(probe, f"0.0.0.0:{served.address[1]}", "/live"))[0] == 0
    assert (await asyncio.to_thread(probe, f"localhost:{served.address[1]}", "/live"))[0] == 0


@pytest.mark.parametrize(
    ("admin", "says"),
    [
        ("off", "off"),
        ("127.0.0.1:0", "port 0"),
        ("8080", "not host:port"),
        ("host:x", "not host:port"),
        ("h:70000", "not host:port"),
        ("127.0.0.1:1", "refused"),
    ],
)
def test_a_probe_that_cannot_ask_says_why_in_one_line(admin: str, says: str) -> None:
    code, text = probe(admin, timeout=2)
    assert code == 1
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"\x00" * 100, b"HTTP/1.1 200\x1b[2J"])
def test_a_probe_is_not_fooled_by_something_else(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        code, text = probe(f"127.0.0.1:{server.getsockname()[1]}", timeout=2)
        thread.join()
    assert code == 1
    assert text.isprintable()


def test_a_probe_waits_no_longer_than_it_may() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = time.monotonic()
        assert probe(f"127.0.0.1:{server.getsockname()[1]}", timeout=0.3) == (
            1,
            f"/ready of 127.0.0.1:{server.getsockname()[1]}: no answer in time",
        )
        assert time.monotonic() - before < 2


@pytest.mark.parametrize(
    ("environ", "toml", "address"),
    [
        ({}, None, DEFAULT_ADMIN),
        ({"WORKER_ADMIN": " 10.0.0.1:1 "}, 'admin = "x:2"', "10.0.0.1:1"),
        ({}, 'admin = "x:2"', "x:2"),
        ({}, "steps = 1", DEFAULT_ADMIN),
        ({}, "broken =", DEFAULT_ADMIN),
    ],
)
def test_the_probe_finds_the_address(tmp_path: Path, environ: dict[str, str], toml: str | None, address: str) -> None:
    if toml is not None:
        (tmp_path / "worker.toml").write_text(toml)
    assert admin_address(environ, str(tmp_path / "worker.toml")) == address


def test_the_probe_imports_next_to_nothing() -> None:
    """Loaded by its path: what else `import worker` loads is the face's business."""
    path = Path(__file__).parents[2] / "worker" / "ops" / "probe.py"
    code = (
        f"import runpy, sys; runpy.run_path({str(path)!r});"
        "print(*sorted({'asyncio', 'pydantic', 'structlog', 'tomllib', 'ssl', 'logging', 'typing'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() in ("", "typing")
