"""What is known of an attempt when it has ended, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, assert_never

from worker.core.copies import history_entry
from worker.core.finished import Step
from worker.core.job import Job
from worker.core.outcome import DETAIL_LIMIT, Failed, Interrupted, Outcome, Rejected, Snoozed, Succeeded
from worker.core.policy import Ack, DeadLetter, Disposition, Isolate, Park, Refuse, Requeue
from worker.core.report import AttemptReport

NOT_VALIDATED: Final = object()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its outcome, the steps that are finished by now, and what it cost. `network` in seconds.

    `cut_off` when what it used was not there or not in time: a timeout, a lost connection.
    """

    outcome: Outcome
    steps: Mapping[str, Step]
    network: float = 0.0
    requests: int = 0
    trouble: Mapping[str, str] = field(default_factory=dict)
    cut_off: bool = False

    @property
    def well(self) -> bool | None:
        """What the run says of what it used: that it works, that it does not, or None for nothing."""
        if self.cut_off:
            return False
        return True if isinstance(self.outcome, Succeeded) else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job, run or turned away. `started` is epoch seconds, the durations are seconds.

    `payload` is validated, or NOT_VALIDATED.
    """

    job: Job
    ended: Ended
    ran: bool = False
    started: float = 0.0
    queued: float | None = None
    admission: float = 0.0
    seconds: float = 0.0
    payload: Any = NOT_VALIDATED

    @classmethod
    def without_run(cls, job: Job, outcome: Outcome, *, trouble: Mapping[str, str] | None = None) -> Attempt:
        """A job that never got to its handler."""
        return cls(job, Ended(outcome, job.steps, trouble=trouble or {}))

    @property
    def job_after(self) -> Job:
        """The job as its copies carry it on: with the steps finished by now, and this run in its history."""
        history = self.job.history
        if self.ran:
            history += (
                history_entry(self.job, _result(self.ended.outcome), started=self.started, seconds=self.seconds),
            )
        return replace(self.job, steps=self.ended.steps, history=history)

    @property
    def _has_end(self) -> bool:
        return self.ran or not isinstance(self.ended.outcome, Interrupted)

    @property
    def made(self) -> int:
        """Attempts made by now, this one included when it ran."""
        return self.job.attempt if self.ran else self.job.attempt - 1

    def report(self, disposition: Disposition) -> AttemptReport:
        """What the log and the metrics are told."""
        reason, detail = _why(disposition, self.ended.outcome)
        return AttemptReport(
            id=self.job.id,
            type=self.job.type,
            attempt=self.job.attempt,
            snoozes=self.job.snoozes,
            outcome=type(self.ended.outcome).__name__.lower() if self._has_end else "turned_away",
            disposition=_word(disposition),
            reason=reason,
            detail=detail[:DETAIL_LIMIT],
            queued=self.queued,
            admission=self.admission,
            seconds=self.seconds,
            network=self.ended.network,
            requests=self.ended.requests,
            ran=self.ran,
            next_in=disposition.delay if isinstance(disposition, Park) else None,
            trouble=self.ended.trouble,
        )


def _why(disposition: Disposition, outcome: Outcome) -> tuple[str, str]:
    match disposition, outcome:
        case DeadLetter(reason, detail, _), _:
            return reason, detail
        case Park(), Failed(error):
            return disposition.reason, error
        case Park(), _:
            return disposition.reason, ""
        case _:
            return "", ""


def _word(disposition: Disposition) -> str:
    match disposition:
        case Ack():
            return "done"
        case Park():
            return "parked"
        case DeadLetter():
            return "dead"
        case Isolate():
            return "isolated"
        case Requeue():
            return "requeued"
        case Refuse():
            return "refused"
        case _:
            assert_never(disposition)


def _result(outcome: Outcome) -> str:
    match outcome:
        case Failed(error):
            return f"failed: {error}"
        case Rejected(reason, _):
            return f"rejected: {reason}"
        case Snoozed(_, reason):
            return f"snoozed: {reason}"
        case Succeeded() | Interrupted():
            return type(outcome).__name__.lower()
        case _:
            assert_never(outcome)
