"""One epoch of consuming: a connection, a channel for each lane, and the news that it is lost.

On any trouble (connection, channel, consumer cancelled by the broker) the whole session is given up: what remains of
a channel after an error is not to be trusted, neither in the client nor in the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.base import Frame

from worker.amqp.codec import decode_properties
from worker.amqp.connecting import (
    BROKEN,
    CLOSE_SECONDS,
    RPC_SECONDS,
    Connected,
    Mark,
    Unreachable,
    loss_as_error,
    rpc,
)
from worker.amqp.frames import DeliveryChannel, open_delivery_channel
from worker.core.broker import EpochLost, Lane
from worker.core.message import Delivery, Epoch, Message

log = structlog.get_logger("worker.session")

CANCEL_SECONDS: Final = 5.0
LAST_ACKS: Final = 0.3
"""Seconds after a round trip until a quorum queue has really taken the acks sent before it."""


@dataclass(slots=True)
class _Consumer:
    lane: Lane
    channel: DeliveryChannel
    tag: str = ""


class Session:
    """Deliveries of some lanes under one connection. `open()` starts it; `lost` is set when it is over."""

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._consumers: dict[Epoch, _Consumer] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._consuming = False
        self._unsettled = 0
        self._all_settled = asyncio.Event()
        self._all_settled.set()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reason = ""
        """Why it is lost."""

    async def open(self, lanes: Iterable[Lane], new_epoch: Callable[[], Epoch]) -> None:
        """Consume. Raises Unreachable, and is lost then, when the broker goes away or refuses meanwhile."""
        self._connected.amqp.closing.add_done_callback(partial(self._closed, "connection"))
        try:
            with loss_as_error():
                for lane in lanes:
                    await self._consume(lane, new_epoch())
        except BROKEN as error:
            self.lose(f"{type(error).__name__}: {error}")
            raise Unreachable(f"{self._connected.node.shown}: consuming failed: {error}") from error
        self._consuming = True

    @property
    def mark(self) -> Mark:
        """What its connection was made with."""
        return self._connected.mark

    @property
    def is_lost(self) -> bool:
        return self._over.done()

    @property
    def is_open(self) -> bool:
        """Whether all its lanes are delivered."""
        return self._consuming and not self.is_lost

    def delivered(self, epoch: Epoch) -> bool:
        """Whether `epoch` is one of its own."""
        return epoch in self._consumers

    def announce(self) -> None:
        """Tell the receivers once more that it is this session that delivers, after the loss of another one."""
        for epoch, consumer in self._consumers.items():
            consumer.lane.receiver.on_epoch(epoch)

    async def lost(self) -> None:
        """Return once the session is lost."""
        await asyncio.shield(self._over)

    def lose(self, reason: str) -> None:
        """Give the session up: its deliveries are void, the broker has them back or will have."""
        if self.is_lost:
            return
        self.reason = reason
        self._over.set_result(None)
        for epoch in self._consumers:
            epoch.lost = True
        for epoch, consumer in self._consumers.items():
            consumer.lane.receiver.on_lost(epoch)

    async def settle(self, delivery: Delivery, frame: Frame) -> None:
        """Send the one frame that settles `delivery`. EpochLost when it is void.

        That it was sent is all one can know: no broker confirms a settlement.
        """
        consumer = self._consumers.get(delivery.epoch)
        if consumer is None or delivery.epoch.lost:
            raise EpochLost
        if consumer.channel.is_closed:
            self.lose("the channel is closed")
            raise EpochLost
        queue = consumer.channel.write_queue
        sent = ChannelFrame.marshall(channel_number=consumer.channel.number, frames=[frame])
        try:
            queue.put_nowait(sent)
        except asyncio.QueueFull:
            await self._put(queue, sent)
        self._unsettled -= 1
        if not self._unsettled:
            self._all_settled.set()

    async def flush(self, epoch: Epoch) -> None:
        """A round trip on the channel of `epoch`, behind everything sent on it so far. EpochLost when there is none."""
        consumer = self._consumers.get(epoch)
        if consumer is None or epoch.lost:
            raise EpochLost
        # Not one that is on its way already: what was sent since is behind it.
        flushing = asyncio.create_task(self._round_trip(consumer))
        self._flushing.add(flushing)
        flushing.add_done_callback(self._flushing.discard)
        # A call on a live channel must not be cancelled: the library closes the channel then.
        await asyncio.shield(flushing)
        if epoch.lost:
            raise EpochLost

    async def stop_consuming(self) -> None:
        """No more deliveries; those that are here can still be settled."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._cancel_all())
        await asyncio.shield(self._stopping)  # as with flush(): whoever waits for it may be cancelled, the call may not

    async def finish(self) -> None:
        """No more deliveries; return once those that are here are settled and safe, or the session is lost."""
        await self.stop_consuming()
        settled = asyncio.ensure_future(self._all_settled.wait())
        ends: set[asyncio.Future[Any]] = {settled, self._over}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        with contextlib.suppress(EpochLost):
            await self.flush_all()
            await asyncio.sleep(LAST_ACKS)
            await self.flush_all()

    async def flush_all(self) -> None:
        """A round trip on each of its channels. EpochLost when it is lost."""
        for epoch in list(self._consumers):
            await self.flush(epoch)

    async def close(self) -> None:
        """End the connection; whatever is not settled goes back to its queue."""
        await self._connected.close()
        self.lose("closed")

    async def hang_up(self) -> None:
        """End the connection of a session that has finished. Nothing is lost with it, so nobody is told."""
        if not self.is_lost:
            self._over.set_result(None)
        await self._connected.close()

    async def _consume(self, lane: Lane, epoch: Epoch) -> None:
        channel = await open_delivery_channel(
            self._connected.amqp, partial(self._deliver, lane, epoch), timeout=RPC_SECONDS
        )
        channel.closing.add_done_callback(partial(self._closed, f"channel of {lane.queue}"))
        channel.on_consumer_cancel_callbacks.add(partial(self._cancelled, lane.queue))
        await rpc(channel.basic_qos(prefetch_count=lane.prefetch))
        consumer = self._consumers[epoch] = _Consumer(lane, channel)
        lane.receiver.on_epoch(epoch)
        answer = await rpc(channel.basic_consume(lane.queue, _never_called))
        consumer.tag = answer.consumer_tag or ""

    async def _cancel_all(self) -> None:
        await asyncio.gather(*(self._cancel(consumer) for consumer in self._consumers.values()))

    async def _cancel(self, consumer: _Consumer) -> None:
        try:
            with loss_as_error():
                await consumer.channel.basic_cancel(consumer.tag, timeout=CANCEL_SECONDS)
        except BROKEN as error:
            self.lose(f"consuming could not be stopped: {type(error).__name__}")

    def _deliver(
        self, lane: Lane, epoch: Epoch, deliver: commands.Basic.Deliver, raw: bytes, body: bytes, announced: int
    ) -> None:
        if epoch.lost:
            return
        message = Message(body, decode_properties(raw), announced)
        assert deliver.delivery_tag is not None
        self._unsettled += 1
        self._all_settled.clear()
        lane.receiver.on_delivery(
            Delivery(message, deliver.delivery_tag, bool(deliver.redelivered), epoch, time.monotonic())
        )

    def _closed(self, what: str, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        self.lose(f"{what} closed: {error or 'without a reason'}")

    def _cancelled(self, queue: str, _frame: commands.Basic.Cancel) -> None:
        # The broker does not tell why. Before 4.3 its timeout closes the channel instead, with words of its own.
        self.lose(
            f"the broker cancelled the consumer of {queue}: the queue or its node is gone,"
            " or a delivery was held for longer than the broker's consumer timeout"
        )

    async def _put(self, queue: asyncio.Queue[ChannelFrame], sent: ChannelFrame) -> None:
        """Wait for room, but not for ever: nobody empties the queue of a connection that is gone."""
        put = asyncio.ensure_future(queue.put(sent))
        await asyncio.wait({put, self._over}, return_when=asyncio.FIRST_COMPLETED)
        if not put.done():
            put.cancel()
            raise EpochLost

    async def _round_trip(self, consumer: _Consumer) -> None:
        try:
            with loss_as_error():
                await consumer.channel.basic_qos(prefetch_count=consumer.lane.prefetch, timeout=CLOSE_SECONDS * 2)
        except BROKEN as error:
            self.lose(f"a round trip failed: {type(error).__name__}")


async def _never_called(_message: Any) -> None:
    """For the library's table of consumers: our channel hands deliveries over by itself."""
