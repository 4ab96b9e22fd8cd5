"""The way of one message: decode, find, admit, run, decide. A delivery goes in, its settlement comes out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, assert_never

import structlog

from worker.core.copies import (
    CopyRules,
    TooManyHeaders,
    dead_copy,
    forgets,
    history_entry,
    malformed_copy,
    suspect_copy,
    wait_copy,
)
from worker.core.job import DecodeRules, Finished, Job, Malformed, decode
from worker.core.message import Delivery, Epoch
from worker.core.outcome import (
    DETAIL_LIMIT,
    Failed,
    Interrupted,
    JobSignal,
    Outcome,
    Rejected,
    Snoozed,
    Succeeded,
)
from worker.core.policy import (
    Ack,
    DeadLetter,
    Disposition,
    Isolate,
    Park,
    Refuse,
    Requeue,
    RetryPolicy,
    decide,
    on_arrival,
)
from worker.runtime.broker import Broker, EpochLost
from worker.runtime.context import Context, Tools
from worker.runtime.ends import error_name, outcome_of, where
from worker.runtime.executor import Run
from worker.runtime.inflight import InFlight, Phase, Record, Settlement
from worker.runtime.limiter import Busy
from worker.runtime.registry import Registration, Registry
from worker.runtime.settler import Settler
from worker.runtime.telemetry import AttemptReport, Telemetry

log = structlog.get_logger("worker.pipeline")

BUSY_FIRST: Final = 1.0
BUSY_LONGEST: Final = 60.0
TIDY_EVERY: Final = 1.0


@dataclass(slots=True)
class _Attempt:
    """What is known of an attempt when it has ended."""

    job: Job
    outcome: Outcome
    steps: Mapping[str, Finished]
    ran: bool = False
    started: float = 0.0
    queued: float = 0.0
    seconds: float = 0.0
    network: float = 0.0
    requests: int = 0
    trouble: Mapping[str, str] = field(default_factory=dict)

    @property
    def history(self) -> tuple[str, ...]:
        if not self.ran:
            return self.job.history
        entry = history_entry(self.job, _result(self.outcome), started=self.started, seconds=self.seconds)
        return (*self.job.history, entry)


class Pipeline:
    """Takes deliveries from a broker and settles every one of them. One per work queue and process."""

    def __init__(
        self,
        broker: Broker,
        registry: Registry,
        rules: Rules,
        tools: Tools,
        telemetry: Telemetry,
        *,
        state: Any = None,
        chance: Callable[[], float] = lambda: secrets.randbelow(1 << 30) / (1 << 30),
        fresh_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._registry = registry
        self._rules = rules
        self._tools = tools
        self._telemetry = telemetry
        self._state = state
        self._chance = chance
        self._fresh_id = fresh_id
        self._clock = tools.clock
        self.inflight = InFlight(tools.clock)
        self.settler = Settler(broker, self.inflight, tools.clock, telemetry, chance)
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[Record, Run] = {}
        self._stopping = False
        self._epoch: Epoch | None = None

    # What the broker calls.

    def on_epoch(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self.inflight.epoch_began()

    def on_lost(self, epoch: Epoch) -> None:
        self.inflight.epoch_lost(epoch)

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
        """Give back at once what has not been started, and whatever is still delivered."""
        self._stopping = True
        for record in self.inflight:
            if record.phase is Phase.WAITING and record.task is not None:
                record.task.cancel()

    def interrupt(self) -> None:
        """Stop what runs; it goes back to the broker with its finished steps."""
        for run in list(self._runs.values()):
            run.interrupt()

    @property
    def running(self) -> int:
        return len(self._runs)

    @property
    def unsettled(self) -> int:
        return sum(record.phase is not Phase.SETTLED for record in self.inflight)

    async def idle(self) -> None:
        """Return when no job is under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """End every task that is left; their deliveries go back with the connection."""
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

    def _spawn(self, record: Record, way: Any) -> None:
        record.task = asyncio.get_running_loop().create_task(way)
        self._tasks.add(record.task)
        record.task.add_done_callback(self._tasks.discard)

    async def _work(self, record: Record) -> None:
        try:
            settlement = await self._settlement_for(record)
        except asyncio.CancelledError:
            if record.phase is not Phase.WAITING or record.dropped:
                raise
            settlement = Settlement((), "requeue")
        await self.settler.settle(record, settlement)

    async def _settlement_for(self, record: Record) -> Settlement:
        message = record.delivery.message
        if self._stopping:
            return Settlement((), "requeue")
        if not message.buffered:
            return self._settlement(Refuse(), None)
        job = decode(message, self._rules.decode, now=self._clock.now(), fresh_id=self._fresh_id())
        if isinstance(job, Malformed):
            return self._malformed(record, job)
        record.info = {"id": job.id, "type": job.type, "attempt": job.attempt}
        arrival = on_arrival(
            job,
            now=self._clock.now(),
            delivery_count=record.delivery.delivery_count,
            suspect_lane=self._rules.suspect_lane,
        )
        if arrival is not None:
            return self._settlement(arrival, _Attempt(job, Interrupted(), job.steps))
        registration = self._registry.find(job.type)
        attempt = await self._attempt(record, job, registration)
        return self._settlement(self._decide(attempt, registration), attempt)

    async def _attempt(self, record: Record, job: Job, registration: Registration) -> _Attempt:
        """Admit and run; every end is named, the worker's own faults included."""
        if job.not_before is not None and (rest := job.not_before - self._clock.now()) > 0:
            await self._clock.sleep(rest)
        try:
            payload = registration.validate(job.payload)
            keys = registration.keys(payload)
        except Exception as error:
            trouble = {} if isinstance(error, JobSignal) else {"error": error_name(error), "at": where(error)}
            return _Attempt(job, outcome_of(error), job.steps, trouble=trouble)
        rules = self._rules.for_type(registration)
        own = {} if rules.concurrency is None else {f"type:{registration.type}": rules.concurrency}
        try:
            async with self._tools.limiter.job(keys, own):
                return await self._run(record, job, registration, payload, rules.timeout)
        except Busy:
            delay = min(BUSY_LONGEST, BUSY_FIRST * 2.0 ** min(job.snoozes, 10)) * (1 + self._chance())
            return _Attempt(job, Snoozed(delay, "busy_key"), job.steps)

    async def _run(
        self, record: Record, job: Job, registration: Registration, payload: Any, timeout: float
    ) -> _Attempt:
        if record.void:
            raise asyncio.CancelledError  # not started: its redelivery starts it
        now, started = self._clock.now(), self._clock.monotonic()
        if job.deadline is not None:
            timeout = min(timeout, max(0.0, job.deadline - now))
        context = Context(job, self._tools, self._state)
        run = Run(context, registration, payload, self._clock)
        queued = started - record.delivery.received
        record.phase, record.since = Phase.RUNNING, started
        self._runs[record] = run
        self._telemetry.attempt_started(registration.type)
        with structlog.contextvars.bound_contextvars(id=job.id, type=job.type, attempt=job.attempt):
            try:
                outcome = await run.outcome(timeout)
            finally:
                del self._runs[record]
        return _Attempt(
            job,
            outcome,
            dict(context.steps.finished),
            ran=True,
            started=now,
            queued=queued,
            seconds=self._clock.monotonic() - started,
            network=context.network_seconds,
            requests=context.requests,
            trouble=run.trouble(),
        )

    # What follows.

    def _decide(self, attempt: _Attempt, registration: Registration) -> Disposition:
        job = replace(attempt.job, steps=attempt.steps)
        policy = self._rules.for_type(registration).policy
        return decide(attempt.outcome, job, policy, now=self._clock.now(), chance=self._chance())

    def _malformed(self, record: Record, malformed: Malformed) -> Settlement:
        self._telemetry.dead_lettered(malformed.reason)
        log.warning("job.dead", id=malformed.id, reason=malformed.reason, detail=malformed.detail)
        message = record.delivery.message
        copy = malformed_copy(message, malformed, copy_id=self._fresh_id(), rules=self._rules.copies)
        return Settlement((copy,), "ack")

    def _settlement(self, disposition: Disposition, attempt: _Attempt | None) -> Settlement:
        """The disposition as messages and a word to the broker, told to the log on the way."""
        if attempt is None:
            log.warning("message.refused", reason="too_large")
            return Settlement((), "refuse")
        try:
            final, settlement = self._with_copies(disposition, attempt)
        except TooManyHeaders as error:
            detail = f"the headers are too large: {', '.join(name[:40] for name in error.names[:5])}"
            final = DeadLetter("too_large", detail, attempt.job.attempt if attempt.ran else attempt.job.attempt - 1)
            _, settlement = self._with_copies(final, attempt)
        self._report(final, attempt)
        return settlement

    def _with_copies(self, disposition: Disposition, attempt: _Attempt) -> tuple[Disposition, Settlement]:
        job, rules, copy_id = attempt.job, self._rules.copies, self._fresh_id()
        match disposition:
            case Ack():
                return disposition, Settlement((), "ack")
            case Requeue():
                return disposition, Settlement((), "requeue")
            case Refuse():
                return disposition, Settlement((), "refuse")
            case Isolate():
                return disposition, Settlement((suspect_copy(job, copy_id=copy_id, rules=rules),), "ack")
            case DeadLetter():
                copy = dead_copy(job, disposition, attempt.steps, attempt.history, copy_id=copy_id, rules=rules)
                return disposition, Settlement((copy,), "ack")
            case Park():
                due = self._clock.now() + disposition.delay
                history = attempt.history
                copy = wait_copy(job, disposition, attempt.steps, history, copy_id=copy_id, due=due, rules=rules)
                if disposition.attempt == job.attempt and attempt.ran and forgets(copy, attempt.steps):
                    return self._with_copies(self._costing(disposition, attempt), attempt)
                return disposition, Settlement((copy,), "ack")
            case _:
                assert_never(disposition)

    def _costing(self, park: Park, attempt: _Attempt) -> Disposition:
        """A wait that would be free, but forgets a finished step: were it free, the step could be repeated for ever."""
        policy = self._rules.for_type(self._registry.find(attempt.job.type)).policy
        if attempt.job.attempt >= policy.attempts:
            return DeadLetter("attempts_exhausted", "finished steps too large to travel", attempt.job.attempt)
        return replace(park, attempt=park.attempt + 1)

    def _report(self, disposition: Disposition, attempt: _Attempt) -> None:
        match disposition:
            case Park():
                self._telemetry.parked(disposition.reason)
            case DeadLetter():
                self._telemetry.dead_lettered(disposition.reason)
        if not attempt.ran and not isinstance(disposition, DeadLetter):
            return
        reason, detail = _why(disposition, attempt.outcome)
        job = attempt.job
        report = AttemptReport(
            id=job.id,
            type=job.type,
            attempt=job.attempt,
            snoozes=job.snoozes,
            ran=attempt.ran,
            outcome=_word(attempt.outcome) if attempt.ran else "rejected",
            disposition=_word(disposition),
            reason=reason,
            detail=detail[:DETAIL_LIMIT],
            queued=attempt.queued,
            seconds=attempt.seconds,
            network=attempt.network,
            requests=attempt.requests,
            next_in=disposition.delay if isinstance(disposition, Park) else None,
            trouble=attempt.trouble,
        )
        self._telemetry.attempt_finished(report)


def _why(disposition: Disposition, outcome: Outcome) -> tuple[str, str]:
    match disposition, outcome:
        case DeadLetter(reason, detail, _), _:
            return reason, detail
        case Park(), Failed(error):
            return "retry", error
        case Park(), _:
            return disposition.reason, ""
        case _:
            return "", ""


def _word(value: Outcome | Disposition) -> str:
    match value:
        case Park():
            return "parked"
        case DeadLetter():
            return "dead"
        case Isolate():
            return "isolated"
        case Requeue():
            return "requeued"
        case _:
            return type(value).__name__.lower()


def _result(outcome: Outcome) -> str:
    match outcome:
        case Failed(error):
            return f"failed: {error}"
        case Rejected(reason, _):
            return f"rejected: {reason}"
        case Snoozed(_, reason):
            return f"snoozed: {reason}"
        case Succeeded() | Interrupted():
            return _word(outcome)
