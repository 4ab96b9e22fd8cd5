"""Rows 28, 29, 30, 35: too few descriptors, nowhere to write, little memory, a target that is down."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually

JOBS = 300
HELD_MIB = 24
"""Of memory that a job of 1 MiB may take: its frames, body, text, JSON and request. Measured are about 14."""


def rate(trial: Trial, worker: Worker) -> float:
    """Jobs a second that it does; what bounds it is the target's 0.2 s."""
    worker.until_ready()
    before = trial.done()
    trial.publish_all(trial.jobs(JOBS, "/ok?ms=200&job={}"))
    since = time.monotonic()
    trial.until_done(before + JOBS)
    return JOBS / (time.monotonic() - since)


@contextmanager
def nowhere(how: str) -> Iterator[int]:
    """A descriptor that takes no log."""
    if how == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
        yield descriptor
        os.close(descriptor)
        return
    reading, writing = os.pipe()
    if how == "closed":
        os.close(reading)
    yield writing
    os.close(writing)
    if how == "full pipe":  # read by nobody, and held open
        os.close(reading)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["full disk", "closed", "full pipe"])
def test_row_29_a_log_that_nobody_takes(trial: Trial, how: str) -> None:
    trial.declare()
    settings = {"concurrency": "30", "prefetch": "60", "log": "debug"}
    with nowhere(how) as output:
        worker = trial.launch_into(output, **settings)
        with trial.fault("log.lost"):
            figure = rate(trial, worker)
        assert worker.drain() == 0
    usual = rate(trial, trial.start(**settings))
    trial.note(f"{how}: {figure:.0f} jobs/s, with a log {usual:.0f}")
    trial.judge()
    assert figure >= 0.9 * usual


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_row_28_too_few_descriptors(trial: Trial) -> None:
    """Some jobs cannot connect, and are tried again; the broker's connection lives, and nothing is lost."""
    trial.declare()
    before = ["prlimit", "--nofile=64:64"]
    worker = trial.launch_limited(before, concurrency="100", prefetch="125", backoff="1s..2s").until_ready()
    with trial.fault("no.descriptors"):
        trial.publish_all(trial.jobs(200, "/ok?ms=1000&job={}"))
        trial.until_done(200, 120)
    assert worker.lines("session.lost") == []
    assert worker.lines("replica.died") == []
    trial.judge()


def memory(worker: Worker) -> int:
    """Bytes that the service holds."""
    processes = [psutil.Process(pid) for pid in [worker.pid, *worker.children()]]
    return sum(int(one.memory_info().rss) for one in processes)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_row_30_large_jobs_stay_within_their_bound(trial: Trial) -> None:
    """Twenty times prefetch of jobs of 1 MiB: the service never holds more of them than prefetch."""
    trial.declare()
    prefetch = 25
    orders = trial.jobs(20 * prefetch, "/ok?ms=50&job={}", more={"text": "x" * 1_000_000, "method": "POST"})
    worker = trial.start(concurrency="20", prefetch=str(prefetch))
    before, most = memory(worker), 0
    with trial.publishing(orders, rate=60) as publisher:

        def look() -> bool:
            nonlocal most
            most = max(most, memory(worker) - before)
            return trial.done() >= len(orders)

        eventually(look, "all are done", 120)
        assert publisher.wait() == 0
    each = most / 2**20 / prefetch
    trial.note(f"{most / 2**20:.0f} MiB more for {prefetch} jobs of 1 MiB held at once: {each:.0f} MiB each")
    trial.judge()
    assert each < HELD_MIB  # were the bodies kept of what is done, it would be more


def down(trial: Trial, seconds: float) -> None:
    """20 slots, no limits configured: no slot is lost, hardly anybody tries again, nothing is dead, all is done."""
    trial.declare()
    worker = trial.start(concurrency="20", prefetch="25")
    count = int(seconds * 20)
    with trial.publishing(trial.jobs(count, "/ok?ms=50&job={}"), rate=20) as publisher:
        trial.until_done(20)
        with trial.fault("target.down", bound=20, recover=15 + min(seconds / 2, 66)):  # open for a minute at most
            trial.target.kill()
            time.sleep(seconds / 2)  # the outage
            trial.target.start()
        since = time.monotonic()
        assert publisher.wait(seconds * 2) == 0
        trial.until_done(count, seconds * 2 + 30)
    took = time.monotonic() - since
    ends = Counter(line["outcome"] for line in worker.lines("job.finished"))
    parks = worker.metrics().get("worker_parked_total reason=breaker", 0)
    trial.note(
        f"down {seconds / 2:.0f} s: {ends['failed']} attempts of {count} jobs failed, {parks:.0f} parks by the breaker,"
        f" drained {took:.0f} s after"
    )
    assert ends["failed"] <= 0.2 * count + 40  # what opened the breaker, what was under way, and a probe now and then
    assert ends["rejected"] == 0
    assert took <= seconds + 15  # twice the outage, and the longest wait for the next probe
    assert worker.ask("/jobs")[1].strip() == "[]"
    trial.judge(seconds=90)


@pytest.mark.faults
def test_row_35_a_target_that_is_down(trial: Trial) -> None:
    down(trial, 12)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_row_35_a_target_that_is_down_for_two_minutes(trial: Trial) -> None:
    down(trial, 240)
