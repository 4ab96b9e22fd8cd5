"""The queues around one work queue, as values: work queue, wait ladder, suspects, dead queue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

RUNGS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Waits of the ladder, in seconds: one queue each."""

QueueType = Literal["quorum", "classic"]

WORK_DELIVERY_LIMIT: Final = 1_000
"""High, because on brokers before 4.3 every give-back counts, and explicit, because 4.x would otherwise take 20."""

DEAD_DELIVERY_LIMIT: Final = 1_000_000_000
"""Nothing may fall out of the dead queue, however often it is read."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and the arguments it is declared with. Arguments cannot be changed later."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rights:
    """What a broker user needs in a vhost: regular expressions, as RabbitMQ's permissions are."""

    configure: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Every queue that belongs to the work queue `name`."""

    name: str
    queue_type: QueueType = "quorum"

    @property
    def work(self) -> Queue:
        return Queue(self.name, self._returning_to(self.dead_name) | self._delivery_limit(WORK_DELIVERY_LIMIT))

    @property
    def suspect(self) -> Queue:
        """Where jobs wait that were seen by two crashes; they run one at a time in a child process."""
        return Queue(self.suspect_name, self.work.arguments)

    @property
    def dead(self) -> Queue:
        return Queue(self.dead_name, self._type() | self._delivery_limit(DEAD_DELIVERY_LIMIT))

    def wait(self, rung: int) -> Queue:
        """The queue that holds a message for `rung` seconds and then returns it to the work queue."""
        ttl = {"x-message-ttl": rung * 1000}
        return Queue(self.wait_name(rung), self._returning_to(self.name) | ttl)

    @property
    def waits(self) -> tuple[Queue, ...]:
        return tuple(self.wait(rung) for rung in RUNGS)

    @property
    def dead_name(self) -> str:
        return f"{self.name}.dead"

    @property
    def suspect_name(self) -> str:
        return f"{self.name}.suspect"

    def wait_name(self, rung: int) -> str:
        return f"{self.name}.wait.{rung}s"

    def queue_for(self, delay: float) -> str:
        """Where a message waits next: the largest rung that fits, the work queue itself below the smallest."""
        rung = rung_for(delay)
        return self.name if rung is None else self.wait_name(rung)

    @property
    def queues(self) -> tuple[Queue, ...]:
        """All of them."""
        return (self.work, self.suspect, self.dead, *self.waits)

    def wait_called(self, name: str) -> Queue | None:
        """The wait queue of that name, None when it is none of the ladder."""
        return next((queue for queue in self.waits if queue.name == name), None)

    def rights(self, *, declares: bool) -> Rights:
        """The least a worker can do with. Only one that declares its queues may create and delete them."""
        names = rf"^{re.escape(self.name)}(\.dead|\.suspect|\.wait\.[0-9]+s)?$"
        # Whoever declares a dead-letter exchange needs to write to it: the default one, as for publishing.
        return Rights(names if declares else "^$", r"^amq\.default$", names)

    def owns(self, name: str) -> bool:
        """Whether a queue of that name belongs to this topology."""
        return name in {self.name, self.dead_name, self.suspect_name} or self.wait_called(name) is not None

    def _type(self) -> dict[str, Any]:
        return {"x-queue-type": self.queue_type}

    def _delivery_limit(self, limit: int) -> dict[str, Any]:
        return {"x-delivery-limit": limit} if self.queue_type == "quorum" else {}

    def _returning_to(self, queue: str) -> dict[str, Any]:
        arguments = self._type() | {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
            "x-overflow": "reject-publish",
        }
        if self.queue_type == "quorum":
            # At-most-once dead-lettering, the default, measurably loses messages whose wait ends during a restart.
            arguments["x-dead-letter-strategy"] = "at-least-once"
        return arguments


def rung_for(delay: float) -> int | None:
    """The largest rung not above `delay` seconds; None below the smallest."""
    return next((rung for rung in reversed(RUNGS) if rung <= delay), None)
