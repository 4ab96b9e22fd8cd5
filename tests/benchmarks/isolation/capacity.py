"""How many jobs a second can be parked, beside how many can be acknowledged: nothing else is done with them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pika

from tests.benchmarks.isolation.parking_app import PARK_SECONDS
from tests.benchmarks.isolation.systems import worker
from tests.benchmarks.isolation.trial import Trial
from worker.core.topology import Topology

APP: Final = "tests.benchmarks.isolation.parking_app:registry"
WARM_SECONDS: Final = 2.0
MEASURED_SECONDS: Final = 8.0
MOST: Final = 4000
"""Jobs a second that nothing here reaches: so many are there that the worker never runs out of them."""

COUNTED: Final = {"park": "worker_parked_total", "end": "worker_jobs_total"}
"""What is counted of each kind of job; parking_app.py says what they do."""


@dataclass(frozen=True)
class Capacity:
    """Jobs a second, and CPU seconds a second of the worker and the broker."""

    rate: float
    worker: float
    broker: float

    @property
    def per_core(self) -> float:
        """Jobs for each second of the worker's CPU."""
        return self.rate / self.worker


def measure(trial: Trial, tree: Path, rounds: int) -> dict[str, Capacity]:
    """Medians of alternating rounds."""
    runs = {kind: list[Capacity]() for kind in COUNTED}
    for _ in range(rounds):
        for kind, found in runs.items():
            found.append(_one(trial, tree, kind))
    return {kind: _median(found) for kind, found in runs.items()}


def _one(trial: Trial, tree: Path, kind: str) -> Capacity:
    jobs = int(MOST * (WARM_SECONDS + MEASURED_SECONDS if kind == "end" else PARK_SECONDS))
    prepared = worker(tree, APP)
    with trial.consuming(prepared, before=lambda queue: _fill(trial, queue, kind, jobs)) as running:
        time.sleep(WARM_SECONDS)
        used, counted, since = running.used(trial.node.pid), running.metrics(), time.monotonic()
        time.sleep(MEASURED_SECONDS)
        used, counted = running.used(trial.node.pid) - used, running.metrics() - counted
        seconds = time.monotonic() - since
    done = sum(number for name, number in counted.items() if name.startswith(COUNTED[kind]))
    return Capacity(done / seconds, used.consumer / seconds, used.broker / seconds)


def _fill(trial: Trial, queue: str, kind: str, jobs: int) -> None:
    """So many jobs in the work queue, all of them there before the worker is."""
    topology = Topology(queue)
    connection = pika.BlockingConnection(pika.URLParameters(trial.node.url))
    channel = connection.channel()
    for one in (topology.dead, topology.work):
        channel.queue_declare(one.name, durable=True, arguments=dict(one.arguments))
    for number in range(jobs):
        properties = pika.BasicProperties(
            type=kind, message_id=f"{kind}-{number}", content_type="application/json", delivery_mode=2
        )
        channel.basic_publish("", queue, b"{}", properties)
    while channel.queue_declare(queue, passive=True).method.message_count < jobs:
        connection.sleep(0.1)
    connection.close()


def _median(found: list[Capacity]) -> Capacity:
    def of(read: Callable[[Capacity], float]) -> float:
        return statistics.median(map(read, found))

    return Capacity(of(lambda one: one.rate), of(lambda one: one.worker), of(lambda one: one.broker))
