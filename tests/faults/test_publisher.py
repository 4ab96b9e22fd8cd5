"""Row 17, and the kit's own tools: what the publisher notes is true, and the proxy does what it is told."""

from __future__ import annotations

import socket
import time

import pika
import pytest

from tests.faults import ledgers
from tests.faults.amqp import encode
from tests.faults.proxy import Proxy
from tests.faults.trial import Trial
from tests.process.kit import eventually
from worker.dev.target import Target


def answers(trial: Trial) -> dict[str, str]:
    return {one.id: one.answer for one in ledgers.read_confirmed(trial.directory / "confirmed.log")}


def published(trial: Trial) -> list[str]:
    return [one.id for one in ledgers.read_published(trial.directory / "published.log")]


def test_row_17_a_publisher_killed_before_its_confirms(trial: Trial) -> None:
    """What it noted as confirmed ends; of the rest each job is there or is not, and nothing is promised."""
    trial.declare()
    trial.start(concurrency="50")
    with trial.publishing(trial.jobs(3000, "/ok?job={}")) as publisher, trial.fault("publisher.kill"):
        eventually(lambda: len(published(trial)) > 800, "it is in the midst of it")
        publisher.kill()
    report = trial.judge()
    assert report.verdicts["confirmed"] == len(answers(trial)) < 3000


def test_row_17_a_publisher_cut_off_before_its_confirms(trial: Trial) -> None:
    trial.declare()
    trial.start(concurrency="50")
    with Proxy(trial.node.port) as proxy, trial.fault("publisher.cut"):
        proxy.set(cut=60_000)
        orders = trial.jobs(1000, "/ok?job={}")
        with trial.publishing(orders, url=proxy.url(trial.url), patient=True) as publisher:
            assert publisher.wait() == 0
    assert {"ack", "unknown"} == set(answers(trial).values())
    trial.judge()


def test_a_job_without_a_queue_is_noted_as_returned(trial: Trial) -> None:
    trial.publish_all(trial.jobs(2))
    assert set(answers(trial).values()) == {"returned"}


def test_the_raw_client_writes_what_others_read(trial: Trial) -> None:
    trial.declare()
    properties = {
        "type": "t",
        "message_id": "id",
        "content_type": "application/json",
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "timestamp": 1_700_000_000,
        "app_id": "shop",
        "headers": {"a": 1, "b": "x", "c": True},
    }
    order = trial.job()
    trial.publish_all([type(order)("id", "body", properties), type(order)("big", "x" * 300_000, {"message_id": "big"})])
    read = {letter.properties.message_id: letter for letter in trial.take(trial.queue)}
    found = read["id"].properties
    headers = {name: value for name, value in (found.headers or {}).items() if name != "x-delivery-count"}
    assert {name: getattr(found, name) for name in properties} | {"headers": headers} == properties
    assert len(read["big"].body) == 300_000
    assert encode({"type": "t"}) == b"".join(pika.BasicProperties(type="t").encode())


def ask(port: int, timeout: float = 10) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout) as client:
        client.settimeout(timeout)
        client.sendall(b"GET /bytes/2000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_the_proxy_delays_slices_and_bounds_the_rate(target: Target) -> None:
    with Proxy(target.port) as proxy:
        whole = ask(proxy.port)
        assert whole.endswith(b"x" * 2000)
        for manner, least in (({"delay": 0.2}, 0.4), ({"slice": 7}, 0.0), ({"rate": 5000}, 0.3)):
            proxy.set(**manner)
            since = time.monotonic()
            assert ask(proxy.port)[-2000:] == whole[-2000:]
            assert time.monotonic() - since >= least, manner
        proxy.heal()
        assert proxy.seen == 4


@pytest.mark.parametrize("way", ["up", "down", "both"])
def test_the_proxy_stalls_and_lets_go_again(target: Target, way: str) -> None:
    with Proxy(target.port) as proxy:
        proxy.set(stall=way)
        before = len(target.ledger())
        with pytest.raises(TimeoutError):
            ask(proxy.port, timeout=0.3)
        assert len(target.ledger()) == before + (way == "down")
        proxy.heal()
        assert ask(proxy.port)


def test_the_proxy_ends_connections_each_in_its_way(target: Target) -> None:
    with Proxy(target.port) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            eventually(lambda: proxy.seen == 1, "connected")
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            eventually(lambda: proxy.seen == 2, "connected")
            proxy.close()
            assert client.recv(1) == b""
        proxy.set(cut=500)
        with pytest.raises(ConnectionResetError):
            ask(proxy.port)
        proxy.set(refuse=True)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask(proxy.port)
