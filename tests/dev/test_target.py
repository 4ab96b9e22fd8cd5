"""The local HTTP target, with real processes and a client that is not ours."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from worker.dev.target import Target


def test_plain_answers(target: Target) -> None:
    with httpx.Client(base_url=target.url) as client:
        assert client.get("/ok").text == "ok\n"
        assert client.get("/status/418").status_code == 418
        assert client.get("/status/204").content == b""
        assert client.get("/json").json()["id"] == 7
        assert len(client.get("/bytes/1000000").content) == 1_000_000
        assert client.get("/gzip/300000").content == bytes(300_000)
        assert client.get("/set-cookie").headers["set-cookie"].startswith("seen=yes")
        assert client.get("/redirect", params={"to": "http://a.example/b"}).headers["location"] == "http://a.example/b"
        assert client.head("/json").headers["content-length"] == str(len(client.get("/json").content))
        assert client.get("/nowhere").status_code == 404
        assert client.get("/status/many").status_code == 400


@pytest.mark.parametrize("body", [b'{"a": 1}', iter([b'{"a"', b": 1}"])], ids=["length", "chunked"])
def test_echo(target: Target, body: bytes) -> None:
    echo = httpx.post(f"{target.url}/echo?x=1&y=a%20b", content=body, headers={"X-One": "1"}).json()
    assert (echo["method"], echo["path"], echo["query"]) == ("POST", "/echo", {"x": "1", "y": "a b"})
    assert (echo["headers"]["x-one"], echo["body"]) == ("1", '{"a": 1}')


def test_scripted_faults_count_by_key(target: Target) -> None:
    with httpx.Client(base_url=target.url) as client:
        assert [client.get("/flaky/2/502/a").status_code for _ in range(4)] == [502, 502, 200, 200]
        assert client.get("/flaky/1/500/b").status_code == 500
        later = client.get("/retry-after/3/1/a")
        assert (later.status_code, later.headers["retry-after"]) == (503, "3")
        assert client.get("/retry-after/3/1/a").status_code == 200


@pytest.mark.parametrize("path", ["/delay/300", "/ok?ms=300", "/drip/100?n=3"])
def test_slow_answers(target: Target, path: str) -> None:
    start = time.monotonic()
    assert httpx.get(target.url + path).status_code == 200
    assert 0.29 <= time.monotonic() - start < 2


def test_answers_that_never_come_are_in_the_ledger_without_a_status(target: Target) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{target.url}/close")
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{target.url}/hang", timeout=0.2)
    time.sleep(0.2)  # the target learns of the lost connection
    assert [(exchange.path, exchange.status) for exchange in target.ledger()] == [("/close", None), ("/hang", None)]
    assert all(exchange.ended is not None for exchange in target.ledger())


def test_ledger(target: Target) -> None:
    before = time.time()
    httpx.post(f"{target.url}/delay/100?n=1", content=b"12345", headers={"Idempotency-Key": "job-1/request"})
    (exchange,) = target.ledger()
    assert (exchange.method, exchange.path, exchange.status) == ("POST", "/delay/100?n=1", 200)
    assert (exchange.key, exchange.length) == ("job-1/request", 5)
    assert exchange.ended is not None
    assert before <= exchange.started <= exchange.ended - 0.09


def test_keeps_connections_and_answers_pipelined_requests_in_order(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), timeout=5) as client:
        client.sendall(b"GET /ok?ms=100 HTTP/1.1\r\n\r\nGET /status/404 HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.index(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 404")
    assert len({exchange.port for exchange in target.ledger()}) == 1


def test_refuses_what_is_not_http(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), timeout=5) as client:
        client.sendall(b"hello\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_kill_leaves_what_was_under_way_in_the_ledger_and_the_port_stays(target: Target) -> None:
    url = target.url
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(httpx.get, f"{url}/hang")
        while not target.ledger():
            time.sleep(0.01)
        target.kill()
        assert isinstance(lost.exception(timeout=5), httpx.TransportError)
    target.start()
    assert httpx.get(f"{url}/ok").status_code == 200
    assert [(exchange.path, exchange.ended is None) for exchange in target.ledger()] == [
        ("/hang", True),
        ("/ok", False),
    ]


def test_freezes_and_thaws(target: Target) -> None:
    target.freeze()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{target.url}/ok", timeout=0.2)
    target.thaw()
    assert httpx.get(f"{target.url}/ok").status_code == 200


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


OWNER = """
import time
import pathlib
import sys
from worker.dev.target import Target
with Target(pathlib.Path(sys.argv[1])) as target:
    print(target.port, flush=True)
    time.sleep(600)
"""


def test_does_not_outlive_its_owner(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "ledger")], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_by_hand(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    command = [sys.executable, "-m", "worker.dev.target", "--ledger", str(ledger)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        words = server.stdout.readline().split()
        assert words[:2] == ["listening", "on"]
        assert httpx.get(f"{words[2]}/ok").status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(5) == 0
    assert len(ledger.read_text().splitlines()) == 2
