"""What cannot work ends at once, with the exit code of the contract and a line that names the fix."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from tests.process.kit import Yard
from worker.core.topology import Topology
from worker.dev.ports import free_ports

BROKEN_APPS = {
    "raises.py": "raise LookupError('no such shop')\n",
    "lacks.py": "other = 7\n",
    "twice.py": (
        "from worker import Registry\n\nregistry = Registry()\n\n\n"
        "@registry.handler('http')\nasync def mine(payload: dict) -> None: ...\n"
    ),
    "dies.py": (
        "from contextlib import asynccontextmanager\n\nfrom worker import Registry\n\n\n"
        "@asynccontextmanager\nasync def lifespan():\n    raise ConnectionError('no database')\n    yield\n\n\n"
        "registry = Registry(lifespan=lifespan)\n"
    ),
}


def refused(yard: Yard, code: int, *arguments: str, **settings: str) -> str:
    """What `worker run` says when it ends with `code`; every line of it is for a person."""
    ended = yard.command("run", *arguments, **settings)
    assert ended.returncode == code, f"{ended.stdout}{ended.stderr}"
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors
    assert "guest:guest" not in ended.stdout + ended.stderr
    return "\n".join(errors)


def elsewhere(yard: Yard, *, port: int | None = None, user: str = "guest:guest", vhost: str = "") -> str:
    return f"amqp://{user}@127.0.0.1:{port or urlsplit(yard.url).port}/{vhost}"


def test_a_broker_that_is_not_there(yard: Yard) -> None:
    (port,) = free_ports(1)
    since = time.monotonic()
    said = refused(yard, 69, "--connect-timeout", "1s", amqp_url=elsewhere(yard, port=port))
    assert time.monotonic() - since < 8
    assert f"amqp://127.0.0.1:{port}/" in said
    assert "cannot be reached" in said


def test_a_wrong_password(yard: Yard) -> None:
    said = refused(yard, 78, amqp_url=elsewhere(yard, user="guest:s3cret-guess"))
    assert "'guest'" in said
    assert "WORKER_AMQP_URL" in said
    assert "s3cret-guess" not in said


def test_a_vhost_that_is_not_there(yard: Yard) -> None:
    said = refused(yard, 78, amqp_url=elsewhere(yard, vhost="nowhere"))
    assert "vhost" in said
    assert "WORKER_AMQP_URL" in said


def test_a_queue_with_other_arguments(yard: Yard) -> None:
    with yard.channel() as channel:
        channel.queue_declare(yard.queue, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 7})
    said = refused(yard, 78)
    assert f"queue '{yard.queue}'" in said
    assert "x-max-length" in said or "x-dead-letter" in said
    assert "WORKER_QUEUE" in said


def test_queues_that_are_not_there_and_may_not_be_declared(yard: Yard) -> None:
    said = refused(yard, 78, topology="passive")
    topology = Topology(yard.queue)
    for queue in (topology.work, topology.dead, *topology.waits):
        assert f"queue '{queue.name}' does not exist" in said


@pytest.mark.parametrize(
    ("app", "code", "words"),
    [
        ("nowhere:registry", 2, ("'nowhere:registry'", "No module named 'nowhere'")),
        ("lacks:registry", 2, ("'lacks:registry'", "no such name")),
        ("lacks:other", 2, ("'lacks:other'", "not a Registry")),
        ("lacks", 2, ("'lacks'", "module:registry")),
        ("raises:registry", 2, ("LookupError", "no such shop")),
        ("twice:registry", 2, ("'twice:registry'", "'http' is registered twice")),
        ("dies:registry", 1, ("ConnectionError", "no database")),
    ],
)
def test_an_app_that_cannot_be_used(yard: Yard, app: str, code: int, words: tuple[str, ...]) -> None:
    for name, text in BROKEN_APPS.items():
        yard.write(name, text)
    said = refused(yard, code, app)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prefetch": "50", "concurrency": "80"}, ("prefetch", "50", "concurrency", "80")),
        ({"concurency": "80"}, ("WORKER_CONCURENCY", "WORKER_CONCURRENCY")),
        ({"concurrency": "many"}, ("WORKER_CONCURRENCY", "many")),
        ({"job_timeout": "2h"}, ("job_timeout", "consumer_timeout")),
        ({"http_allow": "127.0.0.1/33"}, ("WORKER_HTTP_ALLOW", "127.0.0.1/33")),
    ],
)
def test_settings_that_cannot_be(yard: Yard, settings: Mapping[str, str], words: tuple[str, ...]) -> None:
    said = refused(yard, 78, **settings)
    assert all(word in said for word in words), said


def test_a_flag_that_is_not_there(yard: Yard) -> None:
    assert "--concurrency" in refused(yard, 2, "--concurency", "80")


def test_an_admin_port_that_is_taken(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(yard, 78, admin=f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in said
    assert "WORKER_ADMIN" in said


def test_what_kubernetes_injects_is_no_setting(yard: Yard) -> None:
    worker = yard.start(port="tcp://10.0.0.1:80", service_host="10.0.0.1", port_8080_tcp="tcp://10.0.0.1:8080")
    assert worker.drain() == 0
