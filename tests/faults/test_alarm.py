"""Rows 11, 18, 19: the broker takes no copies. The job is held, its effect is not repeated, and nothing spins."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.faults.publisher import Order
from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually
from worker.core.topology import Topology

LOW, HIGH = "1", "0.4"
FULL = json.dumps({"max-length": 0, "overflow": "reject-publish"})
"""A policy under which a queue takes nothing."""


def alarm(trial: Trial, on: bool) -> None:
    if on:
        trial.node.ctl("set_vm_memory_high_watermark", "absolute", LOW)
    else:
        trial.node.ctl("set_vm_memory_high_watermark", HIGH)


def readiness(worker: Worker) -> dict[str, object]:
    status, text = worker.ask("/ready")
    assert status in {200, 503}, text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def unacknowledged(trial: Trial) -> int:
    said = trial.node.ctl("list_queues", "name", "messages_unacknowledged")
    rows = [line.split("\t") for line in said.splitlines()]
    return sum(int(row[1]) for row in rows if row[0] == trial.queue)


def under_alarm(trial: Trial, seconds: float) -> None:
    """Jobs that end are acknowledged all the time; those that must wait are held, each with one effect."""
    trial.declare()
    fine = trial.jobs(60, "/ok?ms=300&job={}")
    # Long enough for the alarm to come first.
    failing = trial.jobs(10, "/flaky/1/503/{}?ms=4000", more={"retry": {"attempts": 1}})
    trial.publish_all([*failing, *fine])
    worker = trial.start(concurrency="20", prefetch="40", backoff="1s..1s")
    try:
        with trial.fault("memory.alarm", recover=5):
            alarm(trial, on=True)
            eventually(lambda: trial.done() >= 60, "the others are done")
            eventually(lambda: readiness(worker).get("publishing_blocked"), "readiness tells of the alarm", 15)
            eventually(lambda: unacknowledged(trial) <= 10, "acknowledgements flow", 20)
            begun = trial.effects.look().begun
            held = Counter(begun)
            time.sleep(seconds)  # nothing may happen meanwhile
            assert trial.effects.look().begun == held
            assert worker.ready()
            assert worker.lines("session.lost") == []
            alarm(trial, on=False)
    finally:
        alarm(trial, on=False)
    trial.publish_all(trial.jobs(20, "/ok?ms=100&job={}"))
    report = trial.judge()
    assert sum(report.duplicates.values()) == 0
    assert max(trial.effects.look().begun.values()) == 2


def test_row_11_a_memory_alarm(trial: Trial) -> None:
    under_alarm(trial, 2)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_row_11_a_memory_alarm_of_four_minutes(trial: Trial) -> None:
    under_alarm(trial, 240)


def tries(worker: Worker) -> int:
    return len(worker.lines("settle.publish_failed"))


def held_back(trial: Trial, worker: Worker, jobs: int, seconds: float) -> None:
    """While the copies are refused: held, told, each effect once, and no more than a try a second for each job."""
    eventually(lambda: readiness(worker).get("copies_held") == jobs, "readiness tells of each", 15)
    before, begun = tries(worker), trial.effects.look().begun.total()
    time.sleep(seconds)  # how often it tries is what is measured
    assert (tries(worker) - before) / seconds / jobs <= 1
    assert trial.effects.look().begun.total() == begun
    assert unacknowledged(trial) == jobs


def test_row_18_no_dead_queue(trial: Trial) -> None:
    trial.declare()
    worker = trial.start(concurrency="10", prefetch="20")
    with trial.fault("queue.missing", recover=10):
        trial.node.ctl("delete_queue", f"{trial.queue}.dead")
        trial.publish_all([trial.job("/status/404?{}", expect="http_status") for _ in range(5)])
        held_back(trial, worker, 5, 3)
        # The others go on beside them.
        trial.publish_all(trial.jobs(10, "/ok?ms=100&job={}"))
        trial.until_done(10)
        trial.declare()
    trial.publish_all(trial.jobs(5, "/ok?ms=100&job={}"))
    trial.judge()


@pytest.mark.faults
def test_row_18_no_right_to_write(trial: Trial) -> None:
    """A user who may not publish to the dead queue any more; it is allowed again later."""
    trial.declare()
    trial.node.ctl("add_user", "clerk", "secret")
    trial.node.ctl("set_permissions", "clerk", ".*", ".*", ".*")
    try:
        worker = trial.start(concurrency="10", amqp_url=trial.url.replace("guest:guest", "clerk:secret"))
        with trial.fault("right.revoked", recover=15, errors=0):
            trial.node.ctl("set_permissions", "clerk", ".*", "^$", ".*")
            time.sleep(1)  # channels remember rights for a while, new ones do not
            trial.publish_all([trial.job("/status/404?{}", expect="http_status") for _ in range(3)])
            eventually(lambda: len(trial.effects.look().begun) == 3, "the jobs have run")
            trial.node.ctl("set_permissions", "clerk", ".*", ".*", ".*")
        trial.publish_all(trial.jobs(5, "/ok?ms=100&job={}"))
        trial.judge()
        assert worker.lines("replica.died") == []
    finally:
        trial.node.ctl("delete_user", "clerk")


@pytest.mark.faults
@pytest.mark.parametrize("full", ["dead", "wait"])
def test_row_19_a_queue_that_refuses(trial: Trial, full: str) -> None:
    """Under an operator's policy a queue takes nothing more as long as something is in it."""
    topology = Topology(trial.queue)
    queue = topology.dead if full == "dead" else topology.wait(5)
    trial.declare()
    with trial.channel() as channel:
        channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    pattern = f"^{queue.name.replace('.', '[.]')}$"

    def failing(count: int) -> list[Order]:
        if full == "dead":
            return [trial.job("/status/404?{}", expect="http_status") for _ in range(count)]
        return trial.jobs(count, "/flaky/1/503/{}", more={"retry": {"attempts": 1}})

    worker = trial.start(concurrency="10", prefetch="20", backoff="5s..5s")
    with trial.fault("queue.full", recover=10):
        trial.node.ctl("set_policy", "--apply-to", "queues", "full", pattern, FULL)
        trial.publish_all(failing(1))
        eventually(lambda: trial.waiting(queue.name) == 1, "one is in it")
        trial.publish_all(failing(5))
        held_back(trial, worker, 5, 2)
        trial.node.ctl("clear_policy", "full")
    trial.publish_all(trial.jobs(5, "/ok?ms=100&job={}"))
    trial.judge()
