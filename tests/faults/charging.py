"""Which fault answers for which repeated effect: at most one each, and none for more than its bound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.ledgers import Fault
from worker.dev.ledger import Exchange

SETTLED_LATELY: Final = 0.35
"""Seconds before a fault in which an acknowledgement may not have got through."""

SLACK: Final = 0.1
"""Seconds between a fault's line in the ledger and its effect: two processes, one clock."""


@dataclass(frozen=True)
class Earlier:
    """The same effect as it was made before, and until when the process that made it was busy with its job."""

    effect: Exchange
    busy_until: float | None
    """When the last effect of the job in that run ended; None when one of them never did."""


@dataclass(frozen=True)
class Duplicate:
    """An effect that began although the one before it had been answered well, or had been cut short."""

    job: str
    before: tuple[Earlier, ...]
    again: Exchange

    @property
    def story(self) -> str:
        last = self.before[-1].effect
        if last.ended is None:
            return f"the one before began at {last.started:.3f} and never ended"
        return f"the one before ended at {last.ended:.3f} with {last.status}"


@dataclass
class Charges:
    by_fault: dict[int, list[Duplicate]] = field(default_factory=lambda: defaultdict(list))
    uncharged: list[Duplicate] = field(default_factory=list)


def charge(duplicates: Sequence[Duplicate], faults: Sequence[Fault]) -> Charges:
    """As many duplicates charged as can be: a fault with room left makes room for another's by taking over."""
    charges = Charges()
    for one in duplicates:
        if not _find_room(one, faults, charges, set()):
            charges.uncharged.append(one)
    return charges


def _find_room(one: Duplicate, faults: Sequence[Fault], charges: Charges, asked: set[int]) -> bool:
    for fault in faults:
        if fault.number in asked or not _answers_for(fault, one):
            continue
        asked.add(fault.number)
        held = charges.by_fault[fault.number] if fault.bound else []
        jobs = [other.job for other in held]
        same = sum(other.job == one.job and other.again.key == one.again.key for other in held)
        if same == fault.each:
            continue
        if one.job in jobs or len(set(jobs)) < fault.bound:  # what repeats is a job, with all the effects it had
            held.append(one)
            return True
        for index, other in enumerate(held):
            if jobs.count(other.job) == 1 and _find_room(other, faults, charges, asked):
                held[index] = one
                return True
    return False


def _answers_for(fault: Fault, one: Duplicate) -> bool:
    """Whether the process it struck held the job just then."""
    return fault.at <= one.again.started + SLACK and any(_held(fault, earlier) for earlier in one.before)


def _held(fault: Fault, earlier: Earlier) -> bool:
    struck = fault.ports is None or earlier.effect.port in fault.ports
    began = earlier.effect.started <= (fault.until or fault.at) + SLACK
    ended = earlier.busy_until is not None and earlier.busy_until < fault.at - SETTLED_LATELY
    return struck and began and not ended
