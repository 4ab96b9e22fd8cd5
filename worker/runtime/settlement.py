"""From what is decided to what settles a delivery: messages to be confirmed first, then one word to the broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from worker.core.copies import (
    CopyRules,
    TooManyHeaders,
    dead_copy,
    forgets,
    malformed_copy,
    suspect_copy,
    wait_copy,
)
from worker.core.job import Malformed
from worker.core.message import Message, Outgoing
from worker.core.policy import Ack, DeadLetter, Disposition, Isolate, Park, Refuse, Requeue
from worker.runtime.attempt import Attempt

Finish = Literal["ack", "requeue", "refuse"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settles a delivery: messages that must be confirmed first, then one word to the broker."""

    copies: tuple[Outgoing, ...]
    finish: Finish

    def announced_by(self, messages: tuple[Outgoing, ...]) -> Settlement:
        """The same, with more to be confirmed: before the copies, since after those a drain may not give back."""
        return replace(self, copies=messages + self.copies) if messages else self


ACK = Settlement((), "ack")
GIVE_BACK = Settlement((), "requeue")
REFUSE = Settlement((), "refuse")


@dataclass(frozen=True, slots=True)
class Settlements:
    """Makes settlements. `now` gives epoch seconds, `fresh_id` an id for each copy."""

    rules: CopyRules
    now: Callable[[], float]
    fresh_id: Callable[[], str]

    def of_malformed(self, message: Message, malformed: Malformed) -> Settlement:
        """The dead letter of a message that is no job."""
        copy = malformed_copy(message, malformed, copy_id=self.fresh_id(), rules=self.rules, died_at=self.now())
        return Settlement((copy,), "ack")

    def of(self, disposition: Disposition, attempt: Attempt, attempts: int) -> tuple[Disposition, Settlement]:
        """What carries out `disposition`, and the disposition it has become.

        It becomes another one where the copy has no room: a job whose own headers are too large is dead, and a wait
        that would be free costs one of the `attempts` if it forgets a finished step.
        """
        try:
            if isinstance(disposition, Park):
                return self._of_park(disposition, attempt, attempts)
            return disposition, self._plain(disposition, attempt)
        except TooManyHeaders as error:
            detail = f"the headers are too large: {', '.join(name[:40] for name in error.names[:5])}"
            letter = DeadLetter("too_large", detail, attempt.made)
            return letter, self._plain(letter, attempt)

    def _of_park(self, park: Park, attempt: Attempt, attempts: int) -> tuple[Disposition, Settlement]:
        settlement = self._plain(park, attempt)
        is_free = park.attempt == attempt.job.attempt
        if not (is_free and attempt.ran and forgets(settlement.copies[0], attempt.job_after)):
            return park, settlement
        # Were it free, the forgotten step could be repeated for ever.
        costing: Disposition = replace(park, attempt=park.attempt + 1)
        if attempt.job.attempt >= attempts:
            costing = DeadLetter("attempts_exhausted", "finished steps too large to travel", attempt.made)
        return costing, self._plain(costing, attempt)

    def _plain(self, disposition: Disposition, attempt: Attempt) -> Settlement:
        match disposition:
            case Ack():
                return ACK
            case Requeue():
                return GIVE_BACK
            case Refuse():
                return REFUSE
            case Isolate() | DeadLetter() | Park():
                return Settlement((self._copy(disposition, attempt),), "ack")
            case _:
                assert_never(disposition)

    def _copy(self, disposition: Isolate | DeadLetter | Park, attempt: Attempt) -> Outgoing:
        job, copy_id = attempt.job_after, self.fresh_id()
        match disposition:
            case Isolate():
                return suspect_copy(job, copy_id=copy_id, rules=self.rules)
            case DeadLetter():
                return dead_copy(job, disposition, copy_id=copy_id, rules=self.rules, died_at=self.now())
            case Park():
                due = self.now() + disposition.delay
                return wait_copy(job, disposition, copy_id=copy_id, due=due, rules=self.rules)
            case _:
                assert_never(disposition)
