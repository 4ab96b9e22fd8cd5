"""What `worker check` asks the broker about its queues; nothing is created."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused

from worker.amqp.connecting import BROKEN, Connected, Unreachable
from worker.amqp.queues import Mode, conflicts, passive_count
from worker.core.topology import Queue


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue: `messages` that are ready, None when it does not exist; `conflict` with its fix, "" for none."""

    queue: Queue
    messages: int | None
    conflict: str = ""


async def inspect_queues(connected: Connected, queues: Iterable[Queue], mode: Mode) -> tuple[QueueState, ...]:
    """The state of each queue. Raises Unreachable when the broker goes away meanwhile."""
    try:
        return tuple([await _inspect(connected.amqp, queue, mode) for queue in queues])
    except BROKEN as error:
        raise Unreachable(f"{connected.node.shown}: the queues cannot be looked at: {error}") from error


async def _inspect(amqp: AbstractConnection, queue: Queue, mode: Mode) -> QueueState:
    try:
        messages = await passive_count(amqp, queue.name)
    except ChannelAccessRefused as error:
        return QueueState(queue, None, f"queue {queue.name!r}: {error}; give the broker user rights to its queues")
    if messages is None:
        return QueueState(queue, None)
    # An equal declaration of a queue that is there changes nothing, and is the only way to compare arguments.
    found = await conflicts(amqp, [queue], mode)
    return QueueState(queue, messages, "; ".join(found))
