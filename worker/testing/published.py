"""What a job publishes, kept aside for its test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.core.message import Outgoing, Properties, own_headers
from worker.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Published:
    """A job, or a reply, that was published by a job.

    `headers` are those of its publisher; `delay` and `deadline` in seconds, counted from when it was published.
    """

    queue: str
    id: str | None
    type: str | None
    payload: Any
    headers: Mapping[str, Any]
    delay: float = 0.0
    deadline: float | None = None
    correlation_id: str | None = None


class Aside:
    """Takes what a job publishes out of its way: not its own retries and dead letter, which stay with the broker."""

    def __init__(self, id: str, clock: Clock) -> None:
        self._id = id
        self._clock = clock
        self.published: list[Published] = []

    def takes(self, outgoing: Outgoing) -> bool:
        """Whether it was no copy of the job, and so is kept here."""
        properties = outgoing.message.properties
        assert isinstance(properties, Properties)
        if properties.headers.get("x-worker-id") == self._id:
            return False
        self.published.append(self._read(outgoing, properties))
        return True

    def _read(self, outgoing: Outgoing, properties: Properties) -> Published:
        return Published(
            queue=outgoing.queue,
            id=properties.message_id,
            type=properties.type,
            payload=json.loads(outgoing.message.body),
            headers=own_headers(properties.headers),
            delay=self._from_now(properties, "x-worker-not-before") or 0.0,
            deadline=self._from_now(properties, "x-worker-deadline"),
            correlation_id=properties.correlation_id,
        )

    def _from_now(self, properties: Properties, name: str) -> float | None:
        moment = properties.headers.get(name)
        return None if moment is None else moment / 1000 - self._clock.now()
