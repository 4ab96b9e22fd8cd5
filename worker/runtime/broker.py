"""What the runtime needs of a broker: declared here by its user, fulfilled by `worker.amqp` and `worker.testing`."""

from __future__ import annotations

from typing import Protocol

from worker.core.message import Delivery, Epoch, Outgoing


class PublishFailed(Exception):
    """A publish that was not confirmed: it may or may not have arrived. Repeat it."""


class EpochLost(Exception):
    """The session of a delivery is gone: the broker has taken the delivery back and will hand it over again."""


class Receiver(Protocol):
    """Who is told what arrives. Called on the event loop; returns at once and never raises."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A message was handed over."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Consuming has begun under a new session."""

    def on_lost(self, epoch: Epoch) -> None:
        """The session is lost; `epoch.lost` is already set."""


class Broker(Protocol):
    """One work queue's door."""

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once the broker has confirmed the message; PublishFailed otherwise, within a deadline."""

    async def ack(self, delivery: Delivery) -> None:
        """The delivery is done. EpochLost when it is void."""

    async def requeue(self, delivery: Delivery) -> None:
        """Give the delivery back. EpochLost when it is void."""

    async def refuse(self, delivery: Delivery) -> None:
        """Let the broker dead-letter the delivery. EpochLost when it is void."""

    async def flush(self, epoch: Epoch) -> None:
        """Return once the broker has processed every settlement sent under `epoch` so far. EpochLost when it cannot."""
