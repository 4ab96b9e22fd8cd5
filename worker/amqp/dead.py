"""Dead letters as they are understood, whoever wrote them: the worker, the broker, or a stranger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from worker.amqp.connecting import Connected
from worker.amqp.holding import Holder, Slices
from worker.core.job import MAX_MILLISECONDS, safe_id
from worker.core.message import Message, Properties, Undecodable
from worker.core.outcome import REASONS
from worker.core.topology import Topology

_End = tuple[str | None, str, int, float | None]
"""Reason, detail, attempts and time."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A letter as it can be understood. `reason` None: nothing tells why it is here. `died_at` in epoch seconds.

    `id` is the job's; a message that has none goes by a hash of its body. `believed`: a trusted user wrote it, so
    that its x-worker-* headers count.
    """

    id: str
    type: str
    reason: str | None
    detail: str
    attempts: int
    died_at: float | None
    believed: bool
    message: Message

    @property
    def message_id(self) -> str | None:
        properties = self.message.properties
        return properties.message_id if isinstance(properties, Properties) else None

    def answers_to(self, id: str) -> bool:
        """Whether `id` is its job's or its message's."""
        return id in (self.id, self.message_id)


def read_letter(message: Message, topology: Topology, trusted: frozenset[str]) -> DeadLetter:
    """Understand a message of the dead queue. Never raises."""
    properties = message.properties
    if isinstance(properties, Undecodable):
        detail = f"undecodable properties: {properties.fault}"
        return DeadLetter(_hash(message.body), "", "malformed", detail, 0, None, False, message)
    believed = properties.user_id in trusted
    claims: Mapping[str, Any] = properties.headers if believed else {}
    named = _text(claims, "x-worker-id") or properties.message_id
    return DeadLetter(
        safe_id(named) if named else _hash(message.body),
        properties.type or _text(properties.headers, "x-job-type"),
        *_end(claims, _death(properties.headers, topology)),
        believed,
        message,
    )


def dead_letters(
    connected: Connected,
    topology: Topology,
    trusted: frozenset[str],
    keep_body: Callable[[DeadLetter], bool],
    slices: Slices,
) -> Holder[DeadLetter]:
    """The dead queue of a work queue, to be looked at. Bodies are kept where `keep_body` says so."""

    def read(message: Message) -> tuple[DeadLetter, int]:
        letter = read_letter(message, topology, trusted)
        if keep_body(letter):
            return letter, len(message.body)
        return replace(letter, message=replace(message, body=b"", announced=message.size)), 0

    return Holder(connected, topology.dead_name, read, slices)


def _death(headers: Mapping[str, Any], topology: Topology) -> Mapping[str, Any] | None:
    """How the broker moved it here, the newest entry first; a wait that ended is an entry, too, of another queue."""
    deaths = headers.get("x-death")
    entries = deaths if isinstance(deaths, list) else []
    sources = (topology.name, topology.suspect_name)
    return next((one for one in entries if isinstance(one, dict) and one.get("queue") in sources), None)


def _end(claims: Mapping[str, Any], death: Mapping[str, Any] | None) -> _End:
    reason, detail, attempts, died_at = (
        _end_by_the_worker(claims) if death is None else _end_by_the_broker(death, claims)
    )
    # Publishers can write an x-death of their own: what is no date would be none to print either.
    is_date = died_at is not None and 0 < died_at < MAX_MILLISECONDS / 1000
    return reason, detail, attempts, died_at if is_date else None


def _end_by_the_worker(claims: Mapping[str, Any]) -> _End:
    reason = _text(claims, "x-worker-reason")
    if reason not in REASONS:
        return None, "put here by neither the worker nor the broker", 0, None
    attempts = _count(claims, "x-worker-attempt")
    return reason, _text(claims, "x-worker-detail"), attempts, _moment(claims) or _guessed(claims, attempts)


def _end_by_the_broker(death: Mapping[str, Any], claims: Mapping[str, Any]) -> _End:
    # It was not copied, so what it counts is the attempt that would have run.
    return *_why(death), max(_count(claims, "x-worker-attempt") - 1, 0), _time(death)


def _why(death: Mapping[str, Any]) -> tuple[str | None, str]:
    where = death.get("queue")
    match death.get("reason"):
        case "expired":
            return "expired", f"its expiration passed while it was queued in {where}"
        case "delivery_limit":
            return "delivery_limit", f"the broker gave up delivering it from {where}"
        case "rejected":
            return "too_large", f"refused in {where} without being read"
        case _:
            return None, f"dead-lettered by the broker from {where}"


def _time(death: Mapping[str, Any]) -> float | None:
    time = death.get("time")
    return float(time) if isinstance(time, int) and not isinstance(time, bool) else None


def _moment(claims: Mapping[str, Any]) -> float | None:
    died_at = _count(claims, "x-worker-died-at")
    return died_at / 1000 if 0 < died_at < MAX_MILLISECONDS else None


def _guessed(claims: Mapping[str, Any], attempts: int) -> float | None:
    """For letters of workers that did not write it down."""
    return _last_end(claims) if attempts else _first_delivery(claims)


def _last_end(claims: Mapping[str, Any]) -> float | None:
    """When the last attempt ended, as the history tells: number, start, duration, result."""
    history = claims.get("x-worker-history")
    last = history[-1] if isinstance(history, list) and history else None
    words = last.split(" ", 3) if isinstance(last, str) else []
    try:
        return datetime.fromisoformat(words[1]).timestamp() + float(words[2].removesuffix("s"))
    except (ValueError, IndexError, OverflowError):
        return None


def _first_delivery(claims: Mapping[str, Any]) -> float | None:
    """When a job died that neither ran nor waited."""
    first_seen = _count(claims, "x-worker-first-seen")
    return first_seen / 1000 if first_seen and not _count(claims, "x-worker-snoozes") else None


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""


def _count(headers: Mapping[str, Any], name: str) -> int:
    value = headers.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _hash(body: bytes) -> str:
    # Of the body alone: the properties are not the same each time, the broker counts deliveries in them.
    return f"sha256-{hashlib.sha256(body).hexdigest()}"
