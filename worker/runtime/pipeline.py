"""The way of one message: decode, find, admit, run, conclude. A delivery goes in, its settlement comes out."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import structlog

from worker.core.broker import Broker, EpochLost
from worker.core.job import Job, Malformed, decode
from worker.core.message import Delivery, Epoch
from worker.core.outcome import Rejected, Snoozed, Succeeded
from worker.core.policy import on_arrival
from worker.runtime.announcements import Announcements
from worker.runtime.asked import as_asked
from worker.runtime.attempt import NOT_VALIDATED, Attempt
from worker.runtime.clock import Clock
from worker.runtime.conclusions import Conclusions
from worker.runtime.ends import outcome_of, trouble_of
from worker.runtime.executor import Executor
from worker.runtime.inflight import InFlight, Phase, Record
from worker.runtime.intake import Arrivals, Unwatched
from worker.runtime.limiter import Asker, Busy, Limiter
from worker.runtime.registry import Registration, Registry
from worker.runtime.rules import Rules, TypeRules
from worker.runtime.settlement import REFUSE, Settlement, Settlements
from worker.runtime.settler import Settler
from worker.runtime.telemetry import Telemetry

log = structlog.get_logger("worker.pipeline")

TIDY_EVERY: Final = 1.0


class Pipeline:
    """Takes deliveries from one queue and settles every one of them.

    `chance` gives numbers from [0, 1) for jitter, `fresh_id` ids for copies and for messages without one.
    """

    def __init__(
        self,
        broker: Broker,
        registry: Registry,
        executor: Executor,
        limiter: Limiter,
        *,
        rules: Rules,
        telemetry: Telemetry,
        clock: Clock,
        arrivals: Arrivals | None = None,
        chance: Callable[[], float] = random.random,
        fresh_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._registry = registry
        self._executor = executor
        self._limiter = limiter
        self._rules = rules
        self._telemetry = telemetry
        self._clock = clock
        self._arrivals = arrivals or Unwatched()
        self._chance = chance
        self._fresh_id = fresh_id
        self._conclusions = Conclusions(
            rules.suspect_lane,
            Settlements(rules.copies, clock.now, fresh_id),
            Announcements(rules.replies, clock.now, telemetry),
            telemetry,
            clock,
            chance,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting = 0
        self._stopping = False
        self._closing = False
        self._giving_back = asyncio.Event()
        self._epoch: Epoch | None = None
        self.inflight = InFlight(clock)
        self.settler = Settler(broker, self.inflight, clock, telemetry, chance)

    # What the broker calls.

    def on_epoch(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self.inflight.epoch_began()

    def on_lost(self, epoch: Epoch) -> None:
        self.inflight.epoch_lost(epoch)
        if self._giving_back.is_set():
            self._let_go_of_void()

    def on_delivery(self, delivery: Delivery) -> None:
        record, joined = self.inflight.attach(delivery)
        if not joined:
            self._spawn(record, self._work(record))
        elif record.phase is Phase.SETTLED and record.settlement is not None:
            self._spawn(record, self.settler.settle(record, record.settlement))

    # What the service calls.

    async def tidy(self) -> None:
        """For ever: forget what is safely settled, and what no redelivery will join any more."""
        while True:
            await self.inflight.untidy()
            await self._clock.sleep(TIDY_EVERY)
            for record in self.inflight.expire():
                log.info("redelivery.not_seen", **record.info, phase=record.phase.value)
            if self._epoch is not None and not self._epoch.lost and self.inflight.awaiting_flush:
                before = self._clock.monotonic()
                try:
                    await self.settler.flush(self._epoch)
                except EpochLost:
                    continue
                self.inflight.forget_processed(before)

    def stop_starting(self) -> None:
        """Start nothing more, and keep what has not been started for `give_back`.

        Given back while the queue is still consumed, it would be delivered here again, and counted each time.
        """
        self._stopping = True

    def give_back(self) -> None:
        """Hand back at once what has not been started, and whatever is still delivered."""
        self.stop_starting()
        self._giving_back.set()
        self.settler.no_more_sessions()
        self._let_go_of_void()
        for record in self.inflight:
            # A task cancelled before its first step would settle nothing; such a one has read no job yet, and sees
            # for itself that nothing starts any more.
            if record.phase is Phase.WAITING and record.task is not None and record.job is not None:
                record.task.cancel()

    def _let_go_of_void(self) -> None:
        """Nobody delivers again here what the broker has taken back: what has ended need not wait for it."""
        for record in self.inflight:
            if record.void and record.phase is Phase.SETTLING:
                self.inflight.forget(record)

    def interrupt(self) -> None:
        """Stop what runs; it goes back to the broker with its finished steps."""
        for record in self.inflight:
            if record.run is not None:
                record.run.interrupt()

    @property
    def running(self) -> int:
        return sum(record.run is not None for record in self.inflight)

    @property
    def unsettled(self) -> bool:
        """Whether any delivery is under way."""
        return bool(self._tasks)

    @property
    def held(self) -> int:
        """Deliveries the broker does not take the copies of at present."""
        return self.settler.held

    @property
    def epoch(self) -> Epoch | None:
        """The session that delivers, or the last one that did."""
        return self._epoch

    async def idle(self) -> None:
        """Return when no delivery is under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """End every task that is left; their deliveries go back with the connection."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def jobs(self) -> list[dict[str, Any]]:
        """What is in flight, the oldest first, for `/jobs`."""
        now = self._clock.monotonic()
        rows = [
            {**record.info, "state": record.phase.value, "seconds": round(now - record.since, 3), "void": record.void}
            for record in self.inflight
            if record.phase is not Phase.SETTLED
        ]
        return sorted(rows, key=lambda row: -float(row["seconds"]))

    # One message's way.

    def _spawn(self, record: Record, way: Coroutine[Any, Any, None]) -> None:
        record.task = asyncio.get_running_loop().create_task(way)
        self._tasks.add(record.task)
        record.task.add_done_callback(self._way_ended)

    def _way_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pipeline.unsettled", **trouble_of(error))

    async def _work(self, record: Record) -> None:
        try:
            settlement = await self._settlement_for(record)
        except asyncio.CancelledError:
            if record.phase is not Phase.WAITING or record.dropped or self._closing:
                raise
            settlement = await self._given_back(record)
        except Exception as error:  # noqa: BLE001 - a fault of ours: neither held for ever nor tried for ever
            log.error("pipeline.failed", **record.info, **trouble_of(error))  # noqa: TRY400 - a trace repeats values
            settlement = self._conclusions.after_fault(record.job, self._rules_for, record.info)
        await self.settler.settle(record, settlement)

    async def _settlement_for(self, record: Record) -> Settlement:
        message = record.delivery.message
        if not message.buffered:
            log.warning("message.refused", reason="too_large", announced=message.size)
            return REFUSE
        job = decode(message, self._rules.decode, now=self._clock.now(), fresh_id=self._fresh_id())
        if isinstance(job, Malformed):
            return self._conclusions.of_malformed(message, job)
        record.job = job
        if self._stopping:
            return await self._given_back(record)
        count = record.delivery.delivery_count
        arrival = on_arrival(
            job,
            now=self._clock.now(),
            delivery_count=count,
            suspect_lane=self._rules.suspect_lane,
            may_rest=self._resting < self._limiter.most_waiters,
        )
        if not self._rules.suspect_lane and count:  # the lane counts anew: there is nobody else to blame
            job = record.job = replace(job, crashes=job.crashes + count)
        registration = self._registry.find(job.type)
        rules = self._rules.for_type(registration)
        if arrival is not None:
            return self._conclusions.on_arrival(arrival, job, registration, rules)
        attempt = await self._attempt(record, job, registration, rules)
        return self._conclusions.of(attempt, registration, rules)

    async def _attempt(self, record: Record, job: Job, registration: Registration, rules: TypeRules) -> Attempt:
        """Admit and run; every end is named, the worker's own faults included."""
        if job.not_before is not None and (rest := job.not_before - self._clock.now()) > 0:
            await self._rest(rest)
        try:
            payload, keys = self._validated(job, registration)
        except BaseException as error:  # noqa: BLE001 - a validator or a key function may raise anything
            return Attempt.without_run(job, outcome_of(error), trouble=trouble_of(error))
        try:
            asker = Asker(job.id, job.first_seen, registration.type, rules.policy.latest(job))
            async with self._limiter.job(keys, rules.own_limits, asker) as admission:
                attempt = await self._run(record, job, registration, payload, rules.timeout)
                admission.ended(well=attempt.ended.well)
                return replace(attempt, ended=as_asked(attempt.ended, admission, self._clock, self._chance))
        except Busy as busy:
            self._arrivals.turned_away(job, busy)
            return Attempt.without_run(job, Snoozed(busy.delay, busy.reason))

    async def _rest(self, seconds: float) -> None:
        """What is left of a wait. Few may do so at a time: they keep others from being delivered."""
        self._resting += 1
        try:
            await self._clock.sleep(seconds)
        finally:
            self._resting -= 1

    def _validated(self, job: Job, registration: Registration) -> tuple[Any, tuple[str, ...]]:
        """The payload as the handler takes it, and the keys of the job."""
        if self._rules.suspect_lane:
            return job.payload, ()  # the validator and the key function are suspects as well: they run with the job
        payload = registration.validate(job.payload)
        return payload, registration.keys(payload)

    async def _run(self, record: Record, job: Job, registration: Registration, payload: Any, timeout: float) -> Attempt:
        if record.void or self._stopping:
            raise asyncio.CancelledError  # not started: whoever gets it next starts it
        now, started = self._clock.now(), self._clock.monotonic()
        if job.deadline is not None:
            if now >= job.deadline:
                return Attempt.without_run(job, Rejected("expired", "the deadline passed before the run"))
            timeout = min(timeout, job.deadline - now)
        self._telemetry.attempt_started(registration.type)
        with structlog.contextvars.bound_contextvars(id=job.id, type=job.type, attempt=job.attempt):
            record.run = self._executor.start(job, registration, payload, timeout)
            record.phase, record.since = Phase.RUNNING, started
            self._arrivals.started()
            well = False
            try:
                ended = await record.run.ended()
                well = isinstance(ended.outcome, Succeeded)
            finally:
                record.run = None
                self._arrivals.ended(well=well)
        return Attempt(
            job,
            ended,
            ran=True,
            started=now,
            queued=_queued(job, record.delivery, now, started),
            admission=started - record.delivery.received,
            seconds=self._clock.monotonic() - started,
            payload=NOT_VALIDATED if self._rules.suspect_lane else payload,
        )

    def _rules_for(self, job: Job) -> TypeRules:
        return self._rules.for_type(self._registry.find(job.type))

    async def _given_back(self, record: Record) -> Settlement:
        record.phase = Phase.SETTLING  # decided: give_back() cancels what is still on its way
        await self._giving_back.wait()
        return self._conclusions.given_back(record.job)


def _queued(job: Job, delivery: Delivery, now: float, started: float) -> float | None:
    """Seconds from the publisher's own timestamp to this delivery; the two machines' clocks may differ."""
    timestamp = job.properties.timestamp
    return None if timestamp is None else max(0.0, now - (started - delivery.received) - timestamp)
