"""Bugs planted in a real worker: a trial of each is caught by the checker, and for the right reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.checker import Rules
from tests.faults.planted import BUGS
from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually

APP = "tests.faults.planted:registry"
QUICK = {"double_settle", "no_joining", "wrong_reason"}

Scene = Callable[[Trial, str], None]


def buggy(trial: Trial, bug: str, **settings: str) -> Worker:
    trial.plant(bug)
    worker = trial.start(APP, **({"concurrency": "5", "prefetch": "10", "drain_timeout": "4s"} | settings))
    trial.plant("")
    return worker


def killed_in_the_midst(trial: Trial, bug: str) -> None:
    worker = buggy(trial, bug)
    trial.publish_all(trial.jobs(20, "/ok?ms=500&job={}"))
    trial.until_running(5)
    trial.kill(worker, bound=10)
    trial.start()


def drained_in_the_midst(trial: Trial, bug: str) -> None:
    worker = buggy(trial, bug)
    trial.publish_all(trial.jobs(20, "/delay/6000?job={}"))
    trial.until_running(5)
    with trial.fault("worker.drain", bound=5):
        assert worker.drain() == 0
    trial.start(concurrency="20")


def without_a_dead_queue(trial: Trial, bug: str) -> None:
    buggy(trial, bug)
    with trial.fault("queue.missing"):
        trial.node.ctl("delete_queue", f"{trial.queue}.dead")
        trial.publish_all([trial.job("/status/404?{}", expect="http_status")])
        eventually(lambda: trial.effects.look().good or trial.effects.begun, "it has run")
        eventually(lambda: trial.waiting() == 0, "it is taken")
        trial.until_running(0)
        trial.declare()


def dead_letters(trial: Trial, bug: str) -> None:
    buggy(trial, bug)
    orders = [trial.job("/status/404?{}", expect="http_status") for _ in range(3)]
    for order in orders:
        order.properties["app_id"] = "shop"  # type: ignore[index]
    trial.publish_all(orders)


def failing_jobs(trial: Trial, bug: str) -> None:
    buggy(trial, bug, attempts="3", backoff="100ms..100ms")
    once = {"retry": {"attempts": 1}}
    trial.publish_all([trial.job("/status/500?{}", expect="attempts_exhausted", more=once) for _ in range(2)])
    eventually(lambda: trial.effects.look().begun.total() > 12 or trial.dead() == 2, "it goes on and on, or ends")


def plain_jobs(trial: Trial, bug: str) -> None:
    buggy(trial, bug)
    trial.publish_all(trial.jobs(20, "/ok?ms=50&job={}"))


def connections_closed(trial: Trial, bug: str) -> None:
    worker = buggy(trial, bug)
    trial.publish_all(trial.jobs(20, "/ok?ms=1500&job={}"))
    trial.until_done(5)
    trial.until_running(5)
    with trial.fault("connections.closed", recover=5):
        trial.node.ctl("close_all_connections", "for a trial")
        eventually(lambda: worker.lines("session.lost"), "the worker notices")


def replayed(trial: Trial, bug: str) -> None:
    buggy(trial, bug)
    trial.publish_all([trial.job("/flaky/1/404/{}", id="again", expect="any")])
    eventually(lambda: trial.dead() == 1, "it is dead")
    trial.replay("again")


SCENES: dict[str, tuple[Scene, str]] = {
    "ack_before_effect": (killed_in_the_midst, "lost"),
    "ack_on_cancel": (drained_in_the_midst, "lost"),
    "dead_letter_without_confirm": (without_a_dead_queue, "lost"),
    "drop_on_drain": (drained_in_the_midst, "lost"),
    "double_settle": (plain_jobs, "channel error"),
    "requeue_loop": (failing_jobs, "no limit"),
    "lost_redelivery": (connections_closed, "queued"),
    "wrong_reason": (dead_letters, "wrong reason"),
    "altered_body": (dead_letters, "altered"),
    "lost_header": (dead_letters, "altered"),
    "retry_without_limit": (failing_jobs, "no limit"),
    "stale_ack": (connections_closed, "channel error"),
    "replay_swallowed": (replayed, "lost"),
    "no_joining": (connections_closed, "duplicate"),
    "silent_consumer": (connections_closed, "not alive"),
}


def test_every_planted_bug_has_its_scene() -> None:
    assert SCENES.keys() == BUGS.keys()
    assert SCENES.keys() >= QUICK


@pytest.mark.parametrize(
    "bug", [one if one in QUICK else pytest.param(one, marks=pytest.mark.faults) for one in SCENES]
)
def test_a_planted_bug_is_caught(trial: Trial, bug: str) -> None:
    scene, kind = SCENES[bug]
    trial.declare()
    scene(trial, bug)
    report = trial.report(Rules(attempts=3, tries=1) if scene is failing_jobs else None, seconds=8)
    trial.note(f"caught as: {', '.join(sorted(report.kinds))}")
    assert kind in report.kinds


@pytest.mark.faults
@pytest.mark.parametrize("scene", dict.fromkeys(scene for scene, _ in SCENES.values()))
def test_the_same_scene_without_a_bug_is_clean(trial: Trial, scene: Scene) -> None:
    trial.declare()
    scene(trial, "")
    trial.judge(Rules(attempts=3, tries=1) if scene is failing_jobs else None)
