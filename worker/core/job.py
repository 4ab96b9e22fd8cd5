"""A delivery read as a job: what the wire format means, and which of its claims are believed."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.core import strict_json
from worker.core.finished import Step, decode_steps
from worker.core.message import Message, Properties, Undecodable, own_headers
from worker.core.outcome import Reason

MAX_ID: Final = 200
MAX_NOT_BEFORE: Final = 30 * 86400.0
MAX_COUNT: Final = 1_000_000
MAX_MILLISECONDS: Final = 10**14
"""Moments end in the year 5138: what is beyond could not be written into a header again."""


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """What the reader of messages has to know of the service."""

    trusted_users: Container[str]
    default_type: str | None = None
    max_body: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """A job as one delivery of it says. Times are epoch seconds.

    `attempt` is the attempt that runs now, from 1; `crashes` counts deliveries, those of earlier copies included, that
    ended with a dead worker or a lost session. `wait_deadline` is what the next wait may not pass: the deadline and the
    publisher's `expiration`, which bounds the queueing and not the run.
    """

    id: str
    type: str
    body: bytes
    payload: Any
    first_seen: float
    attempt: int = 1
    snoozes: int = 0
    interruptions: int = 0
    crashes: int = 0
    not_before: float | None = None
    deadline: float | None = None
    wait_deadline: float | None = None
    steps: Mapping[str, Step] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    properties: Properties = field(default_factory=Properties)

    @property
    def headers(self) -> dict[str, Any]:
        """The publisher's own headers."""
        return own_headers(self.properties.headers)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is no job and never will be: its bytes do not change."""

    id: str
    reason: Reason
    detail: str
    attempts: int = 0


class _Bad(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


def decode(message: Message, rules: DecodeRules, *, now: float, fresh_id: str) -> Job | Malformed:
    """Read `message` as a job. `fresh_id` is the id of a message that names none."""
    properties = message.properties
    if isinstance(properties, Undecodable):
        return Malformed(fresh_id, "malformed", f"undecodable properties: {properties.fault}")
    claims = _believed(properties, rules)
    job_id = safe_id(_text(claims, "x-worker-id") or properties.message_id or fresh_id)
    attempts = _count(claims, "x-worker-attempt", 1) - 1
    try:
        return _decode_job(message, properties, claims, rules, job_id, now)
    except _Bad as bad:
        return Malformed(job_id, bad.reason, bad.detail, attempts)


def _decode_job(
    message: Message,
    properties: Properties,
    claims: Mapping[str, Any],
    rules: DecodeRules,
    job_id: str,
    now: float,
) -> Job:
    if message.size > rules.max_body:
        raise _Bad("too_large", f"a body of {message.size} bytes, the limit is {rules.max_body}")
    not_before = _moment(properties, "x-worker-not-before")
    # A copy waits as long as its handler asked for; that is bounded by the job's age.
    is_copy = "x-worker-first-seen" in claims
    if not_before is not None and not_before > now + MAX_NOT_BEFORE and not is_copy:
        raise _Bad("malformed", "header x-worker-not-before is more than 30 days ahead")
    deadline = _moment(properties, "x-worker-deadline")
    first_seen = _first_seen(claims, now, not_before)
    payload = _payload(message, properties)
    return Job(
        id=job_id,
        type=_type(properties, rules),
        body=message.body,
        payload=payload,
        first_seen=first_seen,
        attempt=_count(claims, "x-worker-attempt", 1),
        snoozes=_count(claims, "x-worker-snoozes", 0),
        interruptions=_count(claims, "x-worker-interruptions", 0),
        crashes=_count(claims, "x-worker-crashes", 0),
        not_before=not_before,
        deadline=deadline,
        wait_deadline=_earliest(deadline, _expiry(properties, first_seen)),
        steps=decode_steps(_text(claims, "x-worker-steps")),
        history=_history(claims),
        properties=properties,
    )


def safe_id(text: str) -> str:
    """`text` when it can stand as an id (1 to 200 visible ASCII characters), else a hash of it."""
    if 0 < len(text) <= MAX_ID and all("!" <= char <= "~" for char in text):
        return text
    return f"sha256-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _believed(properties: Properties, rules: DecodeRules) -> Mapping[str, Any]:
    # The broker refuses a message whose user_id is not its publisher's own, so this name cannot be forged.
    return properties.headers if properties.user_id in rules.trusted_users else {}


def _type(properties: Properties, rules: DecodeRules) -> str:
    header = properties.headers.get("x-job-type")
    found = properties.type or (header if isinstance(header, str) else None) or rules.default_type
    if not found:
        raise _Bad("no_type", "set the property `type`, the header `x-job-type` or WORKER_DEFAULT_TYPE")
    return found


def _payload(message: Message, properties: Properties) -> Any:
    if properties.content_encoding:
        raise _Bad("malformed", "content_encoding is set: send the JSON itself")
    try:
        return strict_json.loads(message.body)
    except ValueError as error:
        raise _Bad("malformed", str(error)) from None


def _moment(properties: Properties, name: str) -> float | None:
    value = properties.headers.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_MILLISECONDS:
        raise _Bad("malformed", f"header {name} must be a number of milliseconds since 1970")
    return int(value) / 1000


def _first_seen(claims: Mapping[str, Any], now: float, not_before: float | None) -> float:
    claimed = claims.get("x-worker-first-seen")
    if isinstance(claimed, int) and not isinstance(claimed, bool) and 0 < claimed < MAX_MILLISECONDS:
        return claimed / 1000
    return max(now, not_before or now)


def _expiry(properties: Properties, first_seen: float) -> float | None:
    # The broker takes 32 bits of milliseconds and nothing but digits.
    expiration = properties.expiration or ""
    if not (expiration.isascii() and expiration.isdecimal() and len(expiration) <= 10):
        return None
    return first_seen + int(expiration) / 1000


def _earliest(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and value else None


def _count(claims: Mapping[str, Any], name: str, least: int) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return least
    return min(max(value, least), MAX_COUNT)


def _history(claims: Mapping[str, Any]) -> tuple[str, ...]:
    value = claims.get("x-worker-history")
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()
