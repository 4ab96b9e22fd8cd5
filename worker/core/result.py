"""How a job ended, as its requester is told: the body of replies and callbacks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from worker.core.job import safe_id
from worker.core.message import Message, Outgoing, Properties
from worker.core.outcome import DETAIL_LIMIT, Reason
from worker.core.topology import Topology

RESULT_LIMIT: Final = 256 * 1024
"""Longest result as JSON, in bytes."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a handler returned as plain JSON, and its size in bytes; or None, and the fault that keeps it from that."""

    plain: Any = None
    size: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Result:
    """How a job ended for good: `succeeded` with a value, or `dead` with a reason and a detail.

    `attempts` is how many were made, 0 if it never ran. `value` is what the handler returned, as plain JSON; None when
    the job is dead, or returned what cannot be JSON.
    """

    id: str
    type: str
    status: Literal["succeeded", "dead"]
    attempts: int
    reason: Reason | None = None
    detail: str = ""
    read_value: Callable[[], Value] = Value
    """Called when the value is first needed, for few jobs are asked for it."""

    @property
    def value(self) -> Any:
        return self._value.plain

    @cached_property
    def _value(self) -> Value:
        return self.read_value()

    def as_dict(self) -> dict[str, Any]:
        """What is sent: at most 256 KiB as JSON, a larger value becomes `{"truncated": bytes}`."""
        told = {
            "id": self.id,
            "type": self.type,
            "status": self.status,
            "attempts": self.attempts,
            "value": None,
            "reason": self.reason,
            "detail": (self.detail or self._value.fault)[:DETAIL_LIMIT] or None,
        }
        room = RESULT_LIMIT - len(encoded(told)) + len("null")
        # Of megabytes the size is known: they are not written out to be thrown away.
        size = self._value.size if self._value.size > room else len(encoded(self.value))
        return told | {"value": {"truncated": size} if size > room else self.value}


def encoded(value: Any) -> bytes:
    """As compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """Where replies may go: names with `*` for anything, and never a queue of the worker's own."""

    topology: Topology
    allow: Sequence[str] = ("amq.rabbitmq.reply-to.*", "amq.gen-*", "replies.*")

    def allows(self, queue: str) -> bool:
        """Whether a publisher may have its result sent there."""
        return not self.topology.owns(queue) and any(_matches(pattern, queue) for pattern in self.allow)


def reply_message(result: Result, properties: Properties) -> Outgoing:
    """The reply to whoever asked for it with `properties`. Its id is the same in every repetition."""
    assert properties.reply_to
    reply = Properties(
        message_id=safe_id(f"{result.id}/reply"),
        correlation_id=properties.correlation_id,
        content_type="application/json",
    )
    return Outgoing(properties.reply_to, Message(encoded(result.as_dict()), reply), needed="if_taken")


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
