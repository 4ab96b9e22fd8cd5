"""Queues at the broker: declared or checked, each on its own channel, with everything that is wrong told at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from worker.amqp.connecting import BROKEN, Refused, rpc
from worker.core.topology import Queue, Topology

Mode = Literal["declare", "passive", "none"]

FIX: Final = "delete the queue once it is empty, set WORKER_QUEUE to another name, or WORKER_TOPOLOGY=passive"
"""What to do about a queue that is there with other arguments."""


def needed_at_start(topology: Topology, mode: Mode) -> tuple[Queue, ...]:
    """What has to be there before the first delivery; where it may be declared, the ladder waits until it is used."""
    first = (topology.dead, topology.suspect, topology.work)
    return first if mode == "declare" else (*first, *topology.waits)


async def prepare(amqp: AbstractConnection, queues: Iterable[Queue], mode: Mode) -> None:
    """Declare or check the queues. Refused names every conflict."""
    if found := await conflicts(amqp, queues, mode):
        raise Refused("\n".join(found))


async def conflicts(amqp: AbstractConnection, queues: Iterable[Queue], mode: Mode) -> list[str]:
    """What is wrong with the queues, each with its fix. `passive` only sees whether a queue is there."""
    if mode == "none":
        return []
    return [text for queue in queues if (text := await _conflict(amqp, queue, mode)) is not None]


@dataclass(frozen=True, slots=True)
class Counts:
    """What a broker tells of a queue over AMQP: messages that are ready, and consumers. Not what those hold."""

    ready: int
    consumers: int


async def passive_count(amqp: AbstractConnection, queue: str) -> int | None:
    """How many messages are ready in a queue; None when it does not exist."""
    counts = await passive_counts(amqp, queue)
    return None if counts is None else counts.ready


async def passive_counts(amqp: AbstractConnection, queue: str) -> Counts | None:
    """What is in a queue, and who consumes from it; None when it does not exist."""
    channel = await rpc(amqp.channel(publisher_confirms=False))
    try:
        found = await rpc(channel.queue_declare(queue, passive=True))
    except ChannelNotFoundEntity:
        return None
    await _close(channel)
    return Counts(found.message_count or 0, found.consumer_count or 0)


async def declare(amqp: AbstractConnection, queue: Queue) -> None:
    """Declare a queue; one that is equal already stays. Raises what the library says of a refusal."""
    # A refusal closes the channel it was asked on.
    channel = await rpc(amqp.channel(publisher_confirms=False))
    await rpc(channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments)))
    await _close(channel)


def difference(error: ChannelPreconditionFailed) -> str:
    """What the broker says is other about a queue."""
    return _said(error)


async def _conflict(amqp: AbstractConnection, queue: Queue, mode: Mode) -> str | None:
    try:
        if mode == "declare":
            await declare(amqp, queue)
        elif await passive_counts(amqp, queue.name) is None:
            return f"queue {queue.name!r} does not exist; declare it, or set WORKER_TOPOLOGY=declare"
    except ChannelPreconditionFailed as error:
        return f"queue {queue.name!r} is there with other arguments: {_said(error)}; {FIX}"
    except ChannelAccessRefused as error:
        return f"queue {queue.name!r}: {_said(error)}; give the broker user the right, or set WORKER_TOPOLOGY=none"
    return None


async def _close(channel: object) -> None:
    with contextlib.suppress(*BROKEN):
        await rpc(channel.close(None))  # type: ignore[attr-defined]


def _said(error: Exception) -> str:
    return str(error).removeprefix("PRECONDITION_FAILED - ").removeprefix("ACCESS_REFUSED - ")
