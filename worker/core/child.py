"""A job that another job brings forth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.core.job import MAX_NOT_BEFORE, Job, safe_id
from worker.core.message import Message, Outgoing, Properties, is_reserved
from worker.core.wire_size import table_size

LONGEST_TYPE: Final = 255
LONGEST_NAME: Final = 128
"""Of a header: what AMQP allows."""

HEADERS_LIMIT: Final = 32 * 1024
"""What the headers of a child job may take in its frame, in bytes."""


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A job to publish on behalf of another one; its id is `<job id>/<name>`.

    `delay` (seconds, at most 30 days) is the earliest start, `deadline` (seconds from now) the end of its life. Without
    `queue` it goes into the work queue of its parent. A ValueError names what cannot be published.
    """

    name: str
    type: str
    payload: Any = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    deadline: float | None = None
    queue: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a child job needs a name: its id is <job id>/<name>")
        if not 0 < len(self.type.encode("utf-8", "replace")) <= LONGEST_TYPE:
            raise ValueError(f"child job {self.name!r}: a type of 1 to {LONGEST_TYPE} bytes is needed")
        if not 0 <= self.delay <= MAX_NOT_BEFORE:
            raise ValueError(f"child job {self.name!r}: delay={self.delay!r}: 0 s to 30 days are possible")
        if self.deadline is not None and not self.deadline > self.delay:
            raise ValueError(f"child job {self.name!r}: deadline={self.deadline!r}: it must lie behind the delay")
        if self.queue is not None and not 0 < len(self.queue.encode("utf-8", "replace")) <= LONGEST_TYPE:
            raise ValueError(f"child job {self.name!r}: a queue name of 1 to {LONGEST_TYPE} bytes is needed")
        if fault := _headers_fault(self.headers):
            raise ValueError(f"child job {self.name!r}: {fault}")

    def id(self, parent: Job) -> str:
        """Its job id."""
        return safe_id(f"{parent.id}/{self.name}")

    def message(self, parent: Job, body: bytes, *, queue: str, now: float, traceparent: str) -> Outgoing:
        """What is published. `body` is the payload as JSON, `queue` the parent's work queue, `now` in epoch seconds."""
        headers = {"traceparent": traceparent, **self.headers}
        if self.delay:
            headers["x-worker-not-before"] = round((now + self.delay) * 1000)
        if self.deadline is not None:
            headers["x-worker-deadline"] = round((now + self.deadline) * 1000)
        properties = Properties(
            type=self.type,
            message_id=self.id(parent),
            content_type="application/json",
            timestamp=int(now),
            headers=headers,
        )
        return Outgoing(self.queue or queue, Message(body, properties))


def _headers_fault(headers: Mapping[str, Any]) -> str:
    """What keeps headers from being published; they would break the connection that all jobs share."""
    for name, value in headers.items():
        if not _is_name(name):
            return f"header {str(name)[:60]!r}: a name of at most {LONGEST_NAME} bytes of text is needed"
        if is_reserved(name):
            return f"header {name!r} is the broker's or the worker's to write"
        if not _is_plain(value):
            return f"header {name!r}: text, bytes, a number, a boolean, None, or lists and objects of them are needed"
    if table_size(headers) > HEADERS_LIMIT:
        return f"the headers are above {HEADERS_LIMIT} bytes: put it into the payload"
    return ""


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and not _has_surrogates(name) and len(name.encode()) <= LONGEST_NAME


def _is_plain(value: Any) -> bool:
    match value:
        case str():
            return not _has_surrogates(value)
        case None | bool() | float() | bytes():
            return True
        case int():
            return -(2**63) <= value < 2**63
        case list():
            return all(map(_is_plain, value))
        case dict():
            return all(_is_name(name) and _is_plain(item) for name, item in value.items())
        case _:
            return False


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)
