"""What `worker check` asks the broker about its queues and about rights; nothing is created, taken or delivered."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiormq.abc import AbstractConnection
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    PublishError,
)

from worker.amqp.connecting import BROKEN, Connected, Unreachable, rpc
from worker.amqp.frames import never_called
from worker.amqp.queues import Counts, declare, difference, passive_counts
from worker.core.topology import Queue

Right = Literal["configure", "write", "read"]

NotThere = Literal["not there"]
NotAllowed = Literal["not allowed"]

DEFAULT_EXCHANGE: Final = "amq.default"
"""What the broker calls the exchange without a name where rights are given."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue. `messages` are ready, None when it does not exist.

    `difference` is what the broker says is other about its arguments, "" for nothing. Whoever may not declare it cannot
    compare them: then `compared` is False.
    """

    queue: Queue
    messages: int | None
    consumers: int = 0
    difference: str = ""
    compared: bool = True

    @property
    def lacks_dead_letters(self) -> bool:
        """Whether it has no dead-letter exchange, where one is expected."""
        return "'x-dead-letter-exchange'" in self.difference and self.difference.endswith("current is none")


async def count_queues(connected: Connected, queues: Iterable[str]) -> dict[str, Counts | NotThere | NotAllowed]:
    """What is in each queue. Raises Unreachable when the broker goes away meanwhile."""
    try:
        return {queue: await _count(connected.amqp, queue) for queue in queues}
    except BROKEN as error:
        raise Unreachable(f"{connected.node.shown}: the queues cannot be counted: {error}") from error


async def inspect_queues(connected: Connected, queues: Iterable[Queue]) -> tuple[QueueState, ...]:
    """The state of each queue. Raises Unreachable when the broker goes away meanwhile."""
    try:
        return tuple([await _inspect(connected.amqp, queue) for queue in queues])
    except BROKEN as error:
        raise Unreachable(f"{connected.node.shown}: the queues cannot be looked at: {error}") from error


async def missing_rights(connected: Connected, wanted: Iterable[tuple[Right, str]]) -> tuple[tuple[Right, str], ...]:
    """Those of `wanted`, rights on queues (to write: on the default exchange), that the user does not have.

    Asked by requests that are refused in any case: for the lack of the right, or else for what they ask.
    """
    try:
        return tuple([(right, name) for right, name in wanted if not await _ASK[right](connected.amqp, name)])
    except BROKEN as error:
        raise Unreachable(f"{connected.node.shown}: rights cannot be asked for: {error}") from error


async def _count(amqp: AbstractConnection, queue: str) -> Counts | NotThere | NotAllowed:
    try:
        counts = await passive_counts(amqp, queue)
    except ChannelAccessRefused:
        return "not allowed"
    return "not there" if counts is None else counts


async def _inspect(amqp: AbstractConnection, queue: Queue) -> QueueState:
    counts = await _count(amqp, queue.name)
    if not isinstance(counts, Counts):
        return QueueState(queue, None, compared=counts == "not there")
    try:
        # An equal declaration of a queue that is there changes nothing, and is the only way to compare arguments.
        await declare(amqp, queue)
    except ChannelPreconditionFailed as error:
        return QueueState(queue, counts.ready, counts.consumers, difference(error))
    except ChannelAccessRefused:
        return QueueState(queue, counts.ready, counts.consumers, compared=False)
    return QueueState(queue, counts.ready, counts.consumers)


async def _may_configure(amqp: AbstractConnection, queue: str) -> bool:
    async def ask(channel: Any) -> None:
        await channel.queue_declare(queue, durable=True, arguments={"x-message-ttl": -1})

    return await _is_permitted(amqp, ask)


async def _may_read(amqp: AbstractConnection, queue: str) -> bool:
    async def ask(channel: Any) -> None:
        await channel.basic_consume(queue, never_called, arguments={"x-priority": "none"})

    return await _is_permitted(amqp, ask)


async def _may_write(amqp: AbstractConnection, _exchange: str) -> bool:
    async def ask(channel: Any) -> None:
        nowhere = f"worker-check-{uuid.uuid4()}"  # as a queue of that name would be called
        await channel.basic_publish(b"", routing_key=nowhere, mandatory=True)

    return await _is_permitted(amqp, ask)


_ASK: Final[dict[Right, Callable[[AbstractConnection, str], Awaitable[bool]]]] = {
    "configure": _may_configure,
    "write": _may_write,
    "read": _may_read,
}


async def _is_permitted(amqp: AbstractConnection, ask: Callable[[Any], Awaitable[None]]) -> bool:
    channel = await rpc(amqp.channel(publisher_confirms=True, on_return_raises=True))
    try:
        await rpc(ask(channel))
    except ChannelAccessRefused:
        return False
    except (ChannelPreconditionFailed, ChannelNotFoundEntity, PublishError):
        pass
    except ChannelClosed as error:
        # A consumer's argument that is wrong is told with a code of its own by some versions.
        return "ACCESS_REFUSED" not in str(error)
    if not channel.is_closed:
        await rpc(channel.close(None))
    return True
