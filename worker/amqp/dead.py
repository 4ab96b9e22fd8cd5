"""The dead queue: reading letters without taking them, and sending their jobs back.

Letters are looked at by consuming without settling, on a connection of their own; when it closes, the broker has
them all back. Only a letter whose copy is confirmed is acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from aiormq.exceptions import ChannelAccessRefused
from pamqp import commands

from worker.amqp.connecting import BROKEN, Connected, Refused, Unreachable
from worker.amqp.queues import passive_count
from worker.amqp.session import Session
from worker.core.broker import Lane
from worker.core.job import safe_id
from worker.core.message import Delivery, Epoch, Message, Properties, Undecodable
from worker.core.outcome import REASONS
from worker.core.topology import Topology

WINDOW: Final = 2000
"""Most letters that are looked at: what a quorum queue hands to one consumer at once."""

QUIET: Final = 2.0
"""Seconds without a letter after which the rest is taken to be with another reader."""

FLUSH_PAUSE: Final = 0.3
"""Seconds after a round trip until a quorum queue has really taken the acks sent before it."""


_End = tuple[str | None, str, int, float | None]
"""Reason, detail, attempts and time."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A letter as it can be understood. `reason` None: nothing tells why it is here. `died_at` in epoch seconds.

    `id` is the job's; a message that has none goes by a hash of its body. `believed`: a trusted user wrote it, so
    that its x-worker-* headers count.
    """

    id: str
    type: str
    reason: str | None
    detail: str
    attempts: int
    died_at: float | None
    believed: bool
    message: Message

    @property
    def message_id(self) -> str | None:
        properties = self.message.properties
        return properties.message_id if isinstance(properties, Properties) else None

    def answers_to(self, id: str) -> bool:
        """Whether `id` is its job's or its message's."""
        return id in (self.id, self.message_id)


def read_letter(message: Message, topology: Topology, trusted: frozenset[str]) -> DeadLetter:
    """Understand a message of the dead queue. Never raises."""
    properties = message.properties
    if isinstance(properties, Undecodable):
        detail = f"undecodable properties: {properties.fault}"
        return DeadLetter(_hash(message.body), "", "malformed", detail, 0, None, False, message)
    believed = properties.user_id in trusted
    claims: Mapping[str, Any] = properties.headers if believed else {}
    named = _text(claims, "x-worker-id") or properties.message_id
    death = _death(properties.headers, topology)
    end = _end_by_the_worker(claims) if death is None else _end_by_the_broker(death, claims)
    return DeadLetter(
        safe_id(named) if named else _hash(message.body),
        properties.type or _text(properties.headers, "x-job-type"),
        *end,
        believed,
        message,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A letter and the delivery that holds it."""

    letter: DeadLetter
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Reading:
    """What was looked at, oldest first, and how many letters were in the queue."""

    held: tuple[Held, ...]
    total: int

    @property
    def letters(self) -> tuple[DeadLetter, ...]:
        return tuple(one.letter for one in self.held)


class DeadQueue:
    """The dead queue of one work queue over a connection of its own. `close()` gives every letter back."""

    def __init__(self, connected: Connected, topology: Topology, trusted: frozenset[str]) -> None:
        self._connected = connected
        self._topology = topology
        self._trusted = trusted
        self._session = Session(connected)

    async def read(self, keep_body: Callable[[DeadLetter], bool] = lambda _: True, window: int = WINDOW) -> Reading:
        """Hold the first `window` letters; once for each DeadQueue. Bodies are kept where `keep_body` says so.

        Raises Refused when there is no such queue, Unreachable when the broker goes away.
        """
        name = self._topology.dead_name
        total = await _number(self._connected, name)
        wanted = min(total, window)
        pile = _Pile(wanted, lambda message: read_letter(message, self._topology, self._trusted), keep_body)
        if wanted:
            await self._consume(Lane(name, wanted, pile))
            await pile.complete()
            if self._session.is_lost:
                raise Unreachable(f"{self._connected.node.shown}: {self._session.reason}")
        return Reading(tuple(pile.held), max(total, len(pile.held)))

    async def _consume(self, lane: Lane) -> None:
        try:
            await self._session.open([lane], lambda: Epoch(1))
        except Unreachable as error:
            if isinstance(error.__cause__, ChannelAccessRefused):
                raise _no_right(lane.queue, error.__cause__) from error
            raise

    async def take(self, held: Held) -> None:
        """Acknowledge a letter: it is gone. EpochLost when the broker has it back already."""
        await self._session.settle(held.delivery, commands.Basic.Ack(delivery_tag=held.delivery.tag))

    async def flush(self, held: Held) -> None:
        """Return once what was taken is safe; `held` is any letter of this reading. EpochLost when it cannot be."""
        await self._session.flush(held.delivery.epoch)
        await asyncio.sleep(FLUSH_PAUSE)

    async def close(self) -> None:
        await self._session.close()


class _Pile:
    """Collects what the dead queue delivers."""

    def __init__(
        self, wanted: int, read: Callable[[Message], DeadLetter], keep_body: Callable[[DeadLetter], bool]
    ) -> None:
        self._wanted = wanted
        self._read = read
        self._keep_body = keep_body
        self._news = asyncio.Event()
        self._over = False
        self.held: list[Held] = []

    def on_delivery(self, delivery: Delivery) -> None:
        letter = self._read(delivery.message)
        if not self._keep_body(letter):
            letter = replace(letter, message=replace(letter.message, body=b"", announced=letter.message.size))
        self.held.append(Held(letter, replace(delivery, message=letter.message)))
        self._news.set()

    def on_epoch(self, epoch: Epoch) -> None:
        pass

    def on_lost(self, epoch: Epoch) -> None:  # noqa: ARG002 - what a Receiver is told
        self._over = True
        self._news.set()

    async def complete(self) -> None:
        """Return when all are here, when no more come, or when the session is lost."""
        while len(self.held) < self._wanted and not self._over:
            self._news.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self._news.wait()
            except TimeoutError:
                return


async def _number(connected: Connected, queue: str) -> int:
    try:
        total = await passive_count(connected.amqp, queue)
    except ChannelAccessRefused as error:
        raise _no_right(queue, error) from error
    except BROKEN as error:
        raise Unreachable(f"{connected.node.shown}: {error}") from error
    if total is None:
        raise Refused(f"queue {queue!r} does not exist: is WORKER_QUEUE right? A worker that runs declares it")
    return total


def _no_right(queue: str, error: Exception) -> Refused:
    return Refused(f"queue {queue!r}: {error}; give the broker user the right to read it")


def _death(headers: Mapping[str, Any], topology: Topology) -> Mapping[str, Any] | None:
    """How the broker moved it here, the newest entry first; a wait that ended is an entry, too, of another queue."""
    deaths = headers.get("x-death")
    entries = deaths if isinstance(deaths, list) else []
    sources = (topology.name, topology.suspect_name)
    return next((one for one in entries if isinstance(one, dict) and one.get("queue") in sources), None)


def _end_by_the_worker(claims: Mapping[str, Any]) -> _End:
    reason = _text(claims, "x-worker-reason")
    if reason not in REASONS:
        return None, "put here by neither the worker nor the broker", 0, None
    attempts = _count(claims, "x-worker-attempt")
    died_at = _last_end(claims) if attempts else _first_delivery(claims)
    return reason, _text(claims, "x-worker-detail"), attempts, died_at


def _end_by_the_broker(death: Mapping[str, Any], claims: Mapping[str, Any]) -> _End:
    # It was not copied, so what it counts is the attempt that would have run.
    return *_why(death), max(_count(claims, "x-worker-attempt") - 1, 0), _time(death)


def _why(death: Mapping[str, Any]) -> tuple[str | None, str]:
    where = death.get("queue")
    match death.get("reason"):
        case "expired":
            return "expired", f"its expiration passed while it was queued in {where}"
        case "delivery_limit":
            return "delivery_limit", f"the broker gave up delivering it from {where}"
        case "rejected":
            return "too_large", f"refused in {where} without being read"
        case _:
            return None, f"dead-lettered by the broker from {where}"


def _time(death: Mapping[str, Any]) -> float | None:
    time = death.get("time")
    return float(time) if isinstance(time, int) and not isinstance(time, bool) else None


def _last_end(claims: Mapping[str, Any]) -> float | None:
    """When the last attempt ended, as the history tells: number, start, duration, result."""
    history = claims.get("x-worker-history")
    last = history[-1] if isinstance(history, list) and history else None
    words = last.split(" ", 3) if isinstance(last, str) else []
    try:
        return datetime.fromisoformat(words[1]).timestamp() + float(words[2].removesuffix("s"))
    except (ValueError, IndexError, OverflowError):
        return None


def _first_delivery(claims: Mapping[str, Any]) -> float | None:
    """When a job died that neither ran nor waited."""
    first_seen = _count(claims, "x-worker-first-seen")
    return first_seen / 1000 if first_seen and not _count(claims, "x-worker-snoozes") else None


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""


def _count(headers: Mapping[str, Any], name: str) -> int:
    value = headers.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _hash(body: bytes) -> str:
    # Of the body alone: the properties are not the same each time, the broker counts deliveries in them.
    return f"sha256-{hashlib.sha256(body).hexdigest()}"
