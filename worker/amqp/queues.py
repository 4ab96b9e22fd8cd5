"""Queues at the broker: declared or checked, each on its own channel, with everything that is wrong told at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final, Literal

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from worker.amqp.connecting import BROKEN, Refused, rpc
from worker.core.topology import Queue, Topology

Mode = Literal["declare", "passive", "none"]

_FIX: Final = "delete the queue once it is empty, set WORKER_QUEUE to another name, or WORKER_TOPOLOGY=passive"


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


async def passive_count(amqp: AbstractConnection, queue: str) -> int | None:
    """How many messages are ready in a queue; None when it does not exist."""
    channel = await rpc(amqp.channel(publisher_confirms=False))
    try:
        found = await rpc(channel.queue_declare(queue, passive=True))
    except ChannelNotFoundEntity:
        return None
    await _close(channel)
    return found.message_count


async def _conflict(amqp: AbstractConnection, queue: Queue, mode: Mode) -> str | None:
    # A refusal closes the channel it was asked on.
    channel = await rpc(amqp.channel(publisher_confirms=False))
    try:
        if mode == "passive":
            await rpc(channel.queue_declare(queue.name, passive=True))
        else:
            await rpc(channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments)))
    except ChannelPreconditionFailed as error:
        return f"queue {queue.name!r} is there with other arguments: {_said(error)}; {_FIX}"
    except ChannelNotFoundEntity:
        return f"queue {queue.name!r} does not exist; declare it, or set WORKER_TOPOLOGY=declare"
    except ChannelAccessRefused as error:
        return f"queue {queue.name!r}: {_said(error)}; give the broker user the right, or set WORKER_TOPOLOGY=none"
    await _close(channel)
    return None


async def _close(channel: object) -> None:
    with contextlib.suppress(*BROKEN):
        await rpc(channel.close(None))  # type: ignore[attr-defined]


def _said(error: Exception) -> str:
    return str(error).removeprefix("PRECONDITION_FAILED - ").removeprefix("ACCESS_REFUSED - ")
