"""What every context of a process shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from worker.core.message import Outgoing
from worker.runtime.clock import Clock
from worker.runtime.cpu import CpuRunner
from worker.runtime.limiter import Limiter
from worker.runtime.transport import Transport

Publish = Callable[[Outgoing], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Tools:
    """The ways out of a job, and its bounds.

    `publish` returns once the broker has confirmed a message, `queue` is the work queue. `step_timeout` is in seconds,
    `max_requests` counts per attempt.
    """

    transport: Transport
    limiter: Limiter
    clock: Clock
    cpu: CpuRunner
    publish: Publish
    queue: str
    step_timeout: float = 10.0
    max_requests: int = 1000
