"""What follows from how an attempt ended: decided, reported, made into what settles the delivery, announced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from worker.core.job import Job, Malformed
from worker.core.message import Message
from worker.core.outcome import Failed, Interrupted
from worker.core.policy import DeadLetter, Disposition, Isolate, Requeue, decide
from worker.core.report import AttemptReport
from worker.runtime.announcements import Announcements
from worker.runtime.attempt import Attempt
from worker.runtime.clock import Clock
from worker.runtime.ends import trouble_of
from worker.runtime.registry import Registration
from worker.runtime.rules import TypeRules
from worker.runtime.settlement import GIVE_BACK, REFUSE, Settlement, Settlements
from worker.runtime.telemetry import Telemetry

log = structlog.get_logger("worker.pipeline")


@dataclass(frozen=True, slots=True)
class Conclusions:
    """Draws them for one pipeline. `chance` gives numbers from [0, 1) for jitter."""

    suspect_lane: bool
    settlements: Settlements
    announcements: Announcements
    telemetry: Telemetry
    clock: Clock
    chance: Callable[[], float]

    def of(self, attempt: Attempt, registration: Registration, rules: TypeRules) -> Settlement:
        """What settles the delivery of an attempt that was made, or turned away."""
        return self._drawn(self._decided(attempt, rules), attempt, registration, rules)

    def on_arrival(
        self, disposition: Disposition, job: Job, registration: Registration, rules: TypeRules
    ) -> Settlement:
        """What settles the delivery of a job about which all is decided before it could run."""
        return self._drawn(disposition, Attempt.without_run(job, Interrupted()), registration, rules)

    def of_malformed(self, message: Message, malformed: Malformed) -> Settlement:
        """What settles a message that is no job."""
        report = AttemptReport(
            id=malformed.id,
            type="",
            attempt=malformed.attempts,
            snoozes=0,
            outcome="rejected",
            disposition="dead",
            reason=malformed.reason,
            detail=malformed.detail,
            ran=False,
        )
        self.telemetry.attempt_finished(report)
        announced = self.announcements.of_malformed(message, malformed)
        return self.settlements.of_malformed(message, malformed).announced_by(announced)

    def given_back(self, job: Job | None) -> Settlement:
        """What settles a delivery that is not started any more."""
        # Brokers before 4.3 count what is given back, and on the suspects' lane that count is the accusation: there a
        # fresh copy takes the place of a delivery that was given back.
        if not self.suspect_lane or job is None:
            return GIVE_BACK
        return self.settlements.of(Isolate(), Attempt.without_run(job, Interrupted()), attempts=0)[1]

    def after_fault(self, job: Job | None, rules: Callable[[Job], TypeRules], info: Mapping[str, Any]) -> Settlement:
        """A failed attempt; where not even that can be written, the broker moves the message to the dead queue."""
        if job is None:
            return REFUSE
        try:
            attempt, found = Attempt.without_run(job, Failed("a fault of the worker")), rules(job)
            return self._settled(self._decided(attempt, found), attempt, found)[1]
        except Exception as error:  # noqa: BLE001 - the same fault again
            log.error("pipeline.failed", **info, **trouble_of(error))  # noqa: TRY400 - a trace repeats values
            return REFUSE

    def _decided(self, attempt: Attempt, rules: TypeRules) -> Disposition:
        outcome = attempt.ended.outcome
        disposition = decide(outcome, attempt.job_after, rules.policy, now=self.clock.now(), chance=self.chance())
        if isinstance(disposition, DeadLetter) and not isinstance(outcome, Failed):
            return replace(disposition, attempts=attempt.made)  # turned away is not attempted
        return Isolate() if self.suspect_lane and isinstance(disposition, Requeue) else disposition

    def _drawn(
        self, disposition: Disposition, attempt: Attempt, registration: Registration, rules: TypeRules
    ) -> Settlement:
        final, settlement = self._settled(disposition, attempt, rules)
        # A validator may be what kills: then it must not be tried here, where the neighbours are.
        is_killer = isinstance(final, DeadLetter) and final.reason == "crashed_worker"
        try:
            messages = self.announcements.of(final, attempt, registration, may_validate=not is_killer)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not change how the job ended
            told = {"id": attempt.job.id, "type": attempt.job.type}
            log.error("announcements.failed", **told, **trouble_of(error))  # noqa: TRY400 - a trace repeats values
            return settlement
        return settlement.announced_by(messages)

    def _settled(self, disposition: Disposition, attempt: Attempt, rules: TypeRules) -> tuple[Disposition, Settlement]:
        final, settlement = self.settlements.of(disposition, attempt, rules.policy.attempts)
        self.telemetry.attempt_finished(attempt.report(final))
        return final, settlement
