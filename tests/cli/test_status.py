"""`worker status`: queues, the ladder, and the service on this host, also when one of them is not there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tests.cli.conftest import Broker, Cli
from tests.process.kit import Yard
from worker.cli.local_service import ask_local
from worker.dev.node import Node
from worker.dev.ports import free_ports
from worker.ops.settings import Settings, load_settings


def park(broker: Broker, rung: int, id: str, **headers: Any) -> None:
    """A job as it waits."""
    queue = broker.topology.wait(rung)
    broker.channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    told = {"x-worker-id": id, "x-worker-attempt": 2, "x-worker-snoozes": 1, "x-worker-not-before": due(rung)}
    broker.publish(
        queue.name, b"{}", type="order", message_id=f"copy-of-{id}", user_id=broker.user, headers=told | headers
    )


def due(seconds: int) -> int:
    return round((time.time() + seconds) * 1000)


@pytest.fixture(autouse=True)
def nobody(cli: Cli) -> None:
    cli.environ["WORKER_ADMIN"] = f"127.0.0.1:{free_ports(1)[0]}"


def test_what_is_queued_waits_and_is_dead(cli: Cli, broker: Broker) -> None:
    broker.declare()
    broker.publish(broker.queue, b"{}", type="t")
    broker.publish(broker.topology.dead_name, b"{}")
    park(broker, 600, "a")
    park(broker, 600, "b")
    found = cli("status", "--json").json
    rows = {row["name"]: row for row in found["queues"]}
    assert (rows[broker.queue]["ready"], rows[broker.queue]["consumers"]) == (1, 0)
    assert (rows[broker.topology.dead_name]["ready"], rows[broker.topology.dead_name]["role"]) == (1, "dead")
    assert rows[broker.topology.wait_name(600)]["ready"] == found["waiting"] == 2
    assert rows[broker.topology.wait_name(1)]["ready"] is None
    assert found["service"]["trouble"] == "connection refused"

    ended = cli("status")
    lines = [line.split() for line in ended.out.splitlines()]
    assert ended.code == 0
    assert [broker.queue, "1", "0", "nobody", "consumes"] in lines
    assert [broker.topology.dead_name, "1", "0", "worker", "dead", "list"] in lines
    assert [broker.topology.wait_name(600), "2", "0"] in lines
    assert [broker.topology.suspect_name, "-", "-", "is", "not", "there"] in lines
    assert "10 wait queues are empty or not declared yet" in ended.err


def test_parked_jobs_can_be_seen_and_stay(cli: Cli, broker: Broker) -> None:
    broker.declare()
    for number in range(7):
        park(broker, 600, f"job-{number}")
    park(broker, 3600, "other")
    jobs = cli("status", "--parked", "--json").json["parked"]
    assert [job["id"] for job in jobs] == [*(f"job-{number}" for number in range(5)), "other"]
    assert (jobs[0]["type"], jobs[0]["attempt"], jobs[0]["snoozes"]) == ("order", 2, 1)
    assert abs(jobs[0]["due"] - time.time() - 600) < 60
    lines = [line.split() for line in cli("status", "--parked").out.splitlines()]
    assert [broker.topology.wait_name(3600), "other", "order", "2", "1", "59m"] in lines
    assert "job-" not in cli("status").out
    taken = [broker.take(broker.topology.wait_name(600)) for _ in range(7)]
    assert [(one[0].headers or {})["x-worker-id"] for one in taken if one] == [f"job-{number}" for number in range(7)]


def test_a_service_is_shown_with_its_queue(cli: Cli, rabbitmq: Any, tmp_path: Path) -> None:
    with Yard(rabbitmq.url, tmp_path) as yard:
        worker = yard.start()
        environ = {"WORKER_AMQP_URL": yard.url, "WORKER_QUEUE": yard.queue, "WORKER_ADMIN": worker.admin}
        found = cli("status", "--json", **environ).json
        assert found["service"]["is_ready"] is True
        assert (found["service"]["running"], found["service"]["ready"]["replicas"]) == (0, 1)
        assert next(row for row in found["queues"] if row["role"] == "work")["consumers"] == 1
        shown = cli("status", **environ).out
        assert f"service  ready at {worker.admin}: consuming 1, replicas 1" in shown
        assert "service  0 jobs in flight" in shown


def test_without_a_broker_the_service_is_shown(cli: Cli) -> None:
    ended = cli("status", "--amqp-url", "amqp://127.0.0.1:1", "--connect-timeout", "100ms")
    assert ended.code == 69
    assert ended.errors[0].startswith("the broker cannot be reached")
    assert "none answers at 127.0.0.1" in ended.out
    ended = cli("status", "--amqp-url", "amqp://127.0.0.1:1", "--connect-timeout", "100ms", "--json")
    assert ended.code == 69
    assert ended.json["broker"]["trouble"].startswith("the broker cannot be reached")


def test_a_vhost_that_is_not_there(cli: Cli, broker: Broker) -> None:
    ended = cli("status", "--amqp-url", f"{broker.url}nowhere")
    assert ended.code == 78
    assert "the vhost does not exist" in ended.errors[0]


class Listener(BaseHTTPRequestHandler):
    """An admin listener that says what the test wants."""

    pages: ClassVar[dict[str, tuple[int, str]]] = {}
    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        status, text = self.pages.get(self.path, (404, "{}"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Settings]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    Thread(target=server.serve_forever, daemon=True).start()
    flags = {"admin": f"127.0.0.1:{server.server_port}", "admin_token": "a-token-of-some-length"}
    yield load_settings(flags, {}, cwd="/nonexistent").settings
    server.shutdown()
    server.server_close()


def test_breakers_and_pauses_are_shown(listener: Settings) -> None:
    closed = 'worker_breaker_open{host="b.example.com"} 0.0'
    metrics = f'# HELP worker_breaker_open\nworker_breaker_open{{host="a.example.com"}} 1.0\n{closed}\n'
    Listener.pages = {
        "/ready": (503, json.dumps({"ok": False, "consuming": 0, "paused": "by hand"})),
        "/jobs": (200, "[{}, {}]"),
        "/metrics": (200, metrics),
    }
    found = ask_local(listener)
    assert (found.is_ready, found.running, found.held_back) == (False, 2, ("a.example.com",))
    assert found.ready == {"consuming": 0, "paused": "by hand"}
    assert Listener.tokens[-1] == "Bearer a-token-of-some-length"


@pytest.mark.parametrize("page", ["[]", "not json", '{"status": "up"}'])
def test_what_is_no_worker_is_not_taken_for_one(listener: Settings, page: str) -> None:
    Listener.pages = {"/ready": (200, page)}
    assert ask_local(listener).trouble == "what answers is no worker"


def test_jobs_may_need_the_token(listener: Settings) -> None:
    Listener.pages = {"/ready": (200, '{"ok": true}'), "/jobs": (403, "{}"), "/metrics": (200, "")}
    assert ask_local(listener).running is None


def test_a_user_who_may_not_look(cli: Cli, node: Node) -> None:
    node.ctl("add_user", "blind", "blind-secret")
    node.ctl("set_permissions", "blind", "nothing", "nothing", "nothing")
    try:
        ended = cli("status", "--amqp-url", node.url.replace("guest:guest", "blind:blind-secret"), "--parked")
    finally:
        node.ctl("delete_user", "blind")
    assert ended.code == 0
    # Some versions want the right to configure a queue for looking at it.
    assert "is not there" in ended.out or "no right to look at it" in ended.out
