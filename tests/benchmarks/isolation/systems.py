"""Who takes the jobs: our worker, FastStream, Celery. Each in processes of its own, with the same places.

System    how one is started; what is measured of all of them is what the operating system and the broker tell
Running   one under way
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pika
import psutil
from pika.exceptions import ChannelClosedByBroker
from prometheus_client.parser import text_string_to_metric_families

from worker.dev import owned
from worker.dev.ports import free_ports

CHECKOUT: Final = Path(__file__).parents[3]
PEERS: Final = CHECKOUT / ".tools" / "peers"
CONCURRENCY: Final = 100
START_SECONDS: Final = 60.0
_GRACE: Final = "2"
_SUMMED: Final = frozenset({"type", "host"})


@dataclass(frozen=True)
class System:
    """`form` is how its jobs look (see publisher.py), `command` what runs, `environment` what it is told besides."""

    name: str
    form: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, amqp_url: str, queue: str, folder: Path) -> Running:
        """Start it, and wait until it consumes. Raises RuntimeError with its last words."""
        port = free_ports(1)[0]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
        ours = {
            "WORKER_AMQP_URL": amqp_url,
            "WORKER_QUEUE": queue,
            "WORKER_ADMIN": f"127.0.0.1:{port}",
            "WORKER_HTTP_ALLOW": "127.0.0.0/8",
            "WORKER_CONCURRENCY": str(CONCURRENCY),
        }
        log = folder / f"{queue}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", owned.__file__, _GRACE, *self.command],
                cwd=folder,
                env={**inherited, **ours, **self.environment},
                stdin=subprocess.PIPE,  # it ends with this process, however that does
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(process, log, port, amqp_url, queue)
        try:
            running.wait_until_it_consumes()
        except BaseException:
            running.end()
            raise
        return running


def worker(tree: Path, *apps: str) -> System:
    """The worker of a checkout at `tree`, with its defaults."""
    command = [sys.executable, "-m", "worker", "run", *apps]
    paths = os.pathsep.join([str(tree), str(CHECKOUT)])
    return System("worker", "worker", command, {"PYTHONPATH": paths})


def faststream() -> System:
    """FastStream: RabbitBroker and httpx; a failed call is given back."""
    return System("FastStream", "plain", [_python("faststream"), _peer("faststream_app.py")])


def celery() -> System:
    """Celery: gevent and requests; a failed call is tried again with backoff."""
    arguments = ["-A", "celery_app", "worker", "-P", "gevent", "-c", str(CONCURRENCY), "--loglevel", "CRITICAL"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    path = {"PYTHONPATH": str(Path(_peer("celery_app.py")).parent)}
    return System("Celery", "celery", [_python("celery"), "-m", "celery", *arguments, *quiet], path)


def _python(peer: str) -> str:
    return str(PEERS / peer / "bin" / "python")


def _peer(name: str) -> str:
    return str(Path(__file__).parent / "peers" / name)


@dataclass(frozen=True)
class Used:
    """CPU seconds so far."""

    consumer: float
    broker: float

    def __sub__(self, other: Used) -> Used:
        return Used(self.consumer - other.consumer, self.broker - other.broker)


class Running:
    """A system under way. End it with `end()`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int, amqp_url: str, queue: str) -> None:
        self._process = process
        self._log = log
        self._port = port
        self._amqp_url = amqp_url
        self._queue = queue

    def wait_until_it_consumes(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not consumers(self._amqp_url, self._queue):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not consume; its last words:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def used(self, broker: int) -> Used:
        """CPU of all its processes, and of the broker whose process id is given."""
        return Used(_seconds(self._process.pid), _seconds(broker))

    def metrics(self) -> Counter[str]:
        """The worker's counters by name and by how it ended or why, over all types and hosts; empty for others."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(self._page("metrics")):
            for sample in family.samples if family.type == "counter" else ():
                told = [value for label, value in sample.labels.items() if label not in _SUMMED]
                found[" ".join([sample.name, *told])] += int(sample.value)
        return found

    def held(self) -> Counter[str]:
        """The deliveries the worker holds at this moment, by what they do; empty when it is no worker."""
        return Counter(row["state"] for row in json.loads(self._page("jobs") or "[]"))

    def _page(self, name: str) -> str:
        """A page of the admin listener; empty where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{name}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def events(self) -> list[dict[str, Any]]:
        """The worker's log, its jobs' ends left out."""
        lines = [json.loads(line) for line in self._log.read_text().split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if not str(line["event"]).startswith("job.")]

    def end(self) -> None:
        """At once: what it leaves is not wanted any more, and a drain would take its time."""
        for one in _children(self._process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.kill()
        self._process.communicate()


def consumers(amqp_url: str, queue: str) -> int:
    """How many consume from the queue; 0 when it is not there."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
        try:
            method = connection.channel().queue_declare(queue, passive=True).method
        except ChannelClosedByBroker:
            return 0
        return int(method.consumer_count)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _seconds(pid: int) -> float:
    total = 0.0
    for one in [psutil.Process(pid), *_children(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total
