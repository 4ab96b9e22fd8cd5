"""Rows 24, 25, 26, 31: jobs and messages that would take the worker with them. They alone pay for it."""

from __future__ import annotations

import base64
import time
from collections import Counter

import pytest

from tests.faults.handlers import RAISED
from tests.faults.publisher import Order
from tests.faults.trial import Trial
from tests.process.kit import eventually
from tests.process.test_poison import UNDECODABLE
from worker.dev.ledger import Exchange

APP = "tests.faults.handlers:registry"
DEATH = 0.3
"""Seconds a process takes to die of what its handler does."""


def killers(trial: Trial, type: str, count: int) -> list[Order]:
    url = f"{trial.target.url}/ok?{type}"
    return [trial.handled(type, {"url": url}, expect="crashed_worker", effects=0) for _ in range(count)]


def mixed(trial: Trial, innocent: int, deadly: list[Order]) -> list[Order]:
    """The deadly ones spread evenly among the others."""
    orders = trial.jobs(innocent, "/ok?ms=200&job={}")
    for number, order in enumerate(deadly):
        orders.insert((number + 1) * innocent // (len(deadly) + 1) + number, order)
    return orders


def crashes_of(trial: Trial, deadly: list[Order]) -> list[Exchange]:
    ids = {order.id for order in deadly}
    return [one for one in trial.target.ledger() if (one.key or "").partition("/")[0] in ids]


def blamed(trial: Trial, innocent: int, deadly: list[Order], **settings: str) -> None:
    """Each killer dead within its bound, nobody else; and full speed again soon after."""
    trial.declare()
    trial.publish_all(mixed(trial, innocent, deadly))
    worker = trial.launch(APP, **settings)
    eventually(lambda: trial.dead() >= len(deadly), f"{len(deadly)} dead letters", 90)
    trial.until_done(innocent, 90)
    for crash in crashes_of(trial, deadly):
        # A process dies as soon as it has its answer. What it ran, or had just settled, may be repeated.
        trial.charge("poison", crash.started, (crash.ended or crash.started) + DEATH, 2 * int(settings["concurrency"]))
    last = time.time()
    worker.until_ready()
    trial.publish_all(trial.jobs(100, "/ok?ms=200&job={}"))
    trial.until_done(innocent + 100, 30)
    trial.note(f"100 jobs of 0.2 s took {time.time() - last:.1f} s after the last of {len(deadly)} killers")
    report = trial.judge(seconds=90)
    assert report.verdicts["dead"] == len(deadly)
    crashes = Counter((crash.key or "").partition("/")[0] for crash in crashes_of(trial, deadly))
    assert max(crashes.values()) <= 3, crashes


@pytest.mark.parametrize(
    "type",
    ["exits", pytest.param("faults", marks=pytest.mark.faults), pytest.param("starves", marks=pytest.mark.faults)],
)
def test_row_24_a_job_that_kills_its_process(trial: Trial, type: str) -> None:
    blamed(trial, 30, killers(trial, type, 1), concurrency="20", prefetch="25")


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_row_24_several_killers_among_a_hundred(trial: Trial) -> None:
    deadly = [*killers(trial, "exits", 2), *killers(trial, "faults", 2), *killers(trial, "starves", 1)]
    blamed(trial, 100, deadly, concurrency="100")


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_row_24_the_whole_service_dies_with_it_each_time(trial: Trial) -> None:
    """As in a container: after at most five crashes the one that kills is in the dead queue, and nobody else."""
    trial.declare()
    payload = {"url": f"{trial.target.url}/ok?stubborn", "seconds": 600}
    deadly = trial.handled("stubborn", payload, expect="crashed_worker", effects=0)
    trial.publish_all([*trial.jobs(10, "/ok?ms=200&job={}"), deadly])

    def runs() -> int:
        return sum(count for key, count in trial.effects.look().begun.items() if key.startswith(f"{deadly.id}/"))

    crashes = 0
    while not trial.dead():
        worker, before = trial.launch(APP, concurrency="20"), runs()
        eventually(lambda: runs() > before or trial.dead(), "it runs, or is dead", 60)  # noqa: B023
        if not trial.dead():
            trial.kill(worker, bound=20)
            crashes += 1
            assert crashes <= 5
    trial.note(f"dead after {crashes} crashes of the whole service")
    trial.judge()


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_row_25_a_handler_that_blocks_for_a_minute(trial: Trial) -> None:
    """The broker gives the connection up; the jobs join their redeliveries. The warning names the handler.

    Nothing is repeated: neighbours whose answers came meanwhile get a moment to read them, however late it is.
    """
    trial.declare()
    url = f"{trial.target.url}/ok?blocks"
    worker = trial.start(APP, concurrency="10", job_timeout="120s")
    trial.publish_all([trial.handled("blocks", {"url": url, "seconds": 60}), *trial.jobs(9, "/ok?ms=100&job={}")])
    with trial.fault("loop.blocked", bound=0):
        trial.until_done(10, 90)
        eventually(lambda: "blocks" in worker.said(), "it is named", 90)
    trial.judge(seconds=120)
    assert {line["attempt"] for line in worker.lines("job.finished")} == {1}
    assert len(worker.lines("job.finished")) == 10


def test_row_26_whatever_a_handler_raises_ends_its_job_alone(trial: Trial) -> None:
    trial.declare()
    orders = [
        trial.handled("raises", {"what": what}, id=what, expect="attempts_exhausted", effects=0) for what in RAISED
    ]
    url = f"{trial.target.url}/ok?leaks"
    orders += [trial.handled("leaks", {"url": url}) for _ in range(3)]
    trial.publish_all([*orders, *trial.jobs(10, "/ok?ms=100&job={}")])
    worker = trial.start(APP, concurrency="30")
    children = worker.children()
    trial.until_done(13)
    eventually(lambda: trial.dead() == len(RAISED), "each in the dead queue")
    assert worker.children() == children
    trial.judge()


@pytest.mark.faults
def test_row_26_a_swallowed_time_limit_is_a_failed_attempt(trial: Trial) -> None:
    trial.declare()
    url = f"{trial.target.url}/ok?stubborn"
    order = trial.handled("stubborn", {"url": url, "seconds": 3}, expect="attempts_exhausted")
    trial.publish_all([order, *trial.jobs(10, "/ok?ms=100&job={}")])
    trial.start(APP, job_timeout="1s", step_timeout="1s", attempts="1")
    eventually(lambda: trial.dead() == 1, "the dead letter")
    trial.until_done(11)
    report = trial.report()
    assert {one.kind for one in report.violations} <= {"both"}  # its effect was answered well; its attempt was not


def test_row_31_properties_that_nobody_can_read(trial: Trial) -> None:
    trial.declare()
    worker = trial.start(concurrency="20")
    orders: list[Order] = []
    for name, raw in UNDECODABLE.items():
        encoded = base64.b64encode(raw).decode()
        orders.append(Order(f"bad {name}", f"bad {name}", raw=encoded, effects=0, expect="malformed"))
        orders += trial.jobs(5, "/ok?ms=100&job={}")
    with trial.fault("malformed"):
        trial.publish_all(orders)
        trial.until_over()
    report = trial.judge()
    assert report.verdicts["dead"] == len(UNDECODABLE)
    assert worker.lines("session.lost") == []
    assert worker.lines("replica.died") == []
