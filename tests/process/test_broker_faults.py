"""The broker dies and comes back: one process goes on with what it runs, and repeats none of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.kit import Yard, by_job, eventually
from worker.dev.node import Node
from worker.dev.target import Target

JOBS = 40


@pytest.fixture
def private(node: Node, tmp_path: Path) -> Iterator[Yard]:
    with Yard(node.url, tmp_path) as found:
        yield found


def ended(target: Target) -> int:
    return sum(one.ended is not None for one in target.ledger())


def test_a_killed_broker_costs_no_job_and_repeats_none(private: Yard, node: Node, target: Target) -> None:
    private.declare()
    ids = private.http_jobs(f"{target.url}/ok?ms=1000", JOBS)
    worker = private.start(concurrency="10")
    # Some acknowledgements are on their way, others are due while nobody is there to take them.
    eventually(lambda: ended(target) >= 13, "some jobs are done, the next ones run")

    node.kill()
    eventually(lambda: not worker.ready(), "/ready says that nothing is consumed", 15)
    assert worker.ask("/live")[0] == 200
    node.start()
    worker.until_ready()

    eventually(lambda: ended(target) >= JOBS, "every job is done")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight", 45)
    assert worker.metrics()["worker_reconnects_total"] == 1
    assert worker.drain() == 0
    assert {id: len(found) for id, found in by_job(target.ledger()).items()} == dict.fromkeys(ids, 1)
    assert private.left() == {}
    assert private.dead() == 0
