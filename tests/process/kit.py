"""The worker as its operator and its publishers see it: a command, a queue, and a program in another language.

Yard     one work queue on a real broker, a folder, and the services that were started there; ends them all
Worker   one `worker run`, with its log and its admin listener
Letter   a message taken out of a queue
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pika
import psutil
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from prometheus_client.parser import text_string_to_metric_families

from worker.core.topology import Topology
from worker.dev.ports import free_ports
from worker.dev.target import Exchange

T = TypeVar("T")

SECONDS: Final = 30.0
"""Longest wait for anything that should come soon."""

LOOK_EVERY: Final = 0.02
CHECKOUT: Final = Path(__file__).parents[2]
TAIL: Final = 60


def eventually(look: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """What `look` returns once that is true; an AssertionError saying `what` when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(LOOK_EVERY)
    return found


def at_once(exchanges: Iterable[Exchange]) -> int:
    """How many of them were under way at the same time, at most."""
    moments: list[tuple[float, int]] = []
    for one in exchanges:
        moments += [(one.started, 1)] if one.ended is None else [(one.started, 1), (one.ended, -1)]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet collected does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Letter:
    """A message as an outsider's client reads it."""

    properties: pika.BasicProperties
    body: bytes

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}

    @property
    def id(self) -> str:
        return str(self.headers.get("x-worker-id", self.properties.message_id))

    @property
    def reason(self) -> str:
        return str(self.headers.get("x-worker-reason", ""))

    @property
    def detail(self) -> str:
        return str(self.headers.get("x-worker-detail", ""))


class RawProperties(pika.BasicProperties):
    """Properties that go out as these bytes, whatever they say."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def encode(self) -> list[bytes]:
        return [self._raw]


class Worker:
    """One `worker run` under way; made by `Yard.start`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, admin: int) -> None:
        self._process = process
        self._admin = admin
        self._seen: set[int] = set()
        self.log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def admin(self) -> str:
        return f"127.0.0.1:{self._admin}"

    def children(self) -> list[int]:
        """The processes that do the work, those under suspicion included."""
        found = [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        self._seen.update(found)
        return found

    def signal(self, number: signal.Signals) -> None:
        """To this process alone, as an operator would send it."""
        self._process.send_signal(number)

    def wait(self, seconds: float = SECONDS) -> int:
        """Its exit code, once it has ended."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {seconds:g} s") from None

    def drain(self, seconds: float = SECONDS) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def end(self) -> None:
        """Whatever it does: it is over now. Its children go with it, or are ended here."""
        if self.running:
            self.children()
        self._process.kill()
        self._process.wait()
        for pid in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                child = psutil.Process(pid)
                if "worker.cli.child" in child.cmdline():  # its own, and not a stranger that got the number later
                    child.kill()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log so far, or the lines of one event."""
        lines = [json.loads(line) for line in self.said().split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if event is None or line["event"] == event]

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the admin listener; a status of 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._admin, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def ready(self) -> bool:
        return self.ask("/ready")[0] == 200

    def until_ready(self) -> Self:
        def look() -> bool:
            assert self.running, f"the worker ended with {self._process.returncode}:\n{self.said()}"
            return self.ready()

        eventually(look, f"/ready is 200, it is {self.ask('/ready')}")
        return self

    def metrics(self) -> dict[str, float]:
        """Every counter, by its name and labels."""
        status, text = self.ask("/metrics")
        assert status == 200, text
        return {
            sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            if family.type == "counter"
            for sample in family.samples
        }


class Yard:
    """One work queue on the broker at `url`, and everything around it. To be closed."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.queue = f"process-{uuid.uuid4().hex[:12]}"
        self.workers: list[Worker] = []
        self._connection: pika.BlockingConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.end()
        topology = Topology(self.queue)
        with self.channel() as channel:
            for queue in (topology.work, topology.suspect, topology.dead, *topology.waits):
                channel.queue_delete(queue.name)
        self._hang_up()

    # Services.

    def write(self, name: str, text: str) -> Path:
        """A file in the folder the services run in."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def environment(self, **settings: str) -> dict[str, str]:
        """Settings by their name in lower case, and of this process's variables none that are for a worker."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
        inherited["PYTHONPATH"] = str(CHECKOUT)  # this package, whatever is installed
        ours = {"amqp_url": self.url, "queue": self.queue, "http_allow": "127.0.0.0/8"} | settings
        return inherited | {f"WORKER_{name.upper()}": value for name, value in ours.items()}

    def start(self, *apps: str, **settings: str) -> Worker:
        """`worker run` with these settings, consuming."""
        return self.launch(*apps, **settings).until_ready()

    def launch(self, *apps: str, **settings: str) -> Worker:
        """The same, without waiting for it."""
        (port,) = free_ports(1)
        log = self.directory / f"worker-{len(self.workers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run", *apps],
                cwd=self.directory,
                env=self.environment(**({"admin": f"127.0.0.1:{port}"} | settings)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(process, log, port)
        self.workers.append(worker)
        return worker

    def command(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A `worker` command that ends by itself."""
        settings = {"admin": "127.0.0.1:0"} | settings
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            cwd=self.directory,
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def logs(self) -> Iterator[tuple[str, str]]:
        """What each service said last."""
        for worker in self.workers:
            yield f"{worker.log.name} (pid {worker.pid})", "\n".join(worker.said().splitlines()[-TAIL:])

    # The outsider's client.

    def publish(self, type: str | None, body: Any, id: str | None = None, **properties: Any) -> None:
        """One job, persistent, confirmed, mandatory. `body` goes as it is when it is bytes, else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        properties = {"content_type": "application/json", "delivery_mode": 2, **properties}
        self.publish_raw(pika.BasicProperties(type=type, message_id=id, **properties), content)

    def publish_raw(self, properties: pika.BasicProperties, body: bytes) -> None:
        with self.channel() as channel:
            channel.basic_publish("", self.queue, body, properties, mandatory=True)

    def http_jobs(self, url: str, count: int) -> list[str]:
        """So many jobs of the built-in type. Their ids."""
        ids = [f"job-{number}" for number in range(count)]
        for job in ids:
            self.publish("http", {"url": url}, job)
        return ids

    def declare(self) -> None:
        """The work queue and the dead queue, as a worker would: for jobs that are there before it."""
        topology = Topology(self.queue)
        with self.channel() as channel:
            for queue in (topology.dead, topology.work):
                channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))

    def waiting(self, queue: str = "") -> int:
        """Messages that are ready in the work queue, or in another; 0 in one that was never declared."""
        try:
            with self.channel() as channel:
                return int(channel.queue_declare(queue or self.queue, passive=True).method.message_count)
        except ChannelClosedByBroker:
            return 0

    def left(self) -> dict[str, int]:
        """The queues that are not empty, dead letters aside. After the last worker's end nothing is unacknowledged."""
        topology = Topology(self.queue)
        queues = (topology.work, topology.suspect, *topology.waits)
        return {queue.name: count for queue in queues if (count := self.waiting(queue.name))}

    def dead(self) -> int:
        return self.waiting(f"{self.queue}.dead")

    def letters(self, count: int) -> dict[str, Letter]:
        """So many dead letters, once they are there, by job id; they are taken out."""
        eventually(lambda: self.dead() >= count, f"{count} dead letters")
        return {letter.id: letter for letter in self.take(f"{self.queue}.dead")}

    def take(self, queue: str) -> list[Letter]:
        """Everything that is ready in a queue, taken out."""
        found: list[Letter] = []
        with self.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                if method is None or properties is None or body is None:
                    return found
                found.append(Letter(properties, body))

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel with confirms. The connection is made anew when the broker was away."""
        try:
            channel = self._opened().channel()
        except AMQPError:
            self._hang_up()
            channel = self._opened().channel()
        channel.confirm_delivery()
        yield channel
        channel.close()

    def _opened(self) -> pika.BlockingConnection:
        if self._connection is None:
            parameters = pika.URLParameters(self.url)
            parameters.heartbeat = 0  # nobody would answer one between two calls
            self._connection = pika.BlockingConnection(parameters)
        return self._connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(AMQPError):
                connection.close()


def counted(exchanges: Sequence[Exchange]) -> dict[str, int]:
    """How many requests each job made."""
    return {job: len(found) for job, found in by_job(exchanges).items()}


def by_job(exchanges: Sequence[Exchange]) -> dict[str, list[Exchange]]:
    """Requests by the job that made them, as their Idempotency-Key says."""
    found: dict[str, list[Exchange]] = {}
    for one in exchanges:
        assert one.key is not None, one
        found.setdefault(one.key.partition("/")[0], []).append(one)
    return found
