"""The publishing connection: confirmed, mandatory, opened when first needed and again whenever it is lost.

Never shared with the consumer: during a memory alarm the broker reads nothing more from a connection that has
published, and acknowledgements on it would be stuck with the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
from aiormq import Channel
from aiormq.abc import AbstractConnection
from aiormq.exceptions import DeliveryError, PublishError

from worker.amqp.codec import encode_properties
from worker.amqp.connecting import (
    BROKEN,
    Access,
    Connected,
    Mark,
    Refused,
    Unreachable,
    loss_as_error,
    open_connection,
    rpc,
)
from worker.amqp.frames import WireProperties
from worker.amqp.rotation import FIRST_PAUSE, LONGEST_PAUSE, Pauses, change_or_pause
from worker.core.broker import PublishFailed, Undeliverable, Unroutable
from worker.core.message import Outgoing, Properties

log = structlog.get_logger("worker.publish")

CONFIRM_SECONDS: Final = 30.0
"""Longest wait for a confirm while the broker takes publishes. A publish that is repeated could count twice, so the
connection is given up first: what the broker has not read of it by then is gone."""

WATCH_EVERY: Final = 5.0

FRESH_AFTER: Final = 5.0
"""Seconds after which a connection whose publish was refused is replaced: RabbitMQ 3.10 goes on refusing a channel when
the queue has long been given room by a change of its limit, and takes from a new one."""

HEADER_FRAME: Final = 24
"""Bytes of a header frame beside its properties, rounded up."""

Prepare = Callable[[AbstractConnection, str], Awaitable[None]]
"""Called before the first publish to each queue on a connection; may declare it."""


@dataclass(frozen=True, slots=True)
class _Open:
    connected: Connected
    channel: Channel
    since: float = field(default_factory=time.monotonic)
    prepared: set[str] = field(default_factory=set)
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[str, float] = field(default_factory=dict)
    """Since when publishes wait for their confirm, by message id."""


class Publisher:
    """Publishes to queues by the default exchange. For one event loop; concurrent calls share one channel."""

    def __init__(
        self, access: Access, prepare: Prepare | None = None, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._access = access
        self._prepare = prepare
        self._pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE, chance)
        self._next_try = 0.0
        self._tried: Mark | None = None
        self._open: _Open | None = None
        self._opening: asyncio.Task[_Open] | None = None
        self._retired: list[_Open] = []
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self.blocked = False
        """Whether the broker takes no publishes at present (memory or disk alarm), as far as known."""

    async def open(self) -> None:
        """Connect now instead of with the first publish. Raises Unreachable or Refused."""
        await self._opened()

    async def renew(self) -> None:
        """Publish on a connection made with what `access` is by now; the old one ends when all it carries is confirmed.

        Raises Unreachable or Refused, and goes on with the old one then.
        """
        now = self._access.mark()
        if self._opening is not None and self._tried != now:  # begun with what was known then
            await asyncio.wait({self._opening})
        if self._open is not None and self._open.connected.mark != now:
            self._use(await self._fresh())

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once the broker has confirmed the message; PublishFailed otherwise.

        During an alarm it waits, without a bound: a publish is not sent twice because the first is not read yet.
        """
        opened: _Open | None = None
        try:
            with loss_as_error():
                opened = await self._opened()
                await self._unblocked(opened)
                await self._prepared(opened, outgoing.queue)
                await self._send(opened, outgoing)
        except PublishError as error:
            if self._open is not None:
                self._open.prepared.discard(outgoing.queue)
            raise Unroutable(f"queue {outgoing.queue!r} does not exist") from error
        except DeliveryError as error:
            self._retire(opened)
            raise Undeliverable(f"queue {outgoing.queue!r} takes nothing: it is full, or its node is away") from error
        except (Unreachable, Refused, ValueError) as error:
            raise PublishFailed(str(error)) from error
        except BROKEN as error:
            raise PublishFailed(f"the publishing connection broke: {str(error) or type(error).__name__}") from error

    async def close(self) -> None:
        """End the connection; later publishes fail."""
        self._closed = True
        await _end(self._opening)
        await _end(self._watching)  # may have been started by the one before: the library swallows cancellations
        for opened in (self._open, *self._retired):
            await self._drop(opened)

    async def _opened(self) -> _Open:
        if self._closed:
            raise PublishFailed("the publisher is closed")
        if self._open is not None and self._open.channel.is_closed:
            await self._drop(self._open)
        if self._open is not None:
            return self._open
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._connect_ended)
        return await asyncio.shield(self._opening)

    async def _connect(self) -> _Open:
        if (pause := self._next_try - time.monotonic()) > 0:  # many publishes ask for it, and each would be a login
            await change_or_pause(self._access, self._tried, pause)
        self._tried = self._access.mark()
        try:
            opened = await self._fresh()
        except (Unreachable, Refused) as error:
            self._next_try = time.monotonic() + self._pauses.after(error)
            raise
        self._pauses.reset()
        self._next_try = 0.0
        self._use(opened)
        return opened

    async def _fresh(self) -> _Open:
        connected = await open_connection(self._access, "publish")
        try:
            channel = await rpc(connected.amqp.channel(publisher_confirms=True, on_return_raises=True))
        except BROKEN as error:
            await connected.close()
            raise Unreachable(f"{connected.node.shown}: no channel ({type(error).__name__})") from error
        except asyncio.CancelledError:
            await connected.close()
            raise
        assert isinstance(channel, Channel)
        return _Open(connected, channel)

    def _use(self, opened: _Open) -> None:
        if self._open is not None:
            self._retired.append(self._open)
        self._open = opened
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def _connect_ended(self, task: asyncio.Task[_Open]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whoever waited for it has been told

    async def _prepared(self, opened: _Open, queue: str) -> None:
        if self._prepare is None or queue in opened.prepared:
            return
        async with opened.preparing:  # many jobs park at once when a host goes down
            if queue not in opened.prepared:
                await self._prepare(opened.connected.amqp, queue)
                opened.prepared.add(queue)

    async def _unblocked(self, opened: _Open) -> None:
        if not await _is_blocked(opened.connected.amqp):
            self.blocked = False
            return
        self.blocked = True
        await _while_open(opened.connected.amqp, opened.connected.amqp.ready())
        self.blocked = False

    async def _send(self, opened: _Open, outgoing: Outgoing) -> None:
        properties = outgoing.message.properties
        assert isinstance(properties, Properties)
        assert properties.message_id is not None
        user = opened.connected.node.user
        raw = encode_properties(replace(properties, user_id=user))
        if len(raw) + HEADER_FRAME > opened.connected.frame_max:  # the broker would close the connection all jobs share
            raise ValueError(f"headers of {len(raw)} bytes do not fit into the connection's frames")
        opened.waiting[properties.message_id] = time.monotonic()
        try:
            sending = opened.channel.basic_publish(
                outgoing.message.body,
                routing_key=outgoing.queue,
                properties=WireProperties(raw, properties.message_id),  # type: ignore[arg-type] # only marshalled
                mandatory=True,
                wait=False,
            )
            await _while_open(opened.connected.amqp, sending)
            self.blocked = False
        finally:
            opened.waiting.pop(properties.message_id, None)

    async def _watch(self) -> None:
        """Give a connection up when a confirm does not come although the broker takes publishes."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            if self._open is not None and self._open.waiting:
                self.blocked = await _is_blocked(self._open.connected.amqp)
                await self._look_after(self._open, blocked=self.blocked)
            for opened in list(self._retired):
                if opened.waiting:
                    await self._look_after(opened, blocked=await _is_blocked(opened.connected.amqp))
                else:
                    await self._drop(opened)

    async def _look_after(self, opened: _Open, *, blocked: bool) -> None:
        now = time.monotonic()
        if blocked:
            opened.waiting.update(dict.fromkeys(opened.waiting, now))
        if now - min(opened.waiting.values(), default=now) > CONFIRM_SECONDS:
            log.error("publish.not_confirmed", seconds=CONFIRM_SECONDS, waiting=len(opened.waiting))
            await self._drop(opened)

    def _retire(self, opened: _Open | None) -> None:
        """Publish on another connection from now on; this one ends when all it still carries is confirmed."""
        if opened is not None and self._open is opened and time.monotonic() - opened.since > FRESH_AFTER:
            self._open = None
            self._retired.append(opened)

    async def _drop(self, opened: _Open | None) -> None:
        if self._open is opened:
            self._open = None
        if opened is not None:
            self._retired = [one for one in self._retired if one is not opened]
            await opened.connected.close()


async def _end(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _while_open(amqp: AbstractConnection, call: Coroutine[Any, Any, object]) -> None:
    """Await `call`; ConnectionResetError as soon as the connection is closed.

    The library tells those who wait for an answer, and forgets those who wait for room to send: they would for ever.
    """
    task, closing = asyncio.create_task(call), amqp.closing
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told here, or to nobody any more
    try:
        await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ConnectionResetError("closed while waiting")
        task.result()
    finally:
        task.cancel()
        closing.cancel()


async def _is_blocked(amqp: AbstractConnection) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await amqp.ready()  # does not wait at all while the broker takes publishes
            return False
    return True
