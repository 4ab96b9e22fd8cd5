"""B alone, at full load, is down for a while. How often is it asked in vain, and how long until all is done?"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.isolation.publisher import Stream
from tests.benchmarks.isolation.systems import System
from tests.benchmarks.isolation.trial import LEAD_SECONDS, WARM_SECONDS, Trial, sleep_until, timeline

PATIENCE: Final = 3.0
"""Given up when not all is done after so many times the outage."""

LOOK_EVERY: Final = 0.5
_CALLS: Final = "worker_http_requests_total"
_DONE: Final = "worker_jobs_total"


@dataclass(frozen=True)
class Outage:
    """`calls` by result, counted by the worker: a host that refuses sees nothing. `drained` None: not in time."""

    jobs: int
    done: int
    calls: Counter[str]
    attempts: Counter[str]
    parked: Counter[str]
    dead: int
    seconds: float
    drained: float | None
    events: list[str]

    @property
    def retries(self) -> float:
        """Calls beyond the first of each job, for each job: quick tries inside an attempt count."""
        return (self.calls.total() - self.jobs) / self.jobs

    @property
    def repeated_attempts(self) -> float:
        """Attempts beyond the first of each job, for each job. One that was snoozed before its call is none."""
        return (self.attempts["succeeded"] + self.attempts["failed"] - self.jobs) / self.jobs


def run(trial: Trial, system: System, mode: str, seconds: float) -> Outage:
    """One outage of so many seconds; publishing goes on until its end."""
    rate = trial.rate * trial.factor
    with trial.hosts(names=False) as hosts, trial.consuming(system) as running:
        start = time.time() + LEAD_SECONDS
        begin, back = start + WARM_SECONDS, start + WARM_SECONDS + seconds
        stream = Stream("b", hosts.url("b"), rate, 0.0)
        with trial.publishing(system, [stream], start, WARM_SECONDS + seconds) as publisher:
            sleep_until(begin)
            hosts.enter(mode)
            sleep_until(back)
            hosts.enter("ok")
            publisher.communicate(timeout=30)
        jobs, drained = stream.count(WARM_SECONDS + seconds), None
        while time.time() < back + PATIENCE * seconds:
            metrics = running.metrics()
            if labelled(metrics, _DONE).total() >= jobs:
                drained = time.time() - back
                break
            time.sleep(LOOK_EVERY)
        metrics, events = running.metrics(), timeline(running.events(), begin)
    return Outage(
        jobs,
        labelled(metrics, _DONE)["succeeded"],
        labelled(metrics, _CALLS),
        labelled(metrics, "worker_attempts_total"),
        labelled(metrics, "worker_parked_total"),
        labelled(metrics, "worker_dead_letters_total").total(),
        seconds,
        drained,
        events,
    )


def labelled(metrics: Counter[str], name: str) -> Counter[str]:
    """One counter of all, by how it ended or why."""
    return Counter({key.removeprefix(f"{name} "): n for key, n in metrics.items() if key.startswith(f"{name} ")})
