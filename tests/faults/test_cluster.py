"""Rows 15 and 16: three nodes, and the loss of one of them, or of two."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually
from worker.dev.node import Node
from worker.dev.target import Target

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as found:
        yield found


@pytest.fixture
def wide(node: Node, cluster: Cluster, tmp_path: Path, target: Target, note: Callable[[str], None]) -> Iterator[Trial]:
    """A trial on the whole cluster; rabbitmqctl talks to the first node that runs."""
    cluster.in_order()
    with Trial(cluster.nodes[0], tmp_path, target, note) as found:
        yield found
        cluster.in_order()


def consuming(wide: Trial, cluster: Cluster) -> Worker:
    wide.declare()
    return wide.start(amqp_url=cluster.urls, concurrency="10", prefetch="20")


def elsewhere(wide: Trial, cluster: Cluster, node: Node) -> None:
    """From now on the outsiders of the trial use a node that is not `node`."""
    wide.node = next(one for one in cluster.nodes if one is not node)
    wide.url = wide.node.url
    wide._hang_up()


def test_row_15_the_leaders_node_is_killed(wide: Trial, cluster: Cluster) -> None:
    worker = consuming(wide, cluster)
    leader = cluster.leader(wide.queue)
    elsewhere(wide, cluster, leader)
    with wide.publishing(wide.jobs(400, "/ok?ms=200&job={}"), rate=30, patient=True) as publisher:
        wide.until_done(60)
        with wide.fault("leader.kill", bound=20, recover=10):
            leader.kill()
            wide.until_done(100)
        assert publisher.wait(60) == 0
        leader.start()
        report = wide.judge()
    assert max(report.pauses["leader.kill"]) <= 10
    assert worker.lines("replica.died") == []


def test_row_15_the_consumers_node_is_killed(wide: Trial, cluster: Cluster) -> None:
    """It goes on at the next node of its list."""
    worker = consuming(wide, cluster)
    own = cluster.nodes[0]
    elsewhere(wide, cluster, own)
    with wide.publishing(wide.jobs(400, "/ok?ms=200&job={}"), rate=30, patient=True) as publisher:
        wide.until_done(60)
        with wide.fault("node.kill", recover=10):
            own.kill()
            worker.until_ready()
        assert publisher.wait(60) == 0
        own.start()
        report = wide.judge()
    assert max(report.pauses["node.kill"]) <= 10
    assert len(worker.lines("session.lost")) <= 2


def test_row_16_one_node_of_three_is_stopped(wide: Trial, cluster: Cluster) -> None:
    consuming(wide, cluster)
    gone = cluster.nodes[2]
    with wide.publishing(wide.jobs(300, "/ok?ms=200&job={}"), rate=30, patient=True) as publisher:
        wide.until_done(60)
        with wide.fault("minority.lost", bound=20, recover=10):
            gone.stop()
            wide.until_done(150)
        assert publisher.wait(60) == 0
        gone.start()
        wide.judge()


def test_row_16_two_nodes_of_three_are_frozen_for_a_while(wide: Trial, cluster: Cluster) -> None:
    """Nothing can be confirmed: everything waits, nobody crashes, and goes on."""
    worker = consuming(wide, cluster)
    frozen = cluster.nodes[1:]
    with wide.publishing(wide.jobs(300, "/ok?ms=200&job={}"), rate=30, patient=True) as publisher:
        wide.until_done(60)
        with wide.fault("majority.lost", bound=20, recover=20, errors=5):
            for node in frozen:
                node.freeze()
            time.sleep(60)  # the fault's length, as the matrix has it
            for node in frozen:
                node.thaw()
        eventually(lambda: publisher.process.poll() is not None, "every publish has its answer", 120)
        wide.judge(seconds=120)
    assert worker.lines("replica.died") == []
