"""What the runtime reports while it works: declared here by its user, fulfilled by `worker.ops`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt that ended: what `job.finished` says. Durations in seconds.

    `outcome` is how the attempt ended, `disposition` what follows. `queued` runs from the delivery until a slot was
    free, `seconds` is the run itself, `network` what it spent in requests, summed over concurrent ones. `ran` is
    False for a job that ended without a run. `trouble` names an error the handler did not raise on purpose.
    """

    id: str
    type: str
    attempt: int
    snoozes: int
    outcome: str
    disposition: str
    reason: str
    detail: str
    queued: float
    seconds: float
    network: float
    requests: int
    ran: bool = True
    next_in: float | None = None
    trouble: Mapping[str, str] = field(default_factory=dict)


class Telemetry(Protocol):
    """Where the runtime's events go. None of these may raise or wait."""

    def attempt_started(self, type: str) -> None: ...
    def attempt_finished(self, report: AttemptReport) -> None: ...
    def step_started(self) -> None: ...
    def step_ended(self) -> None: ...
    def limit_waited(self, limit: str, seconds: float) -> None: ...
    def parked(self, reason: str) -> None: ...
    def dead_lettered(self, reason: str) -> None: ...
    def ack_lost(self) -> None: ...


class Silent:
    """Telemetry that keeps nothing."""

    def attempt_started(self, type: str) -> None: ...
    def attempt_finished(self, report: AttemptReport) -> None: ...
    def step_started(self) -> None: ...
    def step_ended(self) -> None: ...
    def limit_waited(self, limit: str, seconds: float) -> None: ...
    def parked(self, reason: str) -> None: ...
    def dead_lettered(self, reason: str) -> None: ...
    def ack_lost(self) -> None: ...
