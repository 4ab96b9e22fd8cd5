"""Rows 2, 3, 4 and 33: SIGTERM at any moment. Nothing is lost, repeated or dead-lettered, and it ends in time."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.proxy import Proxy
from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually
from worker.dev.ports import free_ports

APP = "tests.faults.handlers:registry"


def test_row_2_a_drain_under_load_repeats_nothing_and_counts_nothing(trial: Trial) -> None:
    trial.declare()
    worker = trial.start(concurrency="10", prefetch="30", drain_timeout="10s")
    with trial.publishing(trial.jobs(120, "/ok?ms=300&job={}"), rate=100) as publisher:
        trial.until_done(20)
        with trial.fault("worker.drain"):
            asked = time.time()
            assert worker.drain() == 0
        assert time.time() - asked < 10
        late = [one.started - asked for one in trial.target.ledger() if one.started > asked]
        assert max(late, default=0.0) < 0.2, f"something began {max(late):.2f} s after SIGTERM"
        assert publisher.wait() == 0
    given_back = trial.take(trial.queue)
    assert max(int(letter.headers.get("x-delivery-count", 0)) for letter in given_back) <= 1
    for letter in given_back:
        trial.publish_raw(letter.properties, letter.body)
    trial.start(concurrency="30")
    trial.judge()


@pytest.mark.faults
def test_row_2_jobs_longer_than_the_grace_come_back_with_their_finished_steps(trial: Trial) -> None:
    """What ran at the end of the grace is repeated; the steps that were finished before are not."""
    trial.declare()
    url = f"{trial.target.url}/ok?steps"
    trial.publish_all([trial.handled("steps", {"url": url, "ms": 4000}, effects=3) for _ in range(5)])
    first = trial.start(APP, concurrency="5", drain_timeout="4s")
    trial.until_done(5)
    trial.until_running(5)
    with trial.fault("worker.drain", bound=5):
        assert first.drain() == 0
    trial.start(APP, concurrency="5")
    report = trial.judge()
    assert report.duplicates["worker.drain"] == 5


@pytest.mark.faults
def test_row_3_a_handler_that_ignores_its_end_does_not_hold_it_up(trial: Trial) -> None:
    trial.declare()
    trial.publish_all([trial.handled("stubborn", {"url": f"{trial.target.url}/ok?stubborn", "seconds": 8})])
    first = trial.start(APP, drain_timeout="3s")
    trial.until_done(1)
    with trial.fault("worker.drain", bound=1):
        since = time.monotonic()
        assert first.drain() == 0
        assert time.monotonic() - since < 3 + 1
    assert trial.waiting() == 1
    trial.start(APP)
    trial.judge()


@pytest.mark.faults
def test_row_4_a_second_signal_ends_it_at_once(trial: Trial) -> None:
    trial.declare()
    trial.publish_all(trial.jobs(5, "/delay/3000?{}"))
    worker = trial.start()
    trial.until_running(5)
    with trial.fault("worker.kill", bound=5, ports=trial.ports(worker)):
        worker.signal(signal.SIGTERM)
        eventually(lambda: worker.lines("worker.stopping"), "it stops")
        since = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 1
        assert time.monotonic() - since < 1
    trial.start()
    trial.judge()


@pytest.mark.faults
def test_row_4_a_signal_while_it_connects(trial: Trial) -> None:
    (port,) = free_ports(1)
    worker = trial.launch(amqp_url=f"amqp://127.0.0.1:{port}/", connect_timeout="60s", drain_timeout="20s")
    eventually(lambda: worker.lines("broker.unreachable"), "it tries")
    since = time.monotonic()
    assert worker.drain(5) == 0
    assert time.monotonic() - since < 1


@pytest.mark.faults
def test_row_4_a_signal_while_the_dead_letter_is_refused(trial: Trial) -> None:
    """The copy is not taken: the drain gives the job back, and it is dead-lettered later."""
    trial.declare()
    worker = trial.start(drain_timeout="5s")
    with trial.fault("queue.missing", bound=1):
        trial.node.ctl("delete_queue", f"{trial.queue}.dead")
        trial.publish_all([trial.job("/status/404?{}", expect="http_status")])
        eventually(lambda: worker.lines("settle.publish_failed"), "the copy is refused")
        since = time.monotonic()
        assert worker.drain() == 0
        assert time.monotonic() - since < 5
        trial.declare()
    trial.start()
    # The step ran once more: it had failed, and a failed step is not remembered.
    trial.judge()


def test_row_4_a_signal_while_consuming_begins(trial: Trial) -> None:
    """On a slow link jobs run before the start is over: they are drained like any others."""
    trial.declare()
    trial.publish_all(trial.jobs(20, "/ok?ms=200&{}"))
    with Proxy(trial.node.port) as proxy:
        proxy.set(delay=0.1)
        worker = trial.launch(concurrency="5", drain_timeout="12s", amqp_url=proxy.url(trial.url))
        trial.until_running(5)
        with trial.fault("worker.drain"):
            assert worker.drain() == 0
        assert worker.lines("worker.started") == []
    trial.start()
    trial.judge()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_row_4_a_signal_at_any_moment_of_its_start(trial: Trial) -> None:
    """At 100 random moments, from before its first line of code to its first jobs."""
    trial.declare()
    chance, times = random.Random(4), list[float]()
    trial.publish_all(trial.jobs(400, "/ok?ms=50&{}"))
    for _ in range(100):
        worker = trial.launch(concurrency="2", prefetch="4", drain_timeout="5s")
        eventually(worker.children, "the parent has installed its signals and started a child")
        time.sleep(chance.uniform(0, 2.0))  # the moment is what is tried here
        with trial.fault("worker.drain"):
            since = time.monotonic()
            assert worker.drain(10) == 0
            times.append(time.monotonic() - since)
    trial.start()
    report = trial.judge()
    trial.note(f"{len(times)} drains, the longest took {max(times):.1f} s; {report.verdicts['succeeded']} jobs")
    assert max(times) < 5


def _roll(trial: Trial, old: Worker) -> Worker:
    new = trial.start(concurrency="10", drain_timeout="8s")
    with trial.fault("worker.drain"):
        assert old.drain() == 0
    return new


def _rolling(trial: Trial, times: int, jobs: int, rate: float) -> None:
    trial.declare()
    worker = trial.start(concurrency="10", drain_timeout="8s")
    with trial.publishing(trial.jobs(jobs, "/ok?ms=100&job={}"), rate=rate) as publisher:
        for _ in range(times):
            worker = _roll(trial, worker)
        assert publisher.wait(300) == 0
        report = trial.judge(seconds=120)
    assert sum(report.duplicates.values()) == 0
    assert report.verdicts["dead"] == 0


def test_row_33_rolling_restarts_under_load(trial: Trial) -> None:
    _rolling(trial, times=4, jobs=400, rate=60)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_row_33_a_hundred_rolling_restarts_under_load(trial: Trial) -> None:
    _rolling(trial, times=100, jobs=10_000, rate=50)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_row_33_up_to_ten_and_down_again(trial: Trial) -> None:
    trial.declare()
    workers = [trial.start(concurrency="5", prefetch="10")]
    with trial.publishing(trial.jobs(2000, "/ok?ms=200&job={}"), rate=100) as publisher:
        workers += [trial.launch(concurrency="5", prefetch="10") for _ in range(9)]
        for worker in workers:
            worker.until_ready()
        for worker in workers[1:]:
            with trial.fault("worker.drain"):
                assert worker.drain() == 0
        assert publisher.wait(120) == 0
        report = trial.judge(seconds=120)
    assert sum(report.duplicates.values()) == 0
