"""How one attempt of a job can end, and what a handler may raise to say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, get_args

Reason = Literal[
    "malformed",
    "no_type",
    "unknown_type",
    "invalid_payload",
    "too_large",
    "rejected",
    "http_status",
    "tls",
    "template",
    "credential",
    "blocked_address",
    "response_too_large",
    "result_too_large",
    "not_repeated",
    "attempts_exhausted",
    "expired",
    "crashed_worker",
    "delivery_limit",
]
"""Why a job is in the dead queue: the closed list of the public contract."""

REASONS: Final[frozenset[str]] = frozenset(get_args(Reason))

DETAIL_LIMIT: Final = 500
"""Longest detail kept beside a reason, in characters."""


class JobSignal(Exception):
    """What a handler raises to name its end; not an error of the handler."""


class Retry(JobSignal):
    """This attempt failed; try again later.

    `after` is the wait in seconds; without it the job type's backoff decides.
    Costs an attempt, so the job ends in the dead queue when its attempts are spent, by the reason `spent`.
    """

    spent: ClassVar[Reason] = "attempts_exhausted"

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        if after is not None and not after >= 0:
            raise ValueError(f"Retry(after={after!r}): a wait in seconds, 0 or more, is needed")
        self.after = after


class Snooze(JobSignal):
    """Not yet: run again after `delay` seconds. Costs no attempt.

    `reason` is a short word for metrics and logs. Endless snoozing is ended by the job's maximum age.
    """

    def __init__(self, delay: float, *, reason: str = "handler") -> None:
        super().__init__(f"snoozed for {delay} s")
        if not delay >= 0:
            raise ValueError(f"Snooze({delay!r}): a wait in seconds, 0 or more, is needed")
        self.delay = delay
        self.reason = str(reason)


class Reject(JobSignal):
    """Never: put the job into the dead queue now.

    `reason` is free text for a person; what the dead letter carries as its reason is `rejected`, unless `code` names
    another reason of the closed list.
    """

    def __init__(self, reason: str = "", *, code: Reason = "rejected") -> None:
        super().__init__(reason)
        if code not in REASONS:
            raise ValueError(f"Reject(code={code!r}): one of {', '.join(sorted(REASONS))} is needed")
        self.code: Reason = code
        self.detail = str(reason)


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; `value` is what it returned."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed and another may succeed.

    `after` is the wait the handler asked for, in seconds; `spent` the reason when this was the last attempt.
    """

    error: str
    after: float | None = None
    spent: Reason = "attempts_exhausted"


@dataclass(frozen=True, slots=True)
class Snoozed:
    """Not yet, and not the job's fault: `delay` in seconds, `reason` a word for metrics (busy_key, handler, ...)."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """No attempt can succeed."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Stopped from outside (drain) before the handler was done."""


Outcome = Succeeded | Failed | Snoozed | Rejected | Interrupted
