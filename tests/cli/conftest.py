"""The command as people run it: a process of its own, in an empty directory, with only the variables of the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from worker.core.topology import Topology


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


class Cli:
    """Runs `worker ...`; `environ` are the WORKER_* variables it sees."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ: dict[str, str] = {}

    def __call__(self, *arguments: str, given: str = "", **environ: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            input=given.encode(),
            env=self.environment() | environ,
            cwd=self.directory,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "worker", *arguments],
            env=self.environment(),
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
        return inherited | {"COLUMNS": "120"} | self.environ


class Broker:
    """The broker as an outsider sees it, and a work queue name of the test's own."""

    def __init__(self, url: str, queue: str) -> None:
        self.url = url
        self.queue = queue
        self.topology = Topology(queue)
        self.user = urlsplit(url).username or "guest"
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: BlockingChannel = self._connection.channel()
        self.channel.confirm_delivery()

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        self.channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties), mandatory=True)

    def take(self, queue: str) -> tuple[pika.BasicProperties, bytes] | None:
        """The first message of `queue`, which is gone then."""
        method, properties, body = self.channel.basic_get(queue, auto_ack=True)
        if method is None:
            return None
        assert properties is not None
        assert body is not None
        return properties, body

    def count(self, queue: str) -> int:
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def exists(self, queue: str) -> bool:
        channel = self._connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def declare(self) -> None:
        """What a worker declares at its start."""
        for queue in (self.topology.dead, self.topology.work):
            self.channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))

    def close(self) -> None:
        channel = self._connection.channel()
        owned = (self.topology.work, self.topology.suspect, self.topology.dead, *self.topology.waits)
        for queue in owned:
            channel.queue_delete(queue.name)
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection, and leave the queues to another one."""
        self._connection.close()


def headers_of(properties: pika.BasicProperties) -> dict[str, object]:
    """The headers as they were sent: brokers before 4.x count even a first delivery in one of them."""
    return {name: value for name, value in (properties.headers or {}).items() if name != "x-delivery-count"}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def broker(rabbitmq: Any, cli: Cli) -> Iterator[Broker]:
    found = Broker(rabbitmq.url, f"cli-{uuid.uuid4().hex[:8]}")
    cli.environ |= {"WORKER_AMQP_URL": found.url, "WORKER_QUEUE": found.queue}
    yield found
    found.close()
