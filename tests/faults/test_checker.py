"""The checker on trial: a clean run passes, and each planted bug is seen, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.faults.checker import Complaint, Evidence, Found, Report, Rules, judge
from tests.faults.ledgers import ANY, Answer, Confirmed, Fault, Published, Replayed
from worker.dev.ledger import Exchange

BODY, KEPT = "b" * 64, "k" * 64
PORT, OTHER_PORT = 40_001, 40_002

CLEAN = Evidence((), (), ())


def published(id: str, *, at: float = 0.0, expect: str = "succeeded", effects: int = 1) -> Published:
    return Published(id, 1, at, BODY, KEPT, f"/ok?{id}", effects, expect)


def effect(
    id: str, at: float, until: float | None = None, status: int | None = 200, *, port: int = PORT, step: str = "request"
) -> Exchange:
    """An effect of 0.2 s unless told otherwise."""
    ended = at + 0.2 if until is None else until
    return Exchange(f"{id}-{at}-{step}", at, "GET", f"/ok?{id}", f"{id}/{step}", 0, port, ended, status)


def cut(id: str, at: float, *, port: int = PORT) -> Exchange:
    """An effect that nobody heard the answer of: the target saw no end."""
    return replace(effect(id, at, port=port), ended=None, status=None)


def dead(id: str, reason: str = "http_status", **different: object) -> Found:
    found = Found("jobs.dead", True, id, BODY, KEPT, reason, 1)
    return replace(found, **different)  # type: ignore[arg-type]


def waiting(id: str, queue: str = "jobs") -> Found:
    return Found(queue, False, id, BODY, KEPT)


def killed(at: float, bound: int = 5, *, port: int = PORT) -> Fault:
    return Fault(1, "worker.kill", at, at, bound, ports=(port,))


def trial(*ids: str, effects: Sequence[Exchange] = (), answer: Answer = "ack", **more: object) -> Evidence:
    """A trial of jobs that were published and confirmed at 0."""
    jobs = [published(one) for one in ids]
    return replace(
        Evidence(jobs, [Confirmed(one, answer, 0.01) for one in ids], effects),
        **more,  # type: ignore[arg-type]
    )


def expecting(reason: str, *ids: str, **more: object) -> Evidence:
    """The same for jobs that must end as dead letters."""
    return replace(trial(*ids), published=[published(one, expect=reason) for one in ids], **more)  # type: ignore[arg-type]


def kinds(evidence: Evidence, rules: Rules | None = None) -> set[str]:
    return judge(evidence, rules).kinds


# What must pass.

GOOD: dict[str, Evidence] = {
    "done once": trial("a", effects=[effect("a", 1)]),
    "tried again after a failure": trial("a", effects=[effect("a", 1, status=503), effect("a", 3)]),
    "dead for its reason": expecting("http_status", "a", effects=[effect("a", 1, status=404)], left=[dead("a")]),
    "repeated after a kill in its midst": trial(
        "a", effects=[cut("a", 1), effect("a", 2, port=OTHER_PORT)], faults=[killed(1.1)]
    ),
    "repeated after a kill right behind it": trial(
        "a", effects=[effect("a", 1), effect("a", 2, port=OTHER_PORT)], faults=[killed(1.4)]
    ),
    "repeated by a freeze, and once more by the one that woke up": trial(
        "a",
        effects=[effect("a", 1), effect("a", 21, port=OTHER_PORT), effect("a", 30)],
        faults=[Fault(1, "worker.freeze", 1.1, 29.9, 5, 2, (PORT,))],
    ),
    "not confirmed and absent": trial("a", answer="unknown"),
    "not confirmed and done": trial("a", answer="unknown", effects=[effect("a", 1)]),
    "replayed and done": expecting(
        ANY,
        "a",
        effects=[effect("a", 1, status=404), effect("a", 6)],
        replayed=[Replayed("a", 5)],
    ),
    "several steps, the first one repeated with the job": replace(
        trial("a", effects=[effect("a", 1, step="x"), cut("a", 5), effect("a", 6, step="x"), effect("a", 7)]),
        published=[published("a", effects=2)],
        faults=[killed(5.1)],
    ),
    "a closed channel that a fault explains": trial(
        "a",
        effects=[effect("a", 1)],
        faults=[Fault(1, "worker.freeze", 0.5, 20.0, errors=1)],
        complaints=[Complaint(20.1, "unknown delivery tag")],
    ),
    "back in time": trial(
        "a", "b", effects=[effect("a", 1), effect("b", 11)], faults=[Fault(1, "broker.kill", 2.0, 10.0, recover=5)]
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_legal_passes(name: str) -> None:
    report = judge(GOOD[name])
    assert report.violations == []


# What must be caught: the ledgers as they are when the worker has the bug.

BUGS: dict[str, tuple[str, Evidence]] = {
    "ack before the effect, then a kill": ("lost", trial("a", faults=[killed(1)])),
    "ack on cancel": ("lost", trial("a", effects=[cut("a", 1)], faults=[Fault(1, "worker.drain", 1.1, 1.2)])),
    "dead letter without a confirm": (
        "lost",
        expecting("http_status", "a", effects=[effect("a", 1, status=404)], faults=[Fault(1, "queue.missing", 0, 9)]),
    ),
    "dropped on drain": ("lost", trial("a", faults=[Fault(1, "worker.drain", 1.0, 1.5)])),
    "settled twice": (
        "channel error",
        trial("a", effects=[effect("a", 1)], complaints=[Complaint(1.3, "unknown delivery tag 1")]),
    ),
    "requeue loop": ("duplicate", trial("a", effects=[effect("a", n) for n in range(1, 9)])),
    "requeue loop of a job that fails": (
        "no limit",
        trial("a", effects=[effect("a", n, status=500) for n in range(1, 60)], left=[waiting("a")]),
    ),
    "redelivery swallowed": (
        "queued",
        trial("a", effects=[cut("a", 1)], faults=[killed(1.1)], left=[waiting("a")]),
    ),
    "wrong reason": ("wrong reason", expecting("http_status", "a", left=[dead("a", "expired")])),
    "a reason nobody knows": ("no reason", expecting(ANY, "a", left=[dead("a", "oops")])),
    "no reason at all": ("no reason", expecting(ANY, "a", left=[dead("a", "")])),
    "no attempts": ("no attempts", expecting("http_status", "a", left=[dead("a", attempt=None)])),
    "body altered": ("altered", expecting("http_status", "a", left=[dead("a", body="c" * 64)])),
    "properties altered": ("altered", expecting("http_status", "a", left=[dead("a", kept="c" * 64)])),
    "another request than was published": (
        "altered",
        trial("a", effects=[replace(effect("a", 1), path="/ok?b")]),
    ),
    "retry without limit": ("no limit", trial("a", effects=[effect("a", 2 * n, status=503) for n in range(1, 50)])),
    "stale ack: another job's message was acknowledged": (
        "lost",
        trial(
            "a", "b", effects=[effect("a", 1), cut("b", 1.1)], faults=[Fault(1, "channel.close", 1.05, 1.05), killed(2)]
        ),
    ),
    "replay swallowed as a duplicate": (
        "lost",
        expecting(ANY, "a", effects=[effect("a", 1, status=404)], replayed=[Replayed("a", 5)]),
    ),
    "dead-lettered twice": ("phantom", expecting("http_status", "a", left=[dead("a"), dead("a")])),
    "done and dead": ("both", trial("a", effects=[effect("a", 1)], left=[dead("a")])),
    "done and still queued": ("both", trial("a", effects=[effect("a", 1)], left=[waiting("a", "jobs.wait.1s")])),
    "a healthy neighbour dead-lettered": ("wrong reason", trial("a", left=[dead("a", "crashed_worker")])),
    "a dead letter that was expected and is not": ("lost", expecting("http_status", "a")),
    "done though it must fail": ("wrong end", expecting("http_status", "a", effects=[effect("a", 1)])),
    "an effect out of nowhere": ("unexpected", trial("a", effects=[effect("a", 1), effect("z", 2)])),
    "returned by the broker, and there": ("unexpected", trial("a", answer="returned", effects=[effect("a", 1)])),
    "a message out of nowhere": ("unexpected", trial("a", effects=[effect("a", 1)], left=[dead("z")])),
    "repeated without a fault": ("duplicate", trial("a", effects=[effect("a", 1), effect("a", 5)])),
    "repeated though the kill hit another process": (
        "duplicate",
        trial("a", effects=[effect("a", 1), effect("a", 2)], faults=[killed(1.1, port=OTHER_PORT)]),
    ),
    "repeated though settled long before the kill": (
        "duplicate",
        trial("a", effects=[effect("a", 1), effect("a", 9)], faults=[killed(5)]),
    ),
    "repeated before the fault": (
        "duplicate",
        trial("a", effects=[effect("a", 1), effect("a", 2)], faults=[killed(4)]),
    ),
    "repeated by a broker restart with one process": (
        "duplicate",
        trial("a", effects=[effect("a", 1, 3), effect("a", 6)], faults=[Fault(1, "broker.kill", 2.0, 5.0)]),
    ),
    "more repeated than the bound": (
        "duplicate",
        trial("a", "b", effects=[cut("a", 1), cut("b", 1), effect("a", 2), effect("b", 2)], faults=[killed(1.1, 1)]),
    ),
    "repeated twice by one kill": (
        "duplicate",
        trial("a", effects=[cut("a", 1), effect("a", 2), effect("a", 3)], faults=[killed(1.1)]),
    ),
    "a finished step that ran again": (
        "duplicate",
        replace(
            trial("a", effects=[effect("a", 1, step="x"), effect("a", 2, status=500), effect("a", 4, step="x")]),
            published=[published("a", effects=2)],
        ),
    ),
    "a step that never ran": (
        "lost",
        replace(trial("a", effects=[effect("a", 1, step="x")]), published=[published("a", effects=2)]),
    ),
    "too slow to come back": (
        "not alive",
        trial(
            "a", "b", effects=[effect("a", 1), effect("b", 30)], faults=[Fault(1, "broker.kill", 2.0, 10.0, recover=5)]
        ),
    ),
    "never back": (
        "not alive",
        trial(
            "a",
            "b",
            effects=[effect("a", 1)],
            left=[waiting("b")],
            faults=[Fault(1, "broker.kill", 2.0, 10.0, recover=5)],
        ),
    ),
    "standstill": ("stalled", trial("a", "b", effects=[effect("a", 1), effect("b", 100)])),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str) -> None:
    kind, evidence = BUGS[name]
    assert kind in kinds(evidence)


def test_two_faults_share_what_each_may_answer_for() -> None:
    """The first could answer for both, the second only for `b`: both are charged all the same."""
    effects = [cut("b", 1), cut("a", 1), effect("b", 5), effect("a", 5)]
    faults = [killed(1.1, 1), replace(killed(2.0, 1), number=2, ports=(PORT,))]
    moved = [replace(one, port=OTHER_PORT) if one.key == "a/request" else one for one in effects]
    faults = [replace(faults[0], ports=(PORT, OTHER_PORT)), faults[1]]
    report = judge(trial("a", "b", effects=moved, faults=faults))
    assert report.violations == []
    assert report.duplicates == {"worker.kill": 2}
    assert report.worst == {"worker.kill": 1}


def test_a_time_limit_of_the_workers_own_makes_a_failed_attempt() -> None:
    late = replace(effect("a", 1, 2), status=None)
    evidence = trial("a", effects=[late, effect("a", 4)])
    assert kinds(evidence) == {"duplicate"}
    assert kinds(evidence, Rules(cut_is_failed=True)) == set()


def test_the_figures_are_one_line() -> None:
    report = judge(GOOD["repeated after a kill in its midst"])
    assert report.line() == (
        "confirmed 1, succeeded 1, dead 0, recovered 0; lost 0; duplicates 1: worker.kill 1 (at most 1); uncharged 0;"
        " faults worker.kill x1; first repeated after worker.kill 0.9 s; recovered within -;"
        " longest pause -"
    )
    assert Report().line().count("\n") == 0


def test_the_longest_pause_is_told() -> None:
    report = judge(GOOD["back in time"])
    assert report.recovery == {"broker.kill": [1.0]}
    assert report.pauses == {"broker.kill": [9.0]}


def test_the_same_evidence_gives_the_same_report() -> None:
    evidence = BUGS["more repeated than the bound"][1]
    assert judge(evidence) == judge(evidence)
