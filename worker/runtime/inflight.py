"""The jobs this process runs, settles or has just settled, so that a redelivery joins instead of running again.

A lost session voids its deliveries: the broker takes them back and hands them over again, flagged as redelivered.
Such a redelivery joins the record of the earlier delivery when that one's session is lost and the message is the
same, by message id and body. The record then owes the new delivery its settlement. Each loss serves one join.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

from worker.core.job import Job
from worker.core.message import Delivery, Epoch, Message, Properties, Undecodable
from worker.runtime.clock import Clock
from worker.runtime.executor import Run
from worker.runtime.settlement import ACK, Settlement

JOIN_WINDOW: Final = 30.0
"""Seconds after consuming began again in which redeliveries are waited for: they come first, near the queue's head."""

JOIN_AFTER_END: Final = 5.0
"""Seconds a job that ends after that window still waits for its redelivery."""

Identity = tuple[str, bytes]
"""What makes two deliveries one message: its id and a hash of its body. Never the job id, which a replay has too."""


_EMPTY: Final = Message(b"", Properties())


class Phase(StrEnum):
    """Where a delivery is on its way."""

    WAITING = "waiting"
    RUNNING = "running"
    SETTLING = "settling"
    SETTLED = "settled"


class Record:
    """One message on its way through this process, and the delivery that must be settled for it."""

    __slots__ = (
        "confirmed",
        "delivery",
        "dropped",
        "identity",
        "job",
        "live",
        "phase",
        "run",
        "settled_at",
        "settlement",
        "since",
        "task",
    )

    def __init__(self, delivery: Delivery, identity: Identity | None, since: float) -> None:
        self.delivery = delivery
        self.identity = identity
        self.phase = Phase.WAITING
        self.settlement: Settlement | None = None
        self.confirmed = 0
        """How many of the settlement's copies the broker has confirmed."""
        self.live = asyncio.Event()
        """Set while the delivery can be settled, and when the record is dropped."""
        self.live.set()
        self.dropped = False
        self.since = since
        self.settled_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.run: Run | None = None
        """The attempt, while it runs."""
        self.job: Job | None = None
        """What the message says, once it is read."""

    @property
    def info(self) -> dict[str, Any]:
        """Which job it is, for people."""
        job = self.job
        return {} if job is None else {"id": job.id, "type": job.type, "attempt": job.attempt}

    @property
    def void(self) -> bool:
        return self.delivery.epoch.lost


class InFlight:
    """All records of the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[int, Record] = {}
        self._by_identity: defaultdict[Identity, list[Record]] = defaultdict(list)
        self._consuming_since = 0.0
        self._down = True
        self._untidy = asyncio.Event()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def attach(self, delivery: Delivery) -> tuple[Record, bool]:
        """The record `delivery` belongs to, and whether it joined one that was there."""
        identity = _identity(delivery.message)
        if delivery.redelivered and identity is not None:
            for record in self._by_identity.get(identity, ()):
                if record.void:
                    record.delivery = delivery
                    record.live.set()
                    return record, True
        record = Record(delivery, identity, self._clock.monotonic())
        self._records[id(record)] = record
        if identity is not None:
            self._by_identity[identity].append(record)
        return record, False

    def epoch_began(self) -> None:
        self._down = False
        self._consuming_since = self._clock.monotonic()

    def epoch_lost(self, epoch: Epoch) -> None:
        """Void every delivery of `epoch`; what has not been started is forgotten, the broker hands it over again."""
        self._down = True
        self._untidy.set()
        for record in list(self._records.values()):
            if record.delivery.epoch is not epoch:
                continue
            record.live.clear()
            if record.phase is Phase.WAITING:
                self.forget(record)

    def settled(self, record: Record) -> None:
        """Keep the record until the settlement is known to have been processed: an ack can be lost on its way."""
        assert record.settlement is not None
        record.phase = Phase.SETTLED
        self._untidy.set()
        record.settled_at = self._clock.monotonic()
        if record.identity is None or record.settlement.finish != "ack":
            self.forget(record)
            return
        # Kept is what a redelivery needs: neither the body nor the copies, which are confirmed.
        record.delivery = replace(record.delivery, message=_EMPTY)
        record.settlement, record.confirmed = ACK, 0

    async def untidy(self) -> None:
        """Return when there are records that time has to take away: void ones, or settled ones."""
        if not any(record.void or record.phase is Phase.SETTLED for record in self._records.values()):
            self._untidy.clear()
        await self._untidy.wait()

    def forget_processed(self, before: float) -> None:
        """Forget what was settled before a moment up to which the broker has processed everything."""
        for record in list(self._records.values()):
            if record.phase is Phase.SETTLED and not record.void and record.settled_at < before:
                self.forget(record)

    @property
    def awaiting_flush(self) -> bool:
        return any(record.phase is Phase.SETTLED and not record.void for record in self._records.values())

    def expire(self) -> list[Record]:
        """Drop the records whose redelivery no longer comes: another replica has it, or the ack had arrived."""
        if self._down:
            return []
        now = self._clock.monotonic()
        gone = [record for record in self._records.values() if record.void and self._overdue(record, now)]
        for record in gone:
            self.forget(record)
        return gone

    def _overdue(self, record: Record, now: float) -> bool:
        if record.phase is Phase.RUNNING:
            return False
        ended = record.settled_at if record.phase is Phase.SETTLED else record.since
        return now > max(self._consuming_since + JOIN_WINDOW, ended + JOIN_AFTER_END)

    def forget(self, record: Record) -> None:
        """Forget the record; whoever waits for it to come alive goes on and finds it dropped."""
        record.dropped = True
        record.live.set()
        if record.task is not None and record.phase is Phase.WAITING:
            record.task.cancel()
        self._records.pop(id(record), None)
        if record.identity is not None and (same := self._by_identity.get(record.identity)):
            same[:] = [other for other in same if other is not record]
            if not same:
                del self._by_identity[record.identity]


def _identity(message: Message) -> Identity | None:
    if isinstance(message.properties, Undecodable):
        raw = hashlib.sha256(message.properties.raw).hexdigest()
        return raw, hashlib.sha256(message.body).digest()
    if message.properties.message_id is None:
        return None
    return message.properties.message_id, hashlib.sha256(message.body).digest()
