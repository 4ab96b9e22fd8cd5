"""Rows 1, 5, 6: a worker that dies, and one that stands still. What it ran is repeated, and nothing else."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.trial import Trial
from tests.process.kit import eventually

CONCURRENCY = 5
SECOND = {"concurrency": "5", "prefetch": "10"}


def test_row_1_a_killed_worker_repeats_at_most_what_it_ran(trial: Trial) -> None:
    trial.declare()
    first = trial.start(concurrency="5", prefetch="20")
    trial.start(**SECOND)
    with trial.publishing(trial.jobs(150, "/ok?ms=200&job={}"), rate=60) as publisher:
        trial.until_done(15)
        trial.kill(first, bound=CONCURRENCY * 2, recover=1)
        assert publisher.wait() == 0
        trial.judge()


@pytest.mark.faults
def test_row_1_a_killed_process_of_a_service_is_replaced(trial: Trial) -> None:
    trial.declare()
    worker = trial.start(concurrency="5", prefetch="10")
    trial.publish_all(trial.jobs(60, "/ok?ms=200&job={}"))
    trial.until_done(10)
    trial.kill_child(worker, bound=CONCURRENCY * 2, recover=5)
    trial.judge()


def test_row_5_a_short_freeze_repeats_nothing(trial: Trial) -> None:
    trial.declare()
    worker = trial.start(concurrency="5", prefetch="10")
    trial.publish_all(trial.jobs(40, "/ok?ms=300&job={}"))
    trial.until_done(5)
    with trial.fault("worker.freeze", recover=2):
        stopped = trial.freeze(worker)
        time.sleep(5)
        for process in stopped:
            process.resume()
    trial.judge()


@pytest.mark.faults
def test_row_6_a_freeze_beyond_the_heartbeats_repeats_at_most_what_it_ran(trial: Trial) -> None:
    """The broker gives its jobs to another; when it wakes its acknowledgements are void, and harm nobody."""
    trial.declare()
    frozen = trial.start(concurrency="5", prefetch="10")
    trial.publish_all(trial.jobs(40, "/ok?ms=500&job={}"))
    trial.until_done(5)
    trial.start(**SECOND)
    with trial.fault("worker.freeze", bound=CONCURRENCY * 2, each=2, ports=trial.ports(frozen), recover=5):
        stopped = trial.freeze(frozen)
        eventually(lambda: trial.done() >= 40 - CONCURRENCY, "the other one does the rest", 60)
        eventually(lambda: trial.node.ctl("list_connections", "pid").count("\n") <= 4, "the broker gave it up", 60)
        for process in stopped:
            process.resume()
    trial.publish_all(trial.jobs(20, "/ok?ms=100&job={}"))
    trial.judge()


def test_row_5_signals_are_for_own_processes(trial: Trial) -> None:
    worker = trial.start()
    assert {one.pid for one in trial.processes(worker)} >= {worker.pid, *worker.children()}
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
