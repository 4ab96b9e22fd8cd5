"""One run: a system takes jobs for A, and for B if that is asked for; after a while B turns bad. What became of A?

Trial     the broker, the folder and the loads that all runs share
Outcome   what one run showed
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pika

from tests.benchmarks.isolation.publisher import Order, Stream
from tests.benchmarks.isolation.systems import CHECKOUT, Running, System, Used
from tests.benchmarks.isolation.target import ADDRESSES
from worker.core.topology import Topology
from worker.dev.node import Node

WARM_SECONDS: Final = 3.0
"""B is healthy so long; what is measured begins with its trouble, so that noticing it counts as well."""

TAIL_SECONDS: Final = 3.0
"""Jobs of A that have not ended so long after the last was published count as not ended."""

LEAD_SECONDS: Final = 0.7
LOOK_EVERY: Final = 0.5
_PARKED: Final = "worker_parked_total "
_DEAD: Final = "worker_dead_letters_total "


class Hosts:
    """The target's process. `seen` is what it saw: jobs and moments, of each host its `starts` and `ends`."""

    seen: dict[str, dict[str, list[tuple[str, float]]]]

    def __init__(self, folder: Path, *, names: bool) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.isolation.target", str(folder)]
        self._file = folder / "seen.json"
        self._names = names
        self._process = subprocess.Popen(
            [*command, "--names"] if names else command,
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._port = int(self._said())

    def url(self, host: str) -> str:
        return f"http://{f'{host}.test' if self._names else ADDRESSES[host]}:{self._port}"

    def enter(self, mode: str) -> None:
        """Let B be like that from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{mode}\n")
        self._process.stdin.flush()
        self._said()

    def close(self) -> None:
        """End it; from then on `seen` is there."""
        self._process.communicate(timeout=20)
        self.seen = json.loads(self._file.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _said(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the target ended; its reason is above")
        return line


@dataclass(frozen=True)
class Outcome:
    """Latencies of A in seconds, from the moment a job was due to its answer; infinite for one that has not ended."""

    offered: int
    done: int
    """Jobs of A that ended in the measured time, whenever they were published."""
    latencies: Sequence[float]
    seconds: float
    used: Used
    b_calls: int
    by_second: Sequence[float] = ()
    """The median latency of what was due in each second, in order."""
    parked: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    late: float = 0.0
    """How late the latest job was published, in seconds."""
    held: Mapping[str, float] = field(default_factory=dict)
    """How many deliveries the worker held on average, by what they did."""
    most_held: int = 0
    events: Sequence[str] = ()

    @property
    def rate(self) -> float:
        return self.done / self.offered

    def percentile(self, share: float) -> float:
        return self.latencies[min(len(self.latencies) - 1, math.ceil(share * len(self.latencies)) - 1)]

    @property
    def unended(self) -> int:
        return sum(math.isinf(one) for one in self.latencies)


@dataclass
class Trial:
    """A is asked `rate` times a second, B `factor` times as often."""

    node: Node
    folder: Path
    rate: float
    factor: float
    seconds: float
    runs: int = 0

    def run(self, system: System, mode: str | None, *, names: bool = False) -> Outcome:
        """One run with B turning to `mode`, or with A alone."""
        with self.hosts(names=names) as hosts, self.consuming(system) as running:
            streams = [Stream("a", hosts.url("a"), self.rate, 0.5)]
            if mode is not None:
                streams.append(Stream("b", hosts.url("b"), self.rate * self.factor, 0.0))
            start = time.time() + LEAD_SECONDS
            with self.publishing(system, streams, start, WARM_SECONDS + self.seconds) as publisher:
                begin = start + WARM_SECONDS
                sleep_until(begin)
                if mode is not None and mode != "ok":
                    hosts.enter(mode)
                used, counted = running.used(self.node.pid), running.metrics()
                looks = self._watch(running, begin + self.seconds)
                used, counted = running.used(self.node.pid) - used, running.metrics() - counted
                late = float(publisher.communicate(timeout=30)[0])
            sleep_until(begin + self.seconds + TAIL_SECONDS)
            events = timeline(running.events(), begin)
        seen = hosts.seen
        return Outcome(
            **self._of_a(seen["a"]["ends"], begin, start),
            seconds=self.seconds,
            used=used,
            b_calls=sum(begin <= at < begin + self.seconds for _, at in seen["b"]["starts"]),
            parked=Counter({name.removeprefix(_PARKED): n for name, n in counted.items() if name.startswith(_PARKED)}),
            dead=sum(n for name, n in counted.items() if name.startswith(_DEAD)),
            late=late,
            held={state: statistics.mean(look[state] for look in looks) for state in sorted(set().union(*looks))},
            most_held=max(look.total() for look in looks),
            events=events,
        )

    @staticmethod
    def _watch(running: Running, end: float) -> list[Counter[str]]:
        """What is held, looked at again and again until then."""
        looks = [running.held()]
        while time.time() < end:
            sleep_until(min(end, time.time() + LOOK_EVERY))
            looks.append(running.held())
        return looks

    def _of_a(self, ends: Sequence[tuple[str, float]], begin: float, start: float) -> dict[str, Any]:
        stream, end = Stream("a", "", self.rate, 0.5), begin + self.seconds
        first: dict[str, float] = {}
        for job, at in ends:
            first.setdefault(job, at)
        numbers = range(stream.count(begin - start), stream.count(end - start))
        latencies = [first.get(f"a-{number}", math.inf) - start - stream.due(number) for number in numbers]
        of_second = [stream.count(begin - start + second) - numbers[0] for second in range(int(self.seconds) + 1)]
        return {
            "offered": len(numbers),
            "done": sum(begin <= at < end for at in first.values()),
            "latencies": sorted(latencies),
            "by_second": [statistics.median_high(latencies[a:b]) for a, b in pairwise(of_second) if b > a],
        }

    @contextmanager
    def hosts(self, *, names: bool) -> Iterator[Hosts]:
        hosts = Hosts(self.folder, names=names)
        try:
            yield hosts
            hosts.close()
        finally:
            hosts.kill()

    @contextmanager
    def consuming(self, system: System, *, before: Callable[[str], None] = lambda _: None) -> Iterator[Running]:
        """The system on a queue of its own, which is gone afterwards; `before` is called with its name."""
        self.runs += 1
        queue = f"run-{self.runs}"
        try:
            before(queue)
            running = system.start(self.node.url, queue, self.folder)
            try:
                yield running
            finally:
                running.end()
        finally:
            self._delete(queue)

    @contextmanager
    def publishing(
        self, system: System, streams: list[Stream], start: float, seconds: float
    ) -> Iterator[subprocess.Popen[str]]:
        """The publisher under way, to be asked for its lateness."""
        command = [sys.executable, "-m", "tests.benchmarks.isolation.publisher"]
        order = Order(self.node.url, f"run-{self.runs}", system.form, start, seconds, streams)
        publisher = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert publisher.stdin is not None
            publisher.stdin.write(order.text())
            publisher.stdin.close()
            publisher.stdin = None
            yield publisher
        finally:
            publisher.kill()
            publisher.communicate()

    def _delete(self, queue: str) -> None:
        topology = Topology(queue)
        parameters = pika.URLParameters(self.node.url)
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        for one in (topology.work, topology.suspect, topology.dead, *topology.waits):
            channel.queue_delete(one.name)
        connection.close()


def timeline(events: Sequence[dict[str, Any]], begin: float) -> list[str]:
    """Each kind of event with the second after the trouble's begin in which it first came, and how often it came."""
    found: dict[str, list[float]] = {}
    for line in events:
        at = _epoch(line)
        if at >= begin:
            found.setdefault(str(line["event"]), []).append(at - begin)
    return [
        f"{name} +{times[0]:.1f} s" + (f" x{len(times)}" if len(times) > 1 else "") for name, times in found.items()
    ]


def _epoch(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
