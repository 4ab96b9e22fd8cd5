"""The private RabbitMQ node, with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pika.exceptions
import psutil
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import installation
from worker.dev.node import Node, NodeUnavailable

CHECKOUT = Path(__file__).parents[2]

# A quorum queue that is younger when its node is killed comes back empty, confirmed messages and all (3.10.8).
SETTLED = 2.0


@contextlib.contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()


def eventually(holds: Callable[[], bool], within: float = 25.0) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def family(pid: int) -> list[psutil.Process]:
    """All processes of the session in which this one is."""
    session = os.getsid(pid)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session:
                found.append(process)
    return found


def publish(url: str, queue: str) -> None:
    with channel(url) as client:
        client.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        client.confirm_delivery()
        client.basic_publish("", queue, b"{}", pika.BasicProperties(delivery_mode=2), mandatory=True)


def messages(url: str, queue: str) -> int:
    with channel(url) as client:
        return int(client.queue_declare(queue, passive=True).method.message_count)


def test_takes_and_gives_messages(node: Node) -> None:
    publish(node.url, "test.node.simple")
    assert messages(node.url, "test.node.simple") == 1


@pytest.mark.parametrize("end", [Node.kill, Node.stop], ids=["killed", "stopped"])
def test_starts_again_on_the_same_data_and_port(node: Node, end: Callable[[Node], None]) -> None:
    queue, url = f"test.node.{end.__name__}", node.url
    publish(url, queue)
    time.sleep(SETTLED)
    end(node)
    assert not node.running
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", node.port), timeout=1)
    node.start()
    assert node.url == url
    assert eventually(lambda: messages(url, queue) == 1)


def test_freezes_and_thaws(node: Node) -> None:
    node.freeze()
    try:
        with socket.create_connection(("127.0.0.1", node.port), timeout=1) as client:
            client.sendall(b"AMQP\0\0\x09\x01")
            with pytest.raises(TimeoutError):
                client.recv(1)
    finally:
        node.thaw()
    publish(node.url, "test.node.thawed")


def test_a_frozen_node_can_be_stopped(node: Node) -> None:
    processes = family(node.pid)
    node.freeze()
    node.stop()
    assert eventually(lambda: not any(process.is_running() for process in processes), within=5)


def test_listens_on_this_machine_only(node: Node) -> None:
    node.ctl("list_queues")
    listening = [
        connection.laddr.ip
        for process in family(node.pid)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3  # clients, other nodes, epmd
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_rabbitmqctl_reaches_it(node: Node) -> None:
    publish(node.url, "test.node.listed")
    assert "test.node.listed" in node.ctl("list_queues", "name").splitlines()
    with pytest.raises(RuntimeError, match="no_such_command"):
        node.ctl("no_such_command")


def test_says_why_it_does_not_start(node: Node) -> None:
    assert node.running  # there is a RabbitMQ here
    broken = Node(installation(), conf=["no.such.key = 1"])
    with pytest.raises(NodeUnavailable, match=r"no\.such\.key"), broken:
        pytest.fail("it started")
    assert not broken.directory.exists()


OWNER = """
import time
from tests.conftest import installation
from worker.dev.node import Node
with Node(installation()) as node:
    print(node.pid, node.directory, flush=True)
    time.sleep(600)
"""


def test_does_not_outlive_its_owner(node: Node) -> None:
    assert node.running  # there is a RabbitMQ here
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        processes = family(int(pid))
        assert {"epmd", "beam.smp"} <= {process.name() for process in processes}
        owner.send_signal(signal.SIGKILL)
        assert eventually(lambda: not any(process.is_running() for process in processes))
        assert not Path(directory).exists()
