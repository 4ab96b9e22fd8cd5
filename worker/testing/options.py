"""The limits and retries of a test, in the words of the settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.policy import RetryPolicy
from worker.core.result import ReplyRules
from worker.core.topology import Topology
from worker.core.units import parse_duration
from worker.runtime.rules import Rules, TypeOverride
from worker.testing.memory_broker import WORKER_USER

Duration = float | str
"""Seconds, or text such as "5m" or "2h"."""


@dataclass(frozen=True, slots=True)
class Retries:
    """What outweighs the registrations of a test, as `[types.*]` of `worker.toml` does."""

    attempts: int | None = None
    backoff: tuple[Duration, Duration] | None = None
    timeout: Duration | None = None
    max_age: Duration | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts={self.attempts!r}: 1 or more is needed")
        if self.backoff is not None and not 0 <= seconds(self.backoff[0]) <= seconds(self.backoff[1]):
            raise ValueError(f"backoff={self.backoff!r}: the lowest wait, of 0 or more, and then the highest is needed")
        for name, value in (("timeout", self.timeout), ("max_age", self.max_age)):
            if value is not None and not seconds(value) > 0:
                raise ValueError(f"{name}={value!r}: a time above 0 is needed")

    def rules(self, types: Iterable[str], topology: Topology) -> Rules:
        """The rules of a service that knows these job types."""
        policy = RetryPolicy() if self.max_age is None else RetryPolicy(max_age=seconds(self.max_age))
        override = TypeOverride(
            timeout=None if self.timeout is None else seconds(self.timeout),
            attempts=self.attempts,
            backoff=None if self.backoff is None else (seconds(self.backoff[0]), seconds(self.backoff[1])),
        )
        return Rules(
            DecodeRules(frozenset({WORKER_USER})),
            CopyRules(topology),
            ReplyRules(topology),
            policy=policy,
            types=dict.fromkeys(types, override),
        )


def seconds(value: Duration) -> float:
    """A duration in seconds."""
    return parse_duration(value) if isinstance(value, str) else float(value)
