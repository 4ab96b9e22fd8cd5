"""`worker pause` and `worker resume` on a real service, as an operator gives them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import installation
from tests.process.kit import Worker, Yard, eventually
from worker.dev.node import Node
from worker.dev.target import Target

MOMENT = 1.0
"""Seconds in which a job that must not start would have started."""


def order(yard: Yard, worker: Worker, *words: str) -> Any:
    done = yard.command(*words, "--json", admin=worker.admin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def readiness(worker: Worker) -> tuple[int, dict[str, Any]]:
    status, text = worker.ask("/ready")
    return status, json.loads(text)


def done(target: Target) -> int:
    return sum(one.ended is not None for one in target.ledger())


@pytest.fixture
def own(node: Node) -> Iterator[Node]:
    """A node for one test, skipped where the shared one is."""
    with Node(installation()) as found:
        yield found


@pytest.fixture
def private(own: Node, tmp_path: Path) -> Iterator[Yard]:
    with Yard(own.url, tmp_path) as found:
        yield found


def test_nothing_starts_while_paused_on_any_process_and_all_is_done_afterwards(yard: Yard, target: Target) -> None:
    worker = yard.start(replicas="2")
    first = order(yard, worker, "pause")
    assert first == {"changed": True, "paused": True, "paused_keys": [], "replicas": 2, "done": 2}
    assert order(yard, worker, "pause") == first | {"changed": False}
    ids = yard.http_jobs(f"{target.url}/ok", 30)
    time.sleep(MOMENT)
    assert target.ledger() == []
    assert yard.waiting() == 30
    status, told = readiness(worker)
    assert (status, told["paused"], told["consuming"]) == (200, "by hand", 2)
    assert yard.command("health", admin=worker.admin).returncode == 0

    assert order(yard, worker, "resume")["changed"] is True
    eventually(lambda: done(target) == len(ids), "all are done")
    assert "paused" not in readiness(worker)[1]
    assert worker.drain() == 0
    assert yard.left() == {}
    paused, resumed = worker.lines("consuming.paused"), worker.lines("consuming.resumed")
    assert [line["why"] for line in paused + resumed] == ["by hand"] * 4
    assert (len(worker.lines("worker.paused")), len(worker.lines("worker.resumed"))) == (1, 1)


def test_running_jobs_finish_and_a_child_that_is_started_later_is_paused_too(yard: Yard, target: Target) -> None:
    worker = yard.start()
    yard.publish("http", {"url": f"{target.url}/ok?ms=1000"}, "running")
    eventually(target.ledger, "it runs")
    order(yard, worker, "pause")
    yard.publish("http", {"url": f"{target.url}/ok"}, "later")
    eventually(lambda: worker.lines("job.finished"), "the running one ends")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "it is acknowledged")

    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    eventually(lambda: worker.lines("replica.died"), "the parent knows")
    eventually(lambda: worker.ready() and worker.children() not in ([], [child]), "another one is up")
    time.sleep(MOMENT)
    assert len(target.ledger()) == 1
    assert readiness(worker)[1]["paused"] == "by hand"
    assert worker.lines("consuming.paused")[-1]["why"] == "by hand"

    order(yard, worker, "resume")
    eventually(lambda: done(target) == 2, "the other one is done")
    assert worker.drain() == 0


def test_a_paused_key_is_held_back_and_the_others_are_not(yard: Yard, target: Target) -> None:
    worker = yard.start()
    order(yard, worker, "pause", "tenant/7")
    answer = order(yard, worker, "pause", "tenant/7")
    assert (answer["changed"], answer["paused"], answer["paused_keys"]) == (False, False, ["tenant/7"])
    for number in range(10):
        yard.publish("http", {"url": f"{target.url}/ok?paused", "limit_key": "tenant/7"}, f"paused-{number}")
        yard.publish("http", {"url": f"{target.url}/ok?other"}, f"other-{number}")
    eventually(lambda: done(target) >= 10, "the others are done")
    eventually(lambda: worker.metrics().get("worker_parked_total reason=paused", 0) >= 10, "the rest is parked")
    assert readiness(worker)[1]["paused_keys"] == ["tenant/7"]
    assert {one.path for one in target.ledger()} == {"/ok?other"}

    order(yard, worker, "resume", "tenant/7")
    eventually(lambda: done(target) == 20, "they come back by themselves")
    assert worker.drain() == 0
    assert {line["attempt"] for line in worker.lines("job.finished")} == {1}
    assert (yard.left(), yard.dead()) == ({}, 0)


def test_a_drain_while_paused_ends_at_once(yard: Yard, target: Target) -> None:
    worker = yard.start()
    order(yard, worker, "pause")
    yard.http_jobs(f"{target.url}/ok", 5)
    since = time.monotonic()
    assert worker.drain() == 0
    assert time.monotonic() - since < 5
    assert (target.ledger(), yard.waiting()) == ([], 5)


def test_it_stays_paused_when_the_broker_comes_back(private: Yard, own: Node, target: Target) -> None:
    worker = private.start()
    # RabbitMQ 3.10 may not find a quorum queue again that it has made less than half a second before its own death.
    private.publish("http", {"url": f"{target.url}/ok?ms=1000"}, "first")
    eventually(lambda: worker.lines("job.finished"), "the queues are old enough")
    private.publish("http", {"url": f"{target.url}/ok?ms=3000"}, "running")
    eventually(lambda: len(target.ledger()) == 2, "it runs")
    order(private, worker, "pause")
    private.http_jobs(f"{target.url}/ok", 5)
    own.kill()
    eventually(lambda: not worker.ready(), "/ready says that there is no broker", 45)
    own.start()
    worker.until_ready()
    assert readiness(worker)[1]["paused"] == "by hand"
    eventually(lambda: done(target) == 2, "the running one ends")
    time.sleep(MOMENT)
    assert len(target.ledger()) == 2

    order(private, worker, "resume")
    eventually(lambda: done(target) == 7, "all are done")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight", 45)
    assert worker.drain() == 0
    assert len(target.ledger()) == 7  # the running one was joined by its redelivery, though that came late
    assert private.left() == {}


def test_orders_that_cannot_be_given_say_why(yard: Yard) -> None:
    token = "correct-horse-battery"
    worker = yard.start(admin_token=token)
    refused = yard.command("pause", admin=worker.admin)
    assert (refused.returncode, "Bearer" in refused.stderr) == (78, True)
    assert "paused" not in readiness(worker)[1]
    taken = yard.command("pause", admin=worker.admin, admin_token=token)
    assert (taken.returncode, taken.stdout.startswith("paused: ")) == (0, True)
    again = yard.command("pause", admin=worker.admin, admin_token=token)
    assert (again.returncode, "already" in again.stdout) == (0, True)
    assert worker.drain() == 0

    gone = yard.command("resume", admin=worker.admin)
    assert (gone.returncode, worker.admin in gone.stderr) == (69, True)
    off = yard.command("pause", admin="off")
    assert (off.returncode, "WORKER_ADMIN" in off.stderr) == (78, True)
    assert yard.command("pause", admin="127.0.0.1:0").returncode == 78
    assert yard.command("pause", "", admin=worker.admin).returncode == 2
    assert token not in "".join(done.stdout + done.stderr for done in (refused, taken, again, gone, off))
