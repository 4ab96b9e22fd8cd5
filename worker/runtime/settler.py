"""Settling: confirm what replaces or follows a delivery, then one word to the broker. The only place that settles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, assert_never

import structlog

from worker.core.broker import Broker, EpochLost, PublishFailed, Undeliverable, Unroutable
from worker.core.message import Delivery, Epoch, Outgoing
from worker.runtime.clock import Clock
from worker.runtime.inflight import InFlight, Phase, Record
from worker.runtime.settlement import GIVE_BACK, Finish, Settlement
from worker.runtime.telemetry import Telemetry

log = structlog.get_logger("worker.settle")

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
FLUSH_PAUSE: Final = 0.3
"""Seconds after a round trip until a quorum queue has really taken the acks sent before it."""


class Settler:
    """Settles records, each in the task of its job, for as long as it takes.

    While a publish fails the delivery is held and the publish repeated: the job is not run again, and the broker
    keeps the message. While the delivery is void nothing is published, else original and copy would both live.
    """

    def __init__(
        self, broker: Broker, inflight: InFlight, clock: Clock, telemetry: Telemetry, chance: Callable[[], float]
    ) -> None:
        self._broker = broker
        self._inflight = inflight
        self._clock = clock
        self._telemetry = telemetry
        self._chance = chance
        self._giving_up = False
        self._last_session = False
        self._holds: set[asyncio.Event] = set()

    @property
    def held(self) -> int:
        """Deliveries that wait for the broker to take their copies, after a first refusal."""
        return len(self._holds)

    async def settle(self, record: Record, settlement: Settlement) -> None:
        """Return when the delivery is settled, or when it is void and its redelivery went elsewhere."""
        record.phase = Phase.SETTLING
        record.settlement = settlement
        record.since = self._clock.monotonic()
        while True:
            if record.void and settlement.finish == "requeue":  # the broker has it back, which is all that was wanted
                self._inflight.forget(record)
                return
            if record.void and self._last_session:
                self._inflight.forget(record)
                self._telemetry.ack_lost()
                return
            await record.live.wait()
            if record.dropped:
                self._telemetry.ack_lost()
                return
            if record.void:
                record.live.clear()
                continue
            if await self._attempt(record):
                return

    def no_more_sessions(self) -> None:
        """From now on nothing is delivered again here: what is void is let go of."""
        self._last_session = True

    def give_up(self) -> None:
        """From now on a delivery whose copies are not taken is given back instead of held: the drain ends."""
        self._giving_up = True
        for hold in self._holds:
            hold.set()

    async def flush(self, epoch: Epoch) -> None:
        """Return once everything settled so far under `epoch` is safe. EpochLost when it cannot be."""
        await self._broker.flush(epoch)
        await self._clock.sleep(FLUSH_PAUSE)
        await self._broker.flush(epoch)  # a broker that died meanwhile, without a word, has not taken them

    async def _attempt(self, record: Record) -> bool:
        """Whether the record is settled; False when its delivery became void on the way."""
        assert record.settlement is not None
        try:
            if not await self._confirm_copies(record):
                return False
            await self._finish(record.delivery, record.settlement.finish)
        except EpochLost:
            if record.settlement.finish == "ack" or not record.void:
                return False  # owed to the redelivery, which is awaited or has joined already
            self._inflight.forget(record)
            return True
        self._inflight.settled(record)
        return True

    async def _confirm_copies(self, record: Record) -> bool:
        """Publish what is not confirmed yet, again and again; False when the delivery became void."""
        assert record.settlement is not None
        pause = 0.0
        while record.confirmed < len(record.settlement.copies):
            if record.void:
                return False
            copy = record.settlement.copies[record.confirmed]
            try:
                await self._publish(copy)
                record.confirmed += 1
            except PublishFailed as error:
                if not self._giving_up:
                    pause = min(pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
                    await self._hold(copy.queue, str(error), pause)
                if self._giving_up:  # perhaps since the hold: a drain has no time for one more publish
                    record.settlement, record.confirmed = GIVE_BACK, 0
                    return True
        return not record.void

    async def _publish(self, copy: Outgoing) -> None:
        try:
            await self._broker.publish(copy)
        except Undeliverable as error:
            if copy.needed == "if_taken":
                log.warning("reply.undeliverable", reason=str(error))
                self._telemetry.reply_ended("undeliverable")
            elif copy.needed == "if_routable" and isinstance(error, Unroutable):
                log.error("callback.undeliverable", reason=str(error))  # noqa: TRY400 - the text says it all
                self._telemetry.callback_failed()
            else:
                raise
        else:
            if copy.needed == "if_taken":
                self._telemetry.reply_ended("sent")

    async def _hold(self, queue: str, error: str, pause: float) -> None:
        log.error("settle.publish_failed", queue=queue, error=error, again_in=round(pause, 1))
        over = asyncio.Event()
        timer = self._clock.call_later(pause * (0.5 + self._chance()), over.set)
        self._holds.add(over)
        try:
            await over.wait()
        finally:
            timer.cancel()
            self._holds.discard(over)

    async def _finish(self, delivery: Delivery, finish: Finish) -> None:
        match finish:
            case "ack":
                await self._broker.ack(delivery)
            case "requeue":
                await self._broker.requeue(delivery)
            case "refuse":
                await self._broker.refuse(delivery)
            case _:
                assert_never(finish)
