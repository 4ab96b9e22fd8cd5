"""What there is to tell of an attempt that ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt that ended, or a message that ended without one (`ran` is False). Durations in seconds.

    `outcome` is how the attempt ended (succeeded, failed, snoozed, rejected, interrupted; turned_away
    without a run), `disposition` what follows
    (done, parked, dead, requeued, isolated). `queued` is the time in the broker's queue where the publisher set a
    timestamp, `admission` the time from the delivery until a slot was free, `seconds` the run itself, `network` what
    it spent in requests, summed over concurrent ones. `trouble` names an error the handler did not raise on purpose.
    """

    id: str
    type: str
    attempt: int
    snoozes: int
    outcome: str
    disposition: str
    reason: str = ""
    detail: str = ""
    queued: float | None = None
    admission: float = 0.0
    seconds: float = 0.0
    network: float = 0.0
    requests: int = 0
    ran: bool = True
    next_in: float | None = None
    trouble: Mapping[str, str] = field(default_factory=dict)
