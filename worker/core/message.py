"""What the broker hands over and takes back: messages as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

HEADER_PREFIX: Final = "x-worker-"
BROKER_HEADERS: Final = frozenset({"CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"})
BROKER_PREFIXES: Final = ("x-death", "x-first-death-", "x-last-death-", "x-opt-")


@dataclass(frozen=True, slots=True)
class Properties:
    """The AMQP properties of a message; None where the publisher set none."""

    type: str | None = None
    message_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    priority: int | None = None
    timestamp: int | None = None
    app_id: str | None = None
    user_id: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Properties that cannot be read: their raw bytes, and what is wrong with them."""

    raw: bytes
    fault: str


@dataclass(frozen=True, slots=True)
class Message:
    """A body and its properties.

    `announced` is the body's size as the header frame gave it. It differs from `len(body)` only when the body was
    not buffered because it is far too large.
    """

    body: bytes
    properties: Properties | Undecodable
    announced: int = -1

    @property
    def size(self) -> int:
        return len(self.body) if self.announced < 0 else self.announced

    @property
    def buffered(self) -> bool:
        return self.announced < 0 or self.announced == len(self.body)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way to a queue, by the default exchange.

    It is published again and again until it is confirmed. What is only needed `if_routable` is given up when its queue
    turns out to be missing, `if_taken` also when its queue refuses it.
    """

    queue: str
    message: Message
    needed: Literal["always", "if_routable", "if_taken"] = "always"


class Epoch:
    """One life of the session that delivers. Once lost, nothing delivered under it can be settled any more."""

    __slots__ = ("lost", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost = False


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One hand-over of a message; owes the broker exactly one settlement within its epoch.

    `received` is a monotonic time in seconds.
    """

    message: Message
    tag: int
    redelivered: bool
    epoch: Epoch
    received: float

    @property
    def delivery_count(self) -> int:
        """Earlier deliveries that failed, as the broker counts them.

        Only on a redelivery: on a first delivery the header is whatever the publisher wrote.
        """
        if not self.redelivered or isinstance(self.message.properties, Undecodable):
            return 0
        count = self.message.properties.headers.get("x-delivery-count")
        return count if isinstance(count, int) else 0


def own_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The publisher's own headers: neither the broker's nor the worker's. These a copy may keep."""
    return {name: value for name, value in headers.items() if not is_reserved(name)}


def is_reserved(header: str) -> bool:
    """Whether a header of that name is the broker's or the worker's to write."""
    return header in BROKER_HEADERS or header.startswith((*BROKER_PREFIXES, HEADER_PREFIX))
