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
from worker.core.outcome import Reason
from worker.core.topology import Topology

RESULT_LIMIT: Final = 256 * 1024
"""Longest result as JSON, in bytes."""


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
    read_value: Callable[[], tuple[Any, str]] = lambda: (None, "")
    """Gives the value, or None and what kept it from being JSON; called when first needed, for few jobs are asked."""

    @property
    def value(self) -> Any:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[Any, str]:
        return self.read_value()

    def as_dict(self) -> dict[str, Any]:
        """What is sent: at most 256 KiB as JSON, a larger value becomes `{"truncated": bytes}`."""
        value, fault = self._read
        told = {
            "id": self.id,
            "type": self.type,
            "status": self.status,
            "attempts": self.attempts,
            "value": value,
            "reason": self.reason,
            "detail": self.detail or fault or None,
        }
        if value is not None and (size := len(encoded(told))) > RESULT_LIMIT:
            told["value"] = {"truncated": size - len(encoded(told | {"value": None})) + len("null")}
        return told


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
    return Outgoing(properties.reply_to, Message(encoded(result.as_dict()), reply), optional=True)


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
