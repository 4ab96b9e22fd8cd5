"""Under which limits and retries jobs run: the operator's words, then the registration's, then the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.policy import RetryPolicy
from worker.core.result import ReplyRules
from worker.runtime.registry import Registration


@dataclass(frozen=True, slots=True)
class TypeOverride:
    """What the operator fixes for one job type."""

    timeout: float | None = None
    attempts: int | None = None
    backoff: tuple[float, float] | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class TypeRules:
    """What one job type runs under, registration and configuration combined.

    `timeout` in seconds; `own_limits` by key: how many jobs of the type run at once.
    """

    timeout: float
    policy: RetryPolicy
    own_limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """How this service treats jobs. `types` are the operator's words, which outweigh a registration's."""

    decode: DecodeRules
    copies: CopyRules
    replies: ReplyRules
    timeout: float = 60.0
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    types: Mapping[str, TypeOverride] = field(default_factory=dict)
    suspect_lane: bool = False

    def for_type(self, registration: Registration) -> TypeRules:
        own, operator = registration.options, self.types.get(registration.type, TypeOverride())
        low, high = operator.backoff or own.backoff or (self.policy.backoff_low, self.policy.backoff_high)
        concurrency = operator.concurrency or own.concurrency
        return TypeRules(
            timeout=operator.timeout or own.timeout or self.timeout,
            policy=replace(
                self.policy,
                attempts=operator.attempts or own.attempts or self.policy.attempts,
                backoff_low=low,
                backoff_high=high,
            ),
            own_limits={} if concurrency is None else {f"type:{registration.type}": concurrency},
        )
