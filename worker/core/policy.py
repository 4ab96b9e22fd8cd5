"""What follows from the end of an attempt: pure, total, and the answer to every "what happens if"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from worker.core.job import Job
from worker.core.outcome import Failed, Interrupted, Outcome, Reason, Rejected, Snoozed, Succeeded

FREE_INTERRUPTIONS: Final = 9
"""Interruptions that cost nothing; the next one costs an attempt, so that no job is carried about for ever."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long apart a job type is tried. Times in seconds."""

    attempts: int = 16
    backoff_low: float = 2.0
    backoff_high: float = 3600.0
    max_age: float = 86400.0

    def wait(self, attempt: int, chance: float) -> float:
        """The wait after a failed `attempt` (from 1): exponential with full jitter; `chance` is from [0, 1)."""
        # From a second where the lowest is 0, for nothing doubled stays nothing.
        ceiling = min(self.backoff_high, (self.backoff_low or 1.0) * 2.0 ** min(attempt, 40))
        return self.backoff_low + chance * (ceiling - self.backoff_low)

    def latest(self, job: Job) -> float:
        """The last moment at which `job` may come back from a wait, in epoch seconds."""
        oldest = job.first_seen + self.max_age
        return oldest if job.wait_deadline is None else min(oldest, job.wait_deadline)


@dataclass(frozen=True, slots=True)
class Ack:
    """The job is done."""


@dataclass(frozen=True, slots=True)
class Park:
    """Wait in the broker for `delay` seconds, then run as `attempt`."""

    delay: float
    attempt: int
    snoozes: int
    interruptions: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Into the dead queue. `attempts` is how many were made, 0 if the job never ran."""

    reason: Reason
    detail: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Isolate:
    """Into the suspects' queue: it was there when a worker died, twice."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Give it back as it is; nothing has been done."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Let the broker dead-letter it: too large to be held here even once."""


Disposition = Ack | Park | DeadLetter | Isolate | Requeue | Refuse

SUSPECT_AFTER: Final = 2
"""Deliveries that ended with a dead worker or a lost session before a job is moved to the suspects."""

SHORTEST_REST: Final = 0.05
"""Seconds that are waited for wherever it is."""

SUSPECT_DELIVERIES: Final = 3
"""Deliveries as a suspect that may end so before the job is named the one that kills."""


def on_arrival(
    job: Job, *, now: float, delivery_count: int, suspect_lane: bool, may_rest: bool = True
) -> Disposition | None:
    """What a delivery of `job` needs instead of a run; None when it may run now.

    A start less than a second away is None too, if it `may_rest`: it waits where it is for so long.
    """
    if suspect_lane and delivery_count >= SUSPECT_DELIVERIES:
        detail = f"a worker died in each of {SUSPECT_AFTER + delivery_count} deliveries"
        return DeadLetter("crashed_worker", detail, job.attempt)
    if not suspect_lane and job.crashes + delivery_count >= SUSPECT_AFTER:
        return Isolate()
    if job.deadline is not None and now >= job.deadline:
        return DeadLetter("expired", "the deadline passed before the run", job.attempt - 1)
    if job.not_before is not None and job.not_before - now >= (1 if may_rest else SHORTEST_REST):
        if job.wait_deadline is not None and job.not_before > job.wait_deadline:
            return DeadLetter("expired", "the run would be after the deadline", job.attempt - 1)
        delay = max(job.not_before - now, 1.0)
        return Park(delay, job.attempt, job.snoozes, job.interruptions, "not_before")
    return None


def decide(outcome: Outcome, job: Job, policy: RetryPolicy, *, now: float, chance: float) -> Disposition:
    """What becomes of `job` after `outcome`. `now` is in epoch seconds, `chance` from [0, 1)."""
    match outcome:
        case Succeeded():
            return Ack()
        case Rejected(reason, detail):
            return DeadLetter(reason, detail, job.attempt)
        case Snoozed(delay, reason):
            return _park(job, policy, now, delay, attempt=job.attempt, snoozes=job.snoozes + 1, reason=reason)
        case Failed():
            return _after_failure(outcome, job, policy, now, chance)
        case Interrupted():
            return _after_interruption(job, policy, now, chance)
        case _:
            assert_never(outcome)


def _after_failure(failed: Failed, job: Job, policy: RetryPolicy, now: float, chance: float) -> Disposition:
    if job.attempt >= policy.attempts:
        return DeadLetter(failed.spent, f"{job.attempt} attempts, the last: {failed.error}", job.attempt)
    delay = policy.wait(job.attempt, chance) if failed.after is None else failed.after
    return _park(job, policy, now, delay, attempt=job.attempt + 1, snoozes=job.snoozes, reason="retry")


def _after_interruption(job: Job, policy: RetryPolicy, now: float, chance: float) -> Disposition:
    if job.interruptions >= FREE_INTERRUPTIONS:
        return _after_failure(Failed("interrupted", after=0.0), job, policy, now, chance)
    if not job.steps:
        return Requeue()
    return _park(
        job,
        policy,
        now,
        0.0,
        attempt=job.attempt,
        snoozes=job.snoozes,
        interruptions=job.interruptions + 1,
        reason="shutdown",
    )


def _park(
    job: Job,
    policy: RetryPolicy,
    now: float,
    delay: float,
    *,
    attempt: int,
    snoozes: int,
    reason: str,
    interruptions: int | None = None,
) -> Disposition:
    due = now + delay
    if due > job.first_seen + policy.max_age:
        detail = f"the next run would be later than {policy.max_age:g} s after the first delivery"
        return DeadLetter("expired", detail, job.attempt)
    if job.wait_deadline is not None and due > job.wait_deadline:
        return DeadLetter("expired", "the next run would be after the deadline", job.attempt)
    kept = job.interruptions if interruptions is None else interruptions
    return Park(delay, attempt, snoozes, kept, reason)
