"""Holding the messages of a queue without taking them: the one way AMQP has of looking into a queue.

Messages are consumed and not settled, a slice at a time, so that no more is in memory than one slice. Each slice has a
consumer of its own that is cancelled before anything of it is settled, or the broker would fill the room up at once.
At the end what is still held is given back in the order in which it came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from aiormq.exceptions import ChannelAccessRefused
from pamqp import commands

from worker.amqp.codec import decode_properties
from worker.amqp.connecting import BROKEN, LAST_ACKS, RPC_SECONDS, Connected, Refused, Unreachable, loss_as_error, rpc
from worker.amqp.frames import DeliveryChannel, never_called, open_delivery_channel
from worker.amqp.queues import passive_count
from worker.core.message import Message

T = TypeVar("T")

QUIET: Final = 2.0
"""Seconds without a message after which the rest is taken to be with another reader."""

CONSUMERS: Final = 30
"""Most consumers of one channel: when it ends, a quorum queue gives back by consumer, and only so few in order."""


HELD: Final = 4000
"""Messages after which a channel is left alone: to find the one that is acknowledged the broker goes through them."""


@dataclass(frozen=True, slots=True)
class Slices:
    """How much is held at once: messages of one slice, and the bytes of their bodies."""

    messages: int = 500
    body_bytes: int = 16 * 1024 * 1024


BODILESS: Final = Slices(messages=2000)
"""For readers that keep no bodies: what a quorum queue hands to one consumer at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Held(Generic[T]):
    """What a message is, and the delivery that holds it."""

    what: T
    channel: DeliveryChannel
    tag: int


Read = Callable[[Message], tuple[T, int]]
"""From a message to what is kept of it, and how many bytes of body are among that. Never raises."""


class Holder(Generic[T]):
    """Holds what is in `queue` over a connection of its own. `close()` gives back whatever was not taken.

    Raises Unreachable when the broker goes away, Refused when there is no such queue or no right to read it.
    """

    def __init__(self, connected: Connected, queue: str, read: Read[T], slices: Slices = Slices()) -> None:
        self._connected = connected
        self._queue = queue
        self._read = read
        self._slices = slices
        self._channels: list[DeliveryChannel] = []
        self._holds: dict[DeliveryChannel, int] = {}
        """How many messages each channel holds."""
        self._consumers = 0
        self._lost = ""
        self._closing = False

    async def number(self) -> int:
        """How many messages are there that nobody holds."""
        try:
            total = await passive_count(self._connected.amqp, self._queue)
        except ChannelAccessRefused as error:
            raise _no_right(self._queue, error) from error
        except BROKEN as error:
            raise self._unreachable(str(error)) from error
        if total is None:
            text = f"queue {self._queue!r} does not exist: is WORKER_QUEUE right? A worker that runs declares it"
            raise Refused(text)
        return total

    async def slices(self, window: int) -> AsyncIterator[list[Held[T]]]:
        """The first `window` messages, the oldest first, until that many were held or no more come."""
        left = window
        while left > 0:
            held, is_all = await self._slice(min(left, self._slices.messages))
            if held:
                yield held
            left -= len(held)
            if is_all:
                return

    async def take(self, held: Held[T]) -> None:
        """Acknowledge a message: it is gone. Unreachable when the broker has it back already."""
        await self._call(held.channel.basic_ack(held.tag, wait=False))
        self._holds[held.channel] -= 1

    async def flush(self) -> None:
        """Return once what was taken is safe. Unreachable when it cannot be known."""
        await self._round_trips()
        await asyncio.sleep(LAST_ACKS)
        await self._round_trips()

    async def give_back(self) -> None:
        """Give everything back, in order; the connection stays."""
        self._closing = True
        with contextlib.suppress(Unreachable, Refused):  # the broker has it back
            for channel in self._channels:
                await self._give_back(channel)

    async def close(self) -> None:
        """Give everything back, in order, and end the connection."""
        try:
            await self.give_back()
        finally:
            await self._connected.close()

    async def _give_back(self, channel: DeliveryChannel) -> None:
        # Not by a nack of many: a quorum queue of 3.10 takes those back in no order at all.
        await self._round_trip(channel)
        await self._call(rpc(channel.close(None)))

    async def _slice(self, wanted: int) -> tuple[list[Held[T]], bool]:
        """The next messages, and whether no more come."""
        channel = await self._channel()
        pile = _Pile(wanted, channel, self._read, self._slices.body_bytes)
        channel.on_message = pile.on_message
        tag = f"slice-{self._consumers:02}"
        self._consumers += 1
        await self._call(rpc(channel.basic_qos(prefetch_count=wanted)))
        await self._call(rpc(channel.basic_consume(self._queue, never_called, consumer_tag=tag)))
        await pile.complete(lambda: bool(self._lost))
        await self._call(rpc(channel.basic_cancel(tag)))  # behind everything that is on its way
        for one in pile.too_much:
            await self._call(channel.basic_nack(one, requeue=True, wait=False))
        self._holds[channel] += len(pile.held)
        return pile.held, not pile.is_complete

    async def _channel(self) -> DeliveryChannel:
        if not self._channels or self._consumers == CONSUMERS or self._holds[self._channels[-1]] >= HELD:
            opening = open_delivery_channel(self._connected.amqp, _nothing, timeout=RPC_SECONDS)
            channel = await self._call(opening)
            channel.closing.add_done_callback(self._on_closed)
            channel.on_consumer_cancel_callbacks.add(self._on_cancelled)
            self._channels.append(channel)
            self._holds[channel] = 0
            self._consumers = 0
        return self._channels[-1]

    async def _round_trips(self) -> None:
        for channel in self._channels:
            await self._round_trip(channel)

    async def _round_trip(self, channel: DeliveryChannel) -> None:
        await self._call(rpc(channel.basic_qos(prefetch_count=1)))

    async def _call(self, call: Awaitable[Any]) -> Any:
        try:
            with loss_as_error():
                async with asyncio.timeout(RPC_SECONDS):
                    found = await call
        except ChannelAccessRefused as error:
            raise _no_right(self._queue, error) from error
        except BROKEN as error:
            raise self._unreachable(self._lost or str(error) or type(error).__name__) from error
        if self._lost:
            raise self._unreachable(self._lost)
        return found

    def _unreachable(self, reason: str) -> Unreachable:
        return Unreachable(f"{self._connected.node.shown}: {reason}")

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        if not self._closing:
            self._lost = self._lost or str(error or "the channel was closed")

    def _on_cancelled(self, _frame: commands.Basic.Cancel) -> None:
        self._lost = self._lost or f"the broker cancelled the consumer of {self._queue}"


class _Pile(Generic[T]):
    """Collects the messages of one slice."""

    def __init__(self, wanted: int, channel: DeliveryChannel, read: Read[T], room: int) -> None:
        self._wanted = wanted
        self._channel = channel
        self._read = read
        self._room = room
        self._news = asyncio.Event()
        self.held: list[Held[T]] = []
        self.too_much: list[int] = []
        """The delivery tags for which there is no room, and of all that came after: they come again, next slice."""

    def on_message(self, deliver: commands.Basic.Deliver, raw: bytes, body: bytes, announced: int) -> None:
        assert deliver.delivery_tag is not None
        what, size = self._read(Message(body, decode_properties(raw), announced))
        if self.too_much or (size > self._room and self.held):
            self.too_much.append(deliver.delivery_tag)
        else:
            self._room -= size
            self.held.append(Held(what, self._channel, deliver.delivery_tag))
        self._news.set()

    @property
    def is_complete(self) -> bool:
        return len(self.held) + len(self.too_much) >= self._wanted

    async def complete(self, is_over: Callable[[], bool]) -> None:
        """Return when all have come, when none came for a while, or when none can come."""
        with contextlib.suppress(TimeoutError):
            while not self.is_complete and not is_over():
                self._news.clear()
                async with asyncio.timeout(QUIET):
                    await self._news.wait()


def _no_right(queue: str, error: Exception) -> Refused:
    return Refused(f"queue {queue!r}: {error}; give the broker user the right to read it")


def _nothing(*_delivery: Any) -> None:
    """For a channel nobody consumes from yet."""
