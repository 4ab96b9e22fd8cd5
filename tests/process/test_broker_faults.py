"""The broker dies and comes back: one process goes on with what it runs, and repeats none of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import installation
from tests.process.kit import Yard, counted, eventually
from worker.dev.node import Node
from worker.dev.target import Target

JOBS = 40


@pytest.fixture
def own(node: Node) -> Iterator[Node]:
    """A node for one test, skipped where the shared one is.

    RabbitMQ 3.10 sometimes takes no new quorum queues any more when it was killed twice.
    """
    with Node(installation()) as found:
        yield found


@pytest.fixture
def private(own: Node, tmp_path: Path) -> Iterator[Yard]:
    with Yard(own.url, tmp_path) as found:
        yield found


def ended(target: Target) -> int:
    return sum(one.ended is not None for one in target.ledger())


def test_a_killed_broker_costs_no_job_and_repeats_none(private: Yard, own: Node, target: Target) -> None:
    private.declare()
    ids = private.http_jobs(f"{target.url}/ok?ms=1000", JOBS)
    worker = private.start(concurrency="10")
    # Some acknowledgements are on their way, others are due while nobody is there to take them.
    eventually(lambda: ended(target) >= 13, "some jobs are done, the next ones run")

    own.kill()
    eventually(lambda: not worker.ready(), "/ready says that nothing is consumed", 15)
    assert worker.ask("/live")[0] == 200
    own.start()
    worker.until_ready()

    eventually(lambda: ended(target) >= JOBS, "every job is done")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight", 45)
    assert worker.metrics()["worker_reconnects_total"] == 1
    assert worker.drain() == 0
    assert counted(target.ledger()) == dict.fromkeys(ids, 1)
    assert private.left() == {}
    assert private.dead() == 0


def test_a_drain_without_a_broker_ends_within_the_grace_and_loses_nothing(
    private: Yard, own: Node, target: Target
) -> None:
    worker = private.start(drain_timeout="6s")
    # RabbitMQ 3.10 may not find a quorum queue again that it has made less than half a second before its own death.
    private.publish("http", {"url": f"{target.url}/delay/1500"}, "first")
    eventually(lambda: worker.lines("job.finished"), "the queues are old enough")
    private.publish("http", {"url": f"{target.url}/delay/500"}, "short")
    private.publish("http", {"url": f"{target.url}/hang"}, "long")
    eventually(lambda: len(target.ledger()) == 3, "both run")

    own.kill()
    eventually(lambda: ended(target) == 2, "the short one has its answer")
    since = time.monotonic()
    assert worker.drain() == 0
    assert time.monotonic() - since < 6
    own.start()
    # Nobody could take the acknowledgement of the short one: at least once.
    eventually(lambda: private.waiting() == 2, "both are in the queue")
    assert private.dead() == 0
