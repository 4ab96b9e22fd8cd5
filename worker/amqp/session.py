"""One epoch of consuming: a connection, a channel for each lane, and the news that it is lost.

On any trouble (connection, channel, consumer cancelled by the broker) the whole session is given up: what remains of
a channel after an error is not to be trusted, neither in the client nor in the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
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
    LAST_ACKS,
    RPC_SECONDS,
    Connected,
    Mark,
    Unreachable,
    loss_as_error,
    rpc,
)
from worker.amqp.credit import Credit
from worker.amqp.frames import DeliveryChannel, never_called, open_delivery_channel
from worker.core.broker import EpochLost, Lane
from worker.core.message import Delivery, Epoch, Message

log = structlog.get_logger("worker.session")

CANCEL_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Consumer:
    lane: Lane
    epoch: Epoch
    channel: DeliveryChannel
    credit: Credit
    prefetch: int
    """Of the consumer on the channel that began last, or begins now."""
    tags: list[str] = field(default_factory=list)
    has_begun: bool = False
    """Whether the receiver knows of its epoch."""


class Session:
    """Deliveries of some lanes under one connection. `open()` starts it; `lost` is set when it is over.

    A `paused` one delivers nothing until `resume()`, and its epochs are announced only then: redeliveries are awaited
    from that moment on.
    """

    def __init__(self, connected: Connected, *, paused: bool = False) -> None:
        self._connected = connected
        self._consumers: dict[Epoch, _Consumer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        """Held by whoever begins or ends consumers."""
        self._is_paused = paused
        self._is_stopped = False
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
                async with self._turn:
                    for lane in lanes:
                        await self._take(await self._open_lane(lane, new_epoch()))
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
        """Whether all its lanes are delivered, or would be if it were not paused."""
        return self._consuming and not self.is_lost

    def delivered(self, epoch: Epoch) -> bool:
        """Whether `epoch` is one of its own."""
        return epoch in self._consumers

    def announce(self) -> None:
        """Tell the receivers once more that it is this session that delivers, after the loss of another one."""
        for epoch, consumer in self._consumers.items():
            if consumer.has_begun:
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
            if consumer.has_begun:
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
        if consumer.credit.settled(delivery.tag):
            _ = self._spawn(self._take_more(consumer))

    async def flush(self, epoch: Epoch) -> None:
        """A round trip on the channel of `epoch`, behind everything sent on it so far. EpochLost when there is none."""
        consumer = self._consumers.get(epoch)
        if consumer is None or epoch.lost:
            raise EpochLost
        # Not one that is on its way already: what was sent since is behind it.
        # A call on a live channel must not be cancelled: the library closes the channel then.
        await asyncio.shield(self._spawn(self._round_trip(consumer)))
        if epoch.lost:
            raise EpochLost

    async def stop_consuming(self) -> None:
        """No more deliveries; those that are here can still be settled."""
        self._is_stopped = True
        await asyncio.shield(self._spawn(self._cancel_all()))  # as with flush()

    async def pause(self) -> None:
        """No more deliveries until `resume()`."""
        self._is_paused = True
        await asyncio.shield(self._spawn(self._cancel_all()))

    async def resume(self) -> None:
        """Deliver again, on the same channels: what is held from before is settled as ever."""
        self._is_paused = False
        for consumer in list(self._consumers.values()):
            await asyncio.shield(self._spawn(self._take_more(consumer)))

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

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open_lane(self, lane: Lane, epoch: Epoch) -> _Consumer:
        channel = await open_delivery_channel(self._connected.amqp, partial(self._deliver, epoch), timeout=RPC_SECONDS)
        channel.closing.add_done_callback(partial(self._closed, f"channel of {lane.queue}"))
        channel.on_consumer_cancel_callbacks.add(partial(self._cancelled, lane.queue))
        consumer = self._consumers[epoch] = _Consumer(lane, epoch, channel, Credit(lane.prefetch), lane.prefetch)
        return consumer

    async def _take_more(self, consumer: _Consumer) -> None:
        try:
            with loss_as_error():
                async with self._turn:
                    await self._take(consumer)
        except BROKEN as error:
            self.lose(f"consuming could not go on: {type(error).__name__}: {error}")

    async def _take(self, consumer: _Consumer) -> None:
        """Have as much delivered as may be held, if anything may be delivered at present."""
        count = consumer.credit.more
        if self._is_paused or self._is_stopped or self.is_lost or not count:
            return
        consumer.credit.grant(count)
        consumer.prefetch = count
        await rpc(consumer.channel.basic_qos(prefetch_count=count))
        if not consumer.has_begun:
            consumer.has_begun = True
            consumer.lane.receiver.on_epoch(consumer.epoch)
        answer = await rpc(consumer.channel.basic_consume(consumer.lane.queue, never_called))
        consumer.tags.append(answer.consumer_tag or "")

    async def _cancel_all(self) -> None:
        async with self._turn:
            await asyncio.gather(*(self._cancel(consumer) for consumer in self._consumers.values()))

    async def _cancel(self, consumer: _Consumer) -> None:
        try:
            while consumer.tags and not self.is_lost:
                with loss_as_error():
                    await consumer.channel.basic_cancel(consumer.tags.pop(), timeout=CANCEL_SECONDS)
        except BROKEN as error:
            self.lose(f"consuming could not be stopped: {type(error).__name__}")
        consumer.credit.cancelled()

    def _deliver(self, epoch: Epoch, deliver: commands.Basic.Deliver, raw: bytes, body: bytes, announced: int) -> None:
        if epoch.lost:
            return
        message = Message(body, decode_properties(raw), announced)
        assert deliver.delivery_tag is not None
        self._unsettled += 1
        self._all_settled.clear()
        consumer = self._consumers[epoch]
        consumer.credit.delivered(deliver.delivery_tag)
        consumer.lane.receiver.on_delivery(
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
                await consumer.channel.basic_qos(prefetch_count=consumer.prefetch, timeout=CLOSE_SECONDS * 2)
        except BROKEN as error:
            self.lose(f"a round trip failed: {type(error).__name__}")
