"""Decision tables: what follows from every end of an attempt, and from what is known when a delivery arrives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.finished import Finished
from worker.core.job import Job
from worker.core.outcome import Failed, Interrupted, Outcome, Rejected, Snoozed, Succeeded
from worker.core.policy import (
    Ack,
    DeadLetter,
    Disposition,
    Isolate,
    Park,
    Requeue,
    RetryPolicy,
    decide,
    on_arrival,
)

NOW = 1_000_000.0
POLICY = RetryPolicy(attempts=5, backoff_low=2.0, backoff_high=3600.0, max_age=1000.0)
JOB = Job("a", "t", b"{}", {}, first_seen=NOW - 100, attempt=2, snoozes=3, interruptions=1)
"""900 s are left of its age."""
STEPS = {"user": Finished(1)}
TOO_OLD = "the next run would be later than 1000 s after the first delivery"
TOO_LATE = "the next run would be after the deadline"


@dataclass(frozen=True)
class Case:
    """A job like JOB but for `job`, the end of its attempt, and what must follow."""

    outcome: Outcome
    expected: Disposition
    job: dict[str, Any] = field(default_factory=dict)
    chance: float = 0.5


ENDS = {
    # Succeeded
    "a job that succeeded is done": Case(Succeeded(), Ack()),
    "its value changes nothing": Case(Succeeded({"a": 1}), Ack()),
    "success outweighs every bound": Case(
        Succeeded(),
        Ack(),
        {"first_seen": 0.0, "wait_deadline": 1.0, "deadline": 1.0, "attempt": 99, "interruptions": 99},
    ),
    # Rejected
    "a rejected job is dead by its reason at its first attempt": Case(
        Rejected("http_status", "status 404"), DeadLetter("http_status", "status 404", 1), {"attempt": 1}
    ),
    "a rejected job is dead whatever is left of its attempts": Case(Rejected("tls"), DeadLetter("tls", "", 2)),
    # Snoozed
    "a snooze is free and counted": Case(Snoozed(30.0, "busy_key"), Park(30.0, 2, 4, 1, "busy_key")),
    "a snooze of no time is still parked": Case(Snoozed(0.0, "handler"), Park(0.0, 2, 4, 1, "handler")),
    "a snooze at the last attempt is free": Case(
        Snoozed(1.0, "handler"), Park(1.0, 5, 4, 1, "handler"), {"attempt": 5}
    ),
    "a snooze beyond the attempts is free": Case(
        Snoozed(1.0, "handler"), Park(1.0, 6, 4, 1, "handler"), {"attempt": 6}
    ),
    "a snooze to the last moment of the age is granted": Case(
        Snoozed(900.0, "handler"), Park(900.0, 2, 4, 1, "handler")
    ),
    "a snooze past the age is expired at once": Case(Snoozed(900.001, "handler"), DeadLetter("expired", TOO_OLD, 2)),
    "a snooze for ever is expired at once": Case(Snoozed(float("inf"), "handler"), DeadLetter("expired", TOO_OLD, 2)),
    "a snooze to the deadline is granted": Case(
        Snoozed(60.0, "handler"), Park(60.0, 2, 4, 1, "handler"), {"wait_deadline": NOW + 60}
    ),
    "a snooze past the deadline is expired at once": Case(
        Snoozed(60.0, "handler"), DeadLetter("expired", TOO_LATE, 2), {"wait_deadline": NOW + 59}
    ),
    # Failed
    "a failure costs an attempt and waits by the backoff": Case(Failed("E"), Park(5.0, 3, 3, 1, "retry")),
    "the luckiest wait is the lowest": Case(Failed("E"), Park(2.0, 3, 3, 1, "retry"), chance=0.0),
    "a failure waits as long as its Retry asked": Case(Failed("E", after=77.0), Park(77.0, 3, 3, 1, "retry")),
    "a Retry may ask for no wait at all": Case(Failed("E", after=0.0), Park(0.0, 3, 3, 1, "retry")),
    "a Retry may ask for more than the longest backoff": Case(
        Failed("E", after=7200.0), Park(7200.0, 3, 3, 1, "retry"), {"first_seen": NOW + 6500}
    ),
    "the last attempt but one leaves one": Case(Failed("E", after=1.0), Park(1.0, 5, 3, 1, "retry"), {"attempt": 4}),
    "the last attempt is the last": Case(
        Failed("E"), DeadLetter("attempts_exhausted", "5 attempts, the last: E", 5), {"attempt": 5}
    ),
    "Retry(after=) makes no attempt more": Case(
        Failed("E", after=1.0), DeadLetter("attempts_exhausted", "5 attempts, the last: E", 5), {"attempt": 5}
    ),
    "more attempts than there are count as spent": Case(
        Failed("E"), DeadLetter("attempts_exhausted", "9 attempts, the last: E", 9), {"attempt": 9}
    ),
    "an unknown type is named when its attempts are spent": Case(
        Failed("no such type", spent="unknown_type"),
        DeadLetter("unknown_type", "5 attempts, the last: no such type", 5),
        {"attempt": 5},
    ),
    "an unknown type waits like any failure before": Case(
        Failed("no such type", spent="unknown_type"), Park(5.0, 3, 3, 1, "retry")
    ),
    "spent outweighs expired": Case(
        Failed("E"),
        DeadLetter("attempts_exhausted", "5 attempts, the last: E", 5),
        {"attempt": 5, "first_seen": 0.0, "wait_deadline": 1.0},
    ),
    "a retry to the last moment of the age is granted": Case(Failed("E", after=900.0), Park(900.0, 3, 3, 1, "retry")),
    "a retry past the age is expired at once": Case(Failed("E", after=901.0), DeadLetter("expired", TOO_OLD, 2)),
    "a retry past the deadline is expired at once": Case(
        Failed("E", after=61.0), DeadLetter("expired", TOO_LATE, 2), {"wait_deadline": NOW + 60}
    ),
    "a backoff past the deadline is expired at once": Case(
        Failed("E"), DeadLetter("expired", TOO_LATE, 2), {"wait_deadline": NOW + 4.9}
    ),
    # Interrupted
    "an interruption without finished steps gives the delivery back": Case(Interrupted(), Requeue()),
    "giving back looks at no bound": Case(Interrupted(), Requeue(), {"first_seen": 0.0, "wait_deadline": 1.0}),
    "an interruption with finished steps is free and carries them on": Case(
        Interrupted(), Park(0.0, 2, 3, 2, "shutdown"), {"steps": STEPS}
    ),
    "a step that is only marked done is a finished step": Case(
        Interrupted(), Park(0.0, 2, 3, 2, "shutdown"), {"steps": {"user": Finished(kept=False)}}
    ),
    "the last attempt may be interrupted for nothing": Case(
        Interrupted(), Park(0.0, 5, 3, 2, "shutdown"), {"steps": STEPS, "attempt": 5}
    ),
    "the ninth interruption is free": Case(
        Interrupted(), Park(0.0, 2, 3, 9, "shutdown"), {"steps": STEPS, "interruptions": 8}
    ),
    "the tenth interruption costs an attempt, and nobody waits for it": Case(
        Interrupted(), Park(0.0, 3, 3, 9, "retry"), {"steps": STEPS, "interruptions": 9}
    ),
    "the tenth interruption costs an attempt without finished steps too": Case(
        Interrupted(), Park(0.0, 3, 3, 9, "retry"), {"interruptions": 9}
    ),
    "the tenth interruption of the last attempt ends the job": Case(
        Interrupted(),
        DeadLetter("attempts_exhausted", "5 attempts, the last: interrupted", 5),
        {"steps": STEPS, "interruptions": 9, "attempt": 5},
    ),
    "an interruption after the age ends the job": Case(
        Interrupted(), DeadLetter("expired", TOO_OLD, 2), {"steps": STEPS, "first_seen": NOW - 1001}
    ),
    "an interruption after the deadline ends the job": Case(
        Interrupted(), DeadLetter("expired", TOO_LATE, 2), {"steps": STEPS, "wait_deadline": NOW - 1}
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_decide(name: str) -> None:
    case = ENDS[name]
    job = replace(JOB, **case.job)
    assert decide(case.outcome, job, POLICY, now=NOW, chance=case.chance) == case.expected


def test_one_attempt_is_enough_to_be_spent() -> None:
    job = replace(JOB, attempt=1)
    decided = decide(Failed("E"), job, replace(POLICY, attempts=1), now=NOW, chance=0.0)
    assert decided == DeadLetter("attempts_exhausted", "1 attempts, the last: E", 1)


def test_the_defaults_are_those_of_the_contract() -> None:
    assert RetryPolicy() == RetryPolicy(attempts=16, backoff_low=2.0, backoff_high=3600.0, max_age=86400.0)


@dataclass(frozen=True)
class Arrival:
    """A job like JOB but for `job`, what the broker counts, and what must follow."""

    expected: Disposition | None
    job: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    suspect: bool = False


def crashed(deliveries: int) -> DeadLetter:
    return DeadLetter("crashed_worker", f"a worker died in each of {deliveries} deliveries", 2)


EXPIRED = DeadLetter("expired", "the deadline passed before the run", 1)

ARRIVALS = {
    "a job runs": Arrival(None),
    "an old job runs once more: its age bounds the waits": Arrival(None, {"first_seen": 0.0}),
    "one lost delivery is no suspicion": Arrival(None, count=1),
    "two lost deliveries make a suspect": Arrival(Isolate(), count=2),
    "more make one as well": Arrival(Isolate(), count=40),
    "what earlier copies have lost counts as well": Arrival(Isolate(), {"crashes": 1}, count=1),
    "a suspect stays one over its copies": Arrival(Isolate(), {"crashes": 2}),
    "one lost delivery of an earlier copy is no suspicion": Arrival(None, {"crashes": 1}),
    "in the lane each copy counts for itself": Arrival(None, {"crashes": 4}, count=2, suspect=True),
    "a suspect runs": Arrival(None, suspect=True),
    "a suspect survives one lost delivery": Arrival(None, count=1, suspect=True),
    "a suspect survives two lost deliveries": Arrival(None, count=2, suspect=True),
    "a suspect does not survive the third, the fifth in all": Arrival(crashed(5), count=3, suspect=True),
    "a suspect is dead however many more there were": Arrival(crashed(9), count=7, suspect=True),
    "a suspicion outweighs a deadline": Arrival(Isolate(), {"deadline": NOW - 1}, count=2),
    "a conviction outweighs a deadline": Arrival(crashed(5), {"deadline": NOW - 1}, count=3, suspect=True),
    "a deadline ahead lets it run": Arrival(None, {"deadline": NOW + 0.001}),
    "a deadline reached ends it": Arrival(EXPIRED, {"deadline": NOW}),
    "a deadline passed ends it": Arrival(EXPIRED, {"deadline": NOW - 60}),
    "a deadline passed ends a suspect too": Arrival(EXPIRED, {"deadline": NOW - 60}, suspect=True),
    "a job that never ran expires with no attempt made": Arrival(
        replace(EXPIRED, attempts=0), {"deadline": NOW, "attempt": 1}
    ),
    "an expiration bounds the queueing, not the run": Arrival(None, {"wait_deadline": NOW - 60}),
    "a start that has come lets it run": Arrival(None, {"not_before": NOW}),
    "a start long past lets it run": Arrival(None, {"not_before": 0.0}),
    "a start in less than a second is waited for where it is": Arrival(None, {"not_before": NOW + 0.999}),
    "a start in a second is parked": Arrival(Park(1.0, 2, 3, 1, "not_before"), {"not_before": NOW + 1}),
    "a start in a month is parked, nothing counted": Arrival(
        Park(2_592_000.0, 2, 3, 1, "not_before"), {"not_before": NOW + 2_592_000}
    ),
    "a suspect is parked too": Arrival(Park(60.0, 2, 3, 1, "not_before"), {"not_before": NOW + 60}, suspect=True),
    "a start at the deadline is parked": Arrival(
        Park(60.0, 2, 3, 1, "not_before"), {"not_before": NOW + 60, "wait_deadline": NOW + 60}
    ),
    "a start after the deadline is expired at once": Arrival(
        DeadLetter("expired", "the run would be after the deadline", 1),
        {"not_before": NOW + 60, "deadline": NOW + 59, "wait_deadline": NOW + 59},
    ),
    "a start after a deadline that has passed is expired": Arrival(
        EXPIRED, {"not_before": NOW + 60, "deadline": NOW - 1, "wait_deadline": NOW - 1}
    ),
}


@pytest.mark.parametrize("name", ARRIVALS)
def test_on_arrival(name: str) -> None:
    case = ARRIVALS[name]
    job = replace(JOB, **case.job)
    assert on_arrival(job, now=NOW, delivery_count=case.count, suspect_lane=case.suspect) == case.expected


@pytest.mark.parametrize(("rest", "waits_here", "parked"), [(5.0, False, 5.0), (0.5, True, 1.0), (0.01, True, None)])
def test_a_short_rest_is_parked_too_where_too_many_rest(rest: float, *, waits_here: bool, parked: float | None) -> None:
    job = replace(JOB, not_before=NOW + rest)

    def arrived(*, may_rest: bool) -> Disposition | None:
        return on_arrival(job, now=NOW, delivery_count=0, suspect_lane=False, may_rest=may_rest)

    assert (arrived(may_rest=True) is None) == waits_here
    found = arrived(may_rest=False)
    assert (found.delay if isinstance(found, Park) else None) == parked


@pytest.mark.parametrize(
    ("attempt", "highest"),
    [(1, 4.0), (2, 8.0), (3, 16.0), (9, 1024.0), (10, 2048.0), (11, 3600.0), (16, 3600.0), (10_000, 3600.0)],
)
def test_the_wait_doubles_up_to_the_longest(attempt: int, highest: float) -> None:
    policy = RetryPolicy()
    assert policy.wait(attempt, 0.0) == 2.0
    assert policy.wait(attempt, 0.5) == (2.0 + highest) / 2
    assert policy.wait(attempt, 1.0) == highest


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (5.0, 5.0, [5.0, 5.0, 5.0]),
        (0.25, 1.0, [0.5, 1.0, 1.0]),
        (2.0, 3.0, [3.0, 3.0, 3.0]),
        (0.0, 10.0, [2.0, 4.0, 8.0]),
        (0.0, 0.0, [0.0, 0.0, 0.0]),
    ],
    ids=["fixed", "below a second", "a narrow range", "from nothing it grows like from a second", "never any"],
)
def test_the_longest_waits_of_other_ranges(low: float, high: float, expected: list[float]) -> None:
    policy = RetryPolicy(backoff_low=low, backoff_high=high)
    assert [policy.wait(attempt, 1.0) for attempt in (1, 2, 3)] == expected


@given(
    bounds=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted),
    attempt=st.integers(1, 1_000_000),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_leaves_its_range(bounds: list[float], attempt: int, chance: float) -> None:
    low, high = bounds
    policy = RetryPolicy(backoff_low=low, backoff_high=high)
    wait = policy.wait(attempt, chance)
    assert low <= wait <= high * (1 + 1e-9)
    assert policy.wait(attempt + 1, chance) >= wait


OUTCOMES = st.one_of(
    st.just(Succeeded()),
    st.just(Interrupted()),
    st.builds(Rejected, st.just("rejected")),
    st.builds(Snoozed, st.floats(0), st.just("handler")),
    st.builds(Failed, st.just("E"), st.none() | st.floats(0)),
)
JOBS = st.builds(
    Job,
    st.just("a"),
    st.just("t"),
    st.just(b"{}"),
    st.none(),
    first_seen=st.floats(NOW - 2000, NOW + 2000),
    attempt=st.integers(1, 20),
    snoozes=st.integers(0, 9),
    interruptions=st.integers(0, 12),
    wait_deadline=st.none() | st.floats(NOW - 2000, NOW + 2000),
    steps=st.sampled_from([{}, STEPS]),
)


@given(outcome=OUTCOMES, job=JOBS, chance=st.floats(0, 1, exclude_max=True))
def test_a_job_is_carried_on_only_within_its_bounds(outcome: Outcome, job: Job, chance: float) -> None:
    decided = decide(outcome, job, POLICY, now=NOW, chance=chance)
    if isinstance(decided, Park):
        assert NOW + decided.delay <= job.first_seen + POLICY.max_age
        assert job.wait_deadline is None or NOW + decided.delay <= job.wait_deadline
        assert decided.attempt <= max(job.attempt, POLICY.attempts)
        # Something grows, or a job could be carried about for ever.
        grown = (decided.attempt, decided.snoozes, decided.interruptions)
        assert grown > (job.attempt, job.snoozes, job.interruptions)
        assert all(
            after >= before for after, before in zip(grown, (job.attempt, job.snoozes, job.interruptions), strict=True)
        )
