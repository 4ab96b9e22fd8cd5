"""Replies to jobs that this process publishes: a queue of its own, for as long as its connection lasts.

An exclusive queue that the broker names, and not direct reply-to: it keeps replies while the reader is slow or busy
publishing, takes them from any channel and node, and a worker whose reply comes too late is told that the queue is gone
(direct reply-to confirms what nobody gets, and wants the job published on the very channel that reads).
Neither outlives the connection; a queue that did would be left behind by everyone who does not come back for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final, Self

from aiormq.exceptions import ChannelAccessRefused
from pamqp import commands

from worker.amqp.connecting import BROKEN, Connected, Refused, Unreachable, rpc
from worker.amqp.session import Session
from worker.core.broker import EpochLost, Lane
from worker.core.message import Delivery, Epoch, Properties

PREFETCH: Final = 500
"""Replies that are here and not yet read, at most; the others stay at the broker."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as it came. `correlation_id` None: it does not tell what it answers."""

    correlation_id: str | None
    body: bytes


class Replies:
    """A queue of this connection's own; `queue` is its name, for `reply_to`. `close()` deletes it."""

    def __init__(self, connected: Connected, queue: str) -> None:
        self._connected = connected
        self._session = Session(connected)
        self._arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self.queue: Final = queue

    @classmethod
    async def over(cls, connected: Connected) -> Self:
        """Declare the queue and consume from it; the connection is closed with it. Raises Unreachable or Refused."""
        try:
            replies = cls(connected, await _own_queue(connected))
            await replies._session.open([Lane(replies.queue, PREFETCH, replies)], lambda: Epoch(1))
        except Unreachable as error:
            await connected.close()
            if isinstance(error.__cause__, ChannelAccessRefused):
                raise _no_right(error.__cause__) from error
            raise
        except BaseException:
            await connected.close()
            raise
        return replies

    async def next(self) -> Reply:
        """The next reply. Unreachable once the connection is lost and what came before is read: no more will come."""
        delivery = await self._arrived.get()
        if delivery is None:
            self._arrived.put_nowait(None)
            raise Unreachable(f"{self._connected.node.shown}: {self._session.reason}")
        with contextlib.suppress(EpochLost):  # it is here, and the queue is gone
            await self._session.settle(delivery, commands.Basic.Ack(delivery_tag=delivery.tag))
        properties = delivery.message.properties
        correlation_id = properties.correlation_id if isinstance(properties, Properties) else None
        return Reply(correlation_id, delivery.message.body)

    async def close(self) -> None:
        """End the connection, and the queue with it."""
        await self._session.close()

    # What the session calls.

    def on_delivery(self, delivery: Delivery) -> None:
        self._arrived.put_nowait(delivery)

    def on_epoch(self, epoch: Epoch) -> None:
        pass

    def on_lost(self, epoch: Epoch) -> None:  # noqa: ARG002 - what a Receiver is told
        self._arrived.put_nowait(None)


async def _own_queue(connected: Connected) -> str:
    try:
        channel = await rpc(connected.amqp.channel(publisher_confirms=False))
        declared: Any = await rpc(channel.queue_declare("", exclusive=True))
    except ChannelAccessRefused as error:
        raise _no_right(error) from error
    except BROKEN as error:
        raise Unreachable(f"{connected.node.shown}: no queue for replies: {error}") from error
    return str(declared.queue)


def _no_right(error: Exception) -> Refused:
    return Refused(f"no queue for replies: {error}; give the broker user the rights to configure and read amq.gen-*")
