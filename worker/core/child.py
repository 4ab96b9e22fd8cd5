"""A job that another job brings forth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.core.job import MAX_NOT_BEFORE, Job, safe_id
from worker.core.message import HEADER_PREFIX, Message, Outgoing, Properties

LONGEST_TYPE: Final = 255


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
        if own := [name for name in self.headers if name.startswith(HEADER_PREFIX)]:
            raise ValueError(f"child job {self.name!r}: header {own[0]!r}: x-worker-* headers are the worker's own")

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
