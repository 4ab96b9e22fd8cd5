"""The verdict on a run, from ledgers that the worker does not write: nothing lost, nothing repeated without a cause."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.simulation.broker import REPLIES, SimBroker
from tests.simulation.jobs import ATTEMPTS
from tests.simulation.ledger import NAME, Effect, Fault, Ledger, Order, job_of
from worker.core.message import Message, Properties
from worker.core.outcome import REASONS
from worker.core.policy import SUSPECT_AFTER, SUSPECT_DELIVERIES
from worker.runtime.registry import UNKNOWN_TYPE_ATTEMPTS

RUNS_AGAIN: Final = frozenset({"failed", "snoozed", "cancelled"})
"""Ends of a run after which another one is due."""

COST_AN_ATTEMPT: Final = frozenset({"failed", "cancelled"})
READ: Final = frozenset({"plain", "nameless", "later", "deadline", "killer"})
"""Kinds of jobs that a handler gets to see."""

MOST_PUBLISHES: Final = 8
"""Publishes of one copy within a second, repeated ones."""


def verdict(ledger: Ledger, broker: SimBroker) -> list[str]:
    """Every rule that this run has broken, beyond those that were seen at once."""
    dead: dict[str, list[Message]] = {}
    for message in broker.dead:
        dead.setdefault(job_of(message), []).append(message)
    told: dict[str, set[str]] = {}
    for message in broker.messages(REPLIES):
        told.setdefault(_asked(message), set()).add(json.loads(message.body)["status"])
    found: list[str] = []
    for job, order in ledger.orders.items():
        judge = _Judge(ledger, order, dead.pop(job, []), told.get(f"asked-{job}", set()))
        found += [f"{job}: {rule}" for rule in judge.broken()]
    found += [f"{job}: a dead letter of a job nobody published" for job in dead]
    found += [f"{job}: ran, and nobody published it" for job in ledger.runs if job not in ledger.orders]
    found += list(_lives(ledger))
    found += list(_pace(ledger))
    return found


def duplicates(ledger: Ledger) -> int:
    """Runs of jobs with a message id, beyond those that the ends of earlier runs called for."""
    return sum(
        max(0, len(runs) - 1 - sum(run.outcome in RUNS_AGAIN for run in runs))
        for job, runs in ledger.runs.items()
        if ledger.orders[job.partition("/")[0]].kind != "nameless"
    )


class _Judge:
    """One job."""

    def __init__(self, ledger: Ledger, order: Order, letters: list[Message], told: set[str]) -> None:
        self._ledger = ledger
        self._order = order
        self._letters = letters
        self._told = told
        self._runs = ledger.runs.get(order.id, [])
        parts = order.id.split("/")
        self._nameless = ledger.orders[parts[0]].kind == "nameless"
        self._family = {"/".join(parts[: length + 1]) for length in range(len(parts))}
        self._faults = [(fault, cost) for fault in ledger.faults if (cost := self._cost(fault))]

    def broken(self) -> Iterator[str]:
        yield from self._lost()
        yield from self._both()
        yield from self._repeated_runs()
        yield from self._repeated_steps()
        yield from self._attempts()
        for letter in self._letters:
            yield from self._letter(letter)
        yield from self._killed()
        yield from self._announced()

    def _cost(self, fault: Fault) -> int:
        """How many messages of the family it can have doubled: those that ran there, or were copied there."""
        return sum(
            not held.number
            or (fault.process, held.id) in self._ledger.publishing
            or self._ledger.is_started(fault.process, held, fault.known)
            for held in fault.held
            if held.id in self._family
        )

    def _charges(self, before: float) -> int:
        """Repetitions that faults before a moment may have cost."""
        return sum(cost for fault, cost in self._faults if fault.at <= before and self._costs(fault, before))

    def _costs(self, fault: Fault, before: float) -> bool:
        if fault.kind != "loss" or self._nameless:
            return True
        # One process that lives on has no excuse: what comes again joins what it runs already.
        life = self._ledger.lives[fault.process]
        if life.stopped is not None and life.stopped <= before:
            return True
        return any(
            number != fault.process and other.born <= before and (other.gone is None or other.gone >= fault.at)
            for number, other in self._ledger.lives.items()
        )

    @property
    def _all_charges(self) -> int:
        return self._charges(float("inf"))

    @property
    def _succeeded(self) -> bool:
        return any(run.outcome == "ok" for run in self._runs)

    def _lost(self) -> Iterator[str]:
        if not self._succeeded and not self._letters:
            yield "lost: no success and no dead letter"

    def _both(self) -> Iterator[str]:
        ends = len(self._letters) + self._succeeded
        if ends > 1 + self._all_charges:
            yield f"ended {ends} times ({len(self._letters)} dead letters), {self._all_charges} faults to blame"

    def _repeated_runs(self) -> Iterator[str]:
        for earlier, run in enumerate(self._runs):
            due = sum(_ended_before(one, run.start) and one.outcome in RUNS_AGAIN for one in self._runs[:earlier])
            if earlier > due + self._charges(run.start):
                yield f"run {run.number} at {run.start:.4f} has no cause"

    def _repeated_steps(self) -> Iterator[str]:
        for (job, step), tries in self._ledger.tries.items():
            if job != self._order.id:
                continue
            for number, one in enumerate(tries):
                done = sum(_ended_before(other, one.start) and other.outcome == "ok" for other in tries[:number])
                if done > self._charges(one.start):
                    yield f"P5: step {step} ran again at {one.start:.4f} though it was finished"

    def _attempts(self) -> Iterator[str]:
        failed = sum(run.outcome in COST_AN_ATTEMPT for run in self._runs)
        interrupted = sum(run.outcome == "cancelled" for run in self._runs)
        if failed > ATTEMPTS * (1 + self._all_charges) + interrupted:
            yield f"{failed} failed runs, where {ATTEMPTS} attempts are allowed"

    def _letter(self, letter: Message) -> Iterator[str]:
        order, properties = self._order, letter.properties
        assert isinstance(properties, Properties)
        if letter.body != order.body and order.kind != "too large":
            yield "the body of its dead letter is not what was published"
        if properties.correlation_id != f"asked-{order.id}" and "/" not in order.id:
            yield "its dead letter has lost its correlation id"
        if properties.headers.get(NAME) != order.id:
            yield "its dead letter has lost its publisher's header"
        if order.kind == "too large":
            if "x-death" not in properties.headers:
                yield "too large, and not dead-lettered by the broker"
            return
        reason, attempts = properties.headers.get("x-worker-reason"), properties.headers.get("x-worker-attempt")
        if reason not in REASONS or not isinstance(attempts, int):
            yield f"a dead letter with reason {reason!r} after {attempts!r} attempts"
        elif not self._deserved(reason, attempts):
            yield f"dead for {reason!r} after {attempts} attempts, and nothing says so"

    def _deserved(self, reason: str, attempts: int) -> bool:
        order, outcomes = self._order, [run.outcome for run in self._runs]
        match reason:
            case "malformed" | "no_type":
                return order.kind == reason.replace("_", " ") and not attempts
            case "unknown_type":
                return order.kind == "unknown" and 0 < attempts <= UNKNOWN_TYPE_ATTEMPTS and not outcomes
            case "rejected":
                return "rejected" in outcomes
            case "expired":
                return order.kind == "deadline"
            case "attempts_exhausted":
                return attempts == ATTEMPTS <= sum(outcome in COST_AN_ATTEMPT for outcome in outcomes)
            case "crashed_worker":
                failed = self._ledger.failed_deliveries[order.id]
                return "child killed" in outcomes or failed >= SUSPECT_AFTER + SUSPECT_DELIVERIES
            case _:
                return False

    def _killed(self) -> Iterator[str]:
        """A job that kills does so twice, and once more in the lane. Each other fault can have doubled it before."""
        killed = sum(run.outcome == "killed" for run in self._runs)
        if killed > SUSPECT_AFTER * (1 + self._all_charges - killed):
            yield f"P8: killed {killed} processes"

    def _announced(self) -> Iterator[str]:
        ends = {"dead"} if self._letters else {"succeeded"}
        if self._order.replies and not ends <= self._told and self._order.kind != "too large":
            yield f"nobody was told that it is {ends}, but {self._told or 'nothing'}"
        if not self._order.callback or self._order.kind not in READ or self._ends_in_the_lane:
            return
        if f"{self._order.id}/callback" not in self._ledger.orders:
            yield "its callback was never published"

    @property
    def _ends_in_the_lane(self) -> bool:
        """Where nothing of a suspect is validated any more, there is no callback."""
        return any(
            isinstance(letter.properties, Properties)
            and letter.properties.headers.get("x-worker-reason") == "crashed_worker"
            for letter in self._letters
        )


def _asked(reply: Message) -> str:
    assert isinstance(reply.properties, Properties)
    return reply.properties.correlation_id or ""


def _ended_before(effect: Effect, moment: float) -> bool:
    return effect.end is not None and effect.end <= moment


def _lives(ledger: Ledger) -> Iterator[str]:
    """A drain ends within its grace."""
    for number, life in ledger.lives.items():
        if life.stopped is None or life.killed:
            continue
        if life.gone is None or life.gone - life.stopped > life.grace:
            yield f"p{number}: told to stop at {life.stopped:.4f}, gone at {life.gone}"


def _pace(ledger: Ledger) -> Iterator[str]:
    """Nothing goes round and round."""
    losses = len(ledger.faults) + sum(life.stopped is not None for life in ledger.lives.values())
    for number, times in ledger.deliveries.items():
        if times > 1 + losses:
            yield f"m{number} was delivered {times} times"
    for (process, copy), moments in ledger.tries_to_publish.items():
        for first, last in pairwise(moments[::MOST_PUBLISHES]):
            if last - first < 1:
                yield f"p{process} published {copy} {MOST_PUBLISHES} times within a second"
