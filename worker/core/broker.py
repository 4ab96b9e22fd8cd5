"""What the way of a job needs of a broker, fulfilled by `worker.amqp` and by `worker.testing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from worker.core.message import Delivery, Epoch, Outgoing


class PublishFailed(Exception):
    """A publish that was not confirmed: it may or may not have arrived. Repeat it."""


class Undeliverable(PublishFailed):
    """The broker is there and does not take the message: its queue refuses."""


class Unroutable(Undeliverable):
    """The queue does not exist."""


class EpochLost(Exception):
    """The session of a delivery is gone: the broker has taken the delivery back and will hand it over again."""


class Receiver(Protocol):
    """Who is told what one queue delivers. Called on the event loop; returns at once and never raises."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A message was handed over."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Consuming has begun under a new session."""

    def on_lost(self, epoch: Epoch) -> None:
        """The session is lost; `epoch.lost` is already set."""


class Broker(Protocol):
    """The door to one work queue and the queues around it."""

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once the broker has confirmed the message; PublishFailed otherwise."""

    async def ack(self, delivery: Delivery) -> None:
        """The delivery is done. EpochLost when it is void."""

    async def requeue(self, delivery: Delivery) -> None:
        """Give the delivery back. EpochLost when it is void."""

    async def refuse(self, delivery: Delivery) -> None:
        """Let the broker dead-letter the delivery. EpochLost when it is void."""

    async def flush(self, epoch: Epoch) -> None:
        """Return once the broker has received every settlement sent under `epoch` so far. EpochLost when it cannot."""

    async def pause(self) -> None:
        """Deliver nothing more until `resume()`, under a new session neither; what is here can still be settled.

        Nothing is delivered any more once this has returned.
        """

    async def resume(self) -> None:
        """Deliver again, under the same epoch if its session still lives. Held are no more than the lane's prefetch."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue to consume from, how many of its messages to hold at once, and who is told of them."""

    queue: str
    prefetch: int
    receiver: Receiver
