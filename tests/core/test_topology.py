"""The queues around a work queue: names and arguments as the contract has them, and which rung a wait goes to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.topology import RUNGS, Queue, QueueType, Topology, rung_for

QUORUM = Topology("jobs")
CLASSIC = Topology("jobs", "classic")


def returning(queue: str, kind: QueueType = "quorum", **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "x-queue-type": kind,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-overflow": "reject-publish",
    }
    if kind == "quorum":
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments | {f"x-{name.replace('_', '-')}": value for name, value in more.items()}


QUEUES: dict[str, tuple[Queue, str, dict[str, Any]]] = {
    "the work queue": (QUORUM.work, "jobs", returning("jobs.dead", delivery_limit=1_000)),
    "the suspects": (QUORUM.suspect, "jobs.suspect", returning("jobs.dead", delivery_limit=1_000)),
    "the shortest wait": (QUORUM.wait(1), "jobs.wait.1s", returning("jobs", message_ttl=1_000)),
    "the longest wait": (QUORUM.wait(3600), "jobs.wait.3600s", returning("jobs", message_ttl=3_600_000)),
    "the dead queue": (
        QUORUM.dead,
        "jobs.dead",
        {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000},
    ),
    "the work queue, classic": (CLASSIC.work, "jobs", returning("jobs.dead", "classic")),
    "the suspects, classic": (CLASSIC.suspect, "jobs.suspect", returning("jobs.dead", "classic")),
    "a wait, classic": (CLASSIC.wait(10), "jobs.wait.10s", returning("jobs", "classic", message_ttl=10_000)),
    "the dead queue, classic": (CLASSIC.dead, "jobs.dead", {"x-queue-type": "classic"}),
}


@pytest.mark.parametrize("name", QUEUES)
def test_queue(name: str) -> None:
    queue, called, arguments = QUEUES[name]
    assert queue == Queue(called, arguments)


def test_the_ladder_has_the_rungs_of_the_contract() -> None:
    assert RUNGS == (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
    assert [queue.name for queue in QUORUM.waits] == [f"jobs.wait.{rung}s" for rung in RUNGS]


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_every_name_follows_from_the_work_queue(kind: QueueType) -> None:
    topology = Topology("orders.eu", kind)
    everything = (topology.work, topology.suspect, topology.dead, *topology.waits)
    assert all(queue.name == "orders.eu" or queue.name.startswith("orders.eu.") for queue in everything)
    assert len({queue.name for queue in everything}) == 3 + len(RUNGS)
    assert all(topology.owns(queue.name) for queue in everything)


@pytest.mark.parametrize(
    "name", ["", "job", "jobs2", "jobs.wait", "jobs.wait.3s", "jobs.wait.01s", "Jobs", "jobs.dead "]
)
def test_other_queues_are_not_ours(name: str) -> None:
    assert not QUORUM.owns(name)
    assert QUORUM.wait_called(name) is None


def test_a_wait_queue_is_found_by_its_name() -> None:
    assert QUORUM.wait_called("jobs.wait.300s") == QUORUM.wait(300)
    assert QUORUM.wait_called("jobs") is None


@pytest.mark.parametrize(
    ("delay", "rung"),
    [
        (-1.0, None),
        (0.0, None),
        (0.999, None),
        (1.0, 1),
        (1.999, 1),
        (2.0, 2),
        (4.9, 2),
        (5, 5),
        (29.9, 10),
        (59, 30),
        (119.9, 60),
        (299, 120),
        (599, 300),
        (1799, 600),
        (3599.9, 1800),
        (3600, 3600),
        (86_400 * 30, 3600),
        (float("inf"), 3600),
    ],
)
def test_a_wait_goes_to_the_largest_rung_that_fits(delay: float, rung: int | None) -> None:
    assert rung_for(delay) == rung
    assert QUORUM.queue_for(delay) == ("jobs" if rung is None else f"jobs.wait.{rung}s")


@given(st.floats(1, 3600))
def test_no_wait_within_the_ladder_takes_more_than_three_parks_of_its_half(delay: float) -> None:
    # Were the rungs far apart, a wait would be copied over and over on its way.
    rung = rung_for(delay)
    assert rung is not None
    assert rung <= delay < 3.1 * rung
