"""What all parts of the demo share: the plan, a broker, a target, workers."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from worker.dev.node import Node, ensure_rabbitmq
from worker.dev.ports import free_ports
from worker.dev.screen import Screen
from worker.dev.service import Command, Service, Untrue, clean_environment
from worker.dev.target import Exchange, Target

_SETTINGS = {
    "WORKER_HTTP_ALLOW": "127.0.0.0/8",
    "WORKER_BACKOFF": "1s..2s",
    "WORKER_CONNECT_TIMEOUT": "5s",
    "WORKER_DRAIN_TIMEOUT": "5s",
}


@dataclass(frozen=True)
class Plan:
    """How many calls, of what path of the target, and the seconds each is meant to take."""

    calls: int = 100
    delay: float = 0.3
    path: str = ""

    @property
    def call(self) -> str:
        """The path that is called."""
        return self.path or f"/delay/{self.delay * 1000:g}"

    @property
    def sequential(self) -> float:
        """Seconds for all of them, one after another."""
        return self.calls * self.delay

    def ideal(self, concurrency: int) -> float:
        """Seconds for all of them, if nothing but the target took any time."""
        return math.ceil(self.calls / concurrency) * self.delay


@dataclass(frozen=True)
class Stage:
    """What all parts of the demo share."""

    screen: Screen
    plan: Plan
    folder: Path
    environment: dict[str, str]
    target: Target
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    """Makes job ids that nobody else has."""

    @property
    def log(self) -> Path:
        """What the workers say."""
        return self.folder / "worker.log"

    def command(self, *arguments: str) -> Command:
        return Command(self.environment, self.folder, "worker", *arguments)

    def publish(self, path: str, *options: str, **fields: object) -> Command:
        """`worker publish` of an http job that calls `path` of the target."""
        payload = json.dumps({"url": f"{self.target.url}{path}", **fields})
        return self.command("publish", "http", payload, *options)

    def seen(self, path: str) -> list[Exchange]:
        """The requests for `path`, query included, in the order in which they came."""
        return [exchange for exchange in self.target.ledger() if exchange.path == path]

    def measured_path(self, concurrency: int) -> str:
        """Each measurement's calls can be told apart at the target."""
        return f"{self.plan.call}{'&' if '?' in self.plan.call else '?'}at-once={concurrency}"

    @contextlib.contextmanager
    def worker(self, concurrency: int) -> Iterator[Service]:
        """A worker that is ready; afterwards it must have drained well."""
        admin = f"127.0.0.1:{free_ports(1)[0]}"
        environment = {**self.environment, "WORKER_ADMIN": admin, "WORKER_CONCURRENCY": str(concurrency)}
        self.screen.say(f"worker: starting, WORKER_CONCURRENCY={concurrency}")
        with Service(environment, admin=admin, folder=self.folder, log=self.log) as service:
            yield service
            code = service.stop()
        if code:
            raise Untrue("the worker drains and exits with 0", f"exit code {code}")


@contextlib.contextmanager
def a_broker(screen: Screen, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of workers that use the broker the caller named, else a private one."""
    given = clean_environment(keep="WORKER_AMQP_")
    queue = f"demo-{secrets.token_hex(4)}"
    if not given.get("WORKER_AMQP_URL"):
        screen.say("broker: starting a private RabbitMQ node")
        with Node(ensure_rabbitmq(screen.say)) as node:
            screen.say(f"broker: RabbitMQ {node.version} on 127.0.0.1:{node.port}")
            yield {**clean_environment(), **_SETTINGS, "WORKER_AMQP_URL": node.url, "WORKER_QUEUE": queue}
        return
    # The children run in a folder of their own.
    files = {
        name: str(Path(value).absolute())
        for name, value in given.items()
        if name.startswith("WORKER_AMQP_") and name != "WORKER_AMQP_URL"
    }
    environment = {**given, **files, **_SETTINGS, "WORKER_QUEUE": queue}
    screen.say(f"broker: the one WORKER_AMQP_URL names; queue {queue}, deleted afterwards")
    try:
        yield environment
    finally:
        _tidy(screen, environment, folder, queue)


def _tidy(screen: Screen, environment: dict[str, str], folder: Path, queue: str) -> None:
    try:
        with Command(environment, folder, "worker.dev.tidy") as tidying:
            tidying.finish()
    except Untrue as error:
        screen.say(f"queue {queue} and those around it, if they exist, could not be deleted: {error.last_line}")
