"""The way of one message: decode, find, admit, run, decide. A delivery goes in, its settlement comes out."""

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
from worker.core.outcome import Failed, Interrupted, Rejected, Snoozed
from worker.core.policy import DeadLetter, Disposition, Isolate, Requeue, decide, on_arrival
from worker.core.report import AttemptReport
from worker.runtime.announcements import Announcements
from worker.runtime.attempt import NOT_VALIDATED, Attempt
from worker.runtime.clock import Clock
from worker.runtime.ends import outcome_of, trouble_of
from worker.runtime.executor import Executor
from worker.runtime.inflight import InFlight, Phase, Record
from worker.runtime.limiter import Busy, Limiter
from worker.runtime.registry import Registration, Registry
from worker.runtime.rules import Rules, TypeRules
from worker.runtime.settlement import GIVE_BACK, REFUSE, Settlement, Settlements
from worker.runtime.settler import Settler
from worker.runtime.telemetry import Telemetry

log = structlog.get_logger("worker.pipeline")

BUSY_FIRST: Final = 1.0
BUSY_LONGEST: Final = 60.0
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
        chance: Callable[[], float] = random.random,
        fresh_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._registry = registry
        self._executor = executor
        self._limiter = limiter
        self._rules = rules
        self._telemetry = telemetry
        self._clock = clock
        self._chance = chance
        self._fresh_id = fresh_id
        self._settlements = Settlements(rules.copies, clock.now, fresh_id)
        self._announcements = Announcements(rules.replies, clock.now, telemetry)
        self._tasks: set[asyncio.Task[None]] = set()
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
            settlement = self._after_fault(record)
        await self.settler.settle(record, settlement)

    async def _settlement_for(self, record: Record) -> Settlement:
        message = record.delivery.message
        if not message.buffered:
            log.warning("message.refused", reason="too_large", announced=message.size)
            return REFUSE
        job = decode(message, self._rules.decode, now=self._clock.now(), fresh_id=self._fresh_id())
        if isinstance(job, Malformed):
            return self._malformed(record, job)
        record.job = job
        if self._stopping:
            return await self._given_back(record)
        count = record.delivery.delivery_count
        arrival = on_arrival(job, now=self._clock.now(), delivery_count=count, suspect_lane=self._rules.suspect_lane)
        if not self._rules.suspect_lane and count:  # the lane counts anew: there is nobody else to blame
            job = record.job = replace(job, crashes=job.crashes + count)
        registration = self._registry.find(job.type)
        rules = self._rules.for_type(registration)
        if arrival is not None:
            settled = self._settle_as(arrival, Attempt.without_run(job, Interrupted()), rules)
        else:
            attempt = await self._attempt(record, job, registration, rules)
            settled = self._settle_as(self._decide(attempt, rules), attempt, rules)
        return self._announced(record, registration, *settled)

    async def _attempt(self, record: Record, job: Job, registration: Registration, rules: TypeRules) -> Attempt:
        """Admit and run; every end is named, the worker's own faults included."""
        if job.not_before is not None and (rest := job.not_before - self._clock.now()) > 0:
            await self._clock.sleep(rest)
        try:
            payload, keys = self._validated(job, registration)
        except BaseException as error:  # noqa: BLE001 - a validator or a key function may raise anything
            return Attempt.without_run(job, outcome_of(error), trouble=trouble_of(error))
        try:
            async with self._limiter.job(keys, rules.own_limits):
                return await self._run(record, job, registration, payload, rules.timeout)
        except Busy:
            delay = min(BUSY_LONGEST, BUSY_FIRST * 2.0 ** min(job.snoozes, 10)) * (1 + self._chance())
            return Attempt.without_run(job, Snoozed(delay, "busy_key"))

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
            try:
                ended = await record.run.ended()
            finally:
                record.run = None
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

    # What follows.

    def _decide(self, attempt: Attempt, rules: TypeRules) -> Disposition:
        outcome = attempt.ended.outcome
        disposition = decide(outcome, attempt.job_after, rules.policy, now=self._clock.now(), chance=self._chance())
        if isinstance(disposition, DeadLetter) and not isinstance(outcome, Failed):
            disposition = replace(disposition, attempts=attempt.made)  # turned away is not attempted
        return self._off_the_lane(disposition)

    def _after_fault(self, record: Record) -> Settlement:
        """A failed attempt; where not even that can be written, the broker moves the message to the dead queue."""
        if record.job is None:
            return REFUSE
        try:
            attempt = Attempt.without_run(record.job, Failed("a fault of the worker"))
            rules = self._rules.for_type(self._registry.find(record.job.type))
            return self._settle_as(self._decide(attempt, rules), attempt, rules)[-1]
        except Exception as error:  # noqa: BLE001 - the same fault again
            log.error("pipeline.failed", **record.info, **trouble_of(error))  # noqa: TRY400 - a trace repeats values
            return REFUSE

    async def _given_back(self, record: Record) -> Settlement:
        record.phase = Phase.SETTLING  # decided: give_back() cancels what is still on its way
        await self._giving_back.wait()
        if not self._rules.suspect_lane or record.job is None:
            return GIVE_BACK
        return self._settlements.of(Isolate(), Attempt.without_run(record.job, Interrupted()), attempts=0)[1]

    def _off_the_lane(self, disposition: Disposition) -> Disposition:
        # Brokers before 4.3 count what is given back, and on the suspects' lane that count is the accusation: there a
        # fresh copy takes the place of a delivery that was given back.
        return Isolate() if self._rules.suspect_lane and isinstance(disposition, Requeue) else disposition

    def _malformed(self, record: Record, malformed: Malformed) -> Settlement:
        report = AttemptReport(
            id=malformed.id,
            type="",
            attempt=malformed.attempts,
            snoozes=0,
            outcome="rejected",
            disposition="dead",
            reason=malformed.reason,
            detail=malformed.detail,
            ran=False,
        )
        self._telemetry.attempt_finished(report)
        message = record.delivery.message
        return self._settlements.of_malformed(message, malformed).announced_by(
            self._announcements.of_malformed(message, malformed)
        )

    def _settle_as(
        self, disposition: Disposition, attempt: Attempt, rules: TypeRules
    ) -> tuple[Attempt, Disposition, Settlement]:
        final, settlement = self._settlements.of(disposition, attempt, rules.policy.attempts)
        self._telemetry.attempt_finished(attempt.report(final))
        return attempt, final, settlement

    def _announced(
        self, record: Record, registration: Registration, attempt: Attempt, final: Disposition, settlement: Settlement
    ) -> Settlement:
        # A validator may be what kills: then it must not be tried here, where the neighbours are.
        is_killer = isinstance(final, DeadLetter) and final.reason == "crashed_worker"
        try:
            messages = self._announcements.of(final, attempt, registration, may_validate=not is_killer)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not change how the job ended
            log.error("announcements.failed", **record.info, **trouble_of(error))  # noqa: TRY400 - a trace repeats values
            return settlement
        return settlement.announced_by(messages)


def _queued(job: Job, delivery: Delivery, now: float, started: float) -> float | None:
    """Seconds from the publisher's own timestamp to this delivery; the two machines' clocks may differ."""
    timestamp = job.properties.timestamp
    return None if timestamp is None else max(0.0, now - (started - delivery.received) - timestamp)
