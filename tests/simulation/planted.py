"""Bugs to plant into the worker, one at a time: a checker that does not find them is not to be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from worker.core import copies, finished, policy
from worker.core.broker import EpochLost, PublishFailed
from worker.core.job import Job
from worker.core.message import Delivery, Message
from worker.core.outcome import Failed, Interrupted, Outcome, Rejected
from worker.core.policy import Ack, DeadLetter, Disposition, Park, Requeue
from worker.runtime import conclusions, executor
from worker.runtime.inflight import InFlight, Phase, Record
from worker.runtime.settlement import ACK, Settlement
from worker.runtime.settler import Settler
from worker.runtime.steps import Steps
from worker.service import Service

Plant = Callable[[pytest.MonkeyPatch], None]


def ack_before_the_copy_is_confirmed(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Any, record: Record) -> bool:
        assert record.settlement is not None
        try:
            await self._finish(record.delivery, record.settlement.finish)
            await self._confirm_copies(record)
        except EpochLost:
            return False
        self._inflight.settled(record)
        return True

    patch.setattr(Settler, "_attempt", attempt)


def ack_on_cancellation(patch: pytest.MonkeyPatch) -> None:
    _decide(patch, lambda outcome, decided: Ack() if isinstance(outcome, Interrupted) else decided)


def timed_out_is_done(patch: pytest.MonkeyPatch) -> None:
    def timed_out(outcome: Outcome, decided: Disposition) -> Disposition:
        return Ack() if isinstance(outcome, Failed) and outcome.error.startswith("timeout") else decided

    _decide(patch, timed_out)


def copy_dropped_when_its_publish_fails(patch: pytest.MonkeyPatch) -> None:
    own = Settler._publish

    async def publish(self: Any, copy: Any) -> None:
        try:
            await own(self, copy)
        except PublishFailed:
            return

    patch.setattr(Settler, "_publish", publish)


def joined_redelivery_swallowed(patch: pytest.MonkeyPatch) -> None:
    own = InFlight.attach

    def attach(self: Any, delivery: Delivery) -> tuple[Record, bool]:
        before = {record: record.delivery for record in self}
        record, joined = own(self, delivery)
        if joined:
            record.delivery = before[record]
        return record, joined

    patch.setattr(InFlight, "attach", attach)


def settled_twice(patch: pytest.MonkeyPatch) -> None:
    own = Settler._finish

    async def finish(self: Any, delivery: Delivery, word: Any) -> None:
        await own(self, delivery, word)
        await own(self, delivery, word)

    patch.setattr(Settler, "_finish", finish)


def copy_of_a_void_delivery_published(patch: pytest.MonkeyPatch) -> None:
    own = Settler.settle

    async def settle(self: Any, record: Record, settlement: Any) -> None:
        for copy in settlement.copies if record.void else ():
            await self._broker.publish(copy)
        await own(self, record, settlement)

    patch.setattr(Settler, "settle", settle)


def failed_is_requeued_for_ever(patch: pytest.MonkeyPatch) -> None:
    _decide(patch, lambda outcome, decided: Requeue() if isinstance(outcome, Failed) else decided)


def body_altered(patch: pytest.MonkeyPatch) -> None:
    own = copies._copy

    def copy(job: Job, *rest: Any) -> Message:
        made = own(job, *rest)
        return replace(made, body=made.body.replace(b" ", b""))

    patch.setattr(copies, "_copy", copy)


def attempts_not_counted(patch: pytest.MonkeyPatch) -> None:
    def uncounted(outcome: Outcome, decided: Disposition) -> Disposition:
        return replace(decided, attempt=1) if isinstance(decided, Park) and isinstance(outcome, Failed) else decided

    _decide(patch, uncounted)


def replaced_job_acked_on_a_stale_tag(patch: pytest.MonkeyPatch) -> None:
    own = InFlight.attach

    def attach(self: Any, delivery: Delivery) -> tuple[Record, bool]:
        tags = {record: record.delivery.tag for record in self}
        record, joined = own(self, delivery)
        if joined:
            record.delivery = replace(record.delivery, tag=tags[record])
        return record, joined

    patch.setattr(InFlight, "attach", attach)


def redelivery_runs_again(patch: pytest.MonkeyPatch) -> None:
    own = InFlight.attach
    patch.setattr(InFlight, "attach", lambda self, delivery: own(self, replace(delivery, redelivered=False)))


def replay_swallowed_as_a_duplicate(patch: pytest.MonkeyPatch) -> None:
    """Joined by the job's id instead of the message's."""
    own = InFlight.attach

    def attach(self: Any, delivery: Delivery) -> tuple[Record, bool]:
        headers = getattr(delivery.message.properties, "headers", {})
        for record in self:
            if record.phase is Phase.SETTLED and record.job and record.job.id == headers.get("x-worker-id"):
                record.delivery, record.settlement = delivery, ACK
                return record, True
        return own(self, delivery)

    patch.setattr(InFlight, "attach", attach)


def settled_forgotten_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InFlight, "settled", InFlight.forget)


def drain_without_a_flush(patch: pytest.MonkeyPatch) -> None:
    async def flush(self: Any) -> None: ...

    patch.setattr(Service, "_flush", flush)


def lost_on_the_drain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conclusions, "GIVE_BACK", ACK)


def finished_steps_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Steps, "finished", property(lambda self: {}))


def wrong_reason(patch: pytest.MonkeyPatch) -> None:
    def expired(outcome: Outcome, decided: Disposition) -> Disposition:
        return replace(decided, reason="expired") if isinstance(decided, DeadLetter) else decided

    _decide(patch, expired)


def rejected_is_retried(patch: pytest.MonkeyPatch) -> None:
    own = policy.decide

    def decide(outcome: Outcome, *rest: Any, **more: Any) -> Disposition:
        return own(Failed("rejected") if isinstance(outcome, Rejected) else outcome, *rest, **more)

    patch.setattr(conclusions, "decide", decide)


def ack_before_the_reply(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Settlement, "announced_by", lambda self, messages: self)


def records_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InFlight, "expire", lambda self: [])


def handler_that_ignores_cancellation_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(executor, "CLEANUP", 1e6)
    patch.setattr(executor, "DRAIN_CLEANUP", 1e6)


def publish_repeated_without_a_pause(patch: pytest.MonkeyPatch) -> None:
    async def hold(self: Any, queue: str, error: str, pause: float) -> None: ...

    patch.setattr(Settler, "_hold", hold)


def fan_out_without_a_finished_element_spoils_the_header(patch: pytest.MonkeyPatch) -> None:
    """The simulation found this one: then no step at all was remembered."""

    def joined(texts: Mapping[str, str]) -> str:
        return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"

    def all_of_them(steps: Any) -> dict[str, Any]:
        return {**steps._finished, **{name: fan.finished for name, fan in steps._fans.items()}}

    patch.setattr(finished, "_joined", joined)
    patch.setattr(Steps, "finished", property(all_of_them))


BUGS: Final[Mapping[Plant, str]] = {
    ack_before_the_copy_is_confirmed: "nothing done and nothing confirmed",
    ack_on_cancellation: "nothing done and nothing confirmed",
    timed_out_is_done: "lost: no success and no dead letter",
    copy_dropped_when_its_publish_fails: "lost: no success and no dead letter",
    joined_redelivery_swallowed: "liveness",
    settled_twice: "which it does not hold",
    copy_of_a_void_delivery_published: "of which it holds no delivery",
    failed_is_requeued_for_ever: "was delivered",
    body_altered: "was altered",
    attempts_not_counted: "attempts are allowed",
    replaced_job_acked_on_a_stale_tag: "which it does not hold",
    redelivery_runs_again: "has no cause",
    replay_swallowed_as_a_duplicate: "lost: no success and no dead letter",
    settled_forgotten_at_once: "has no cause",
    drain_without_a_flush: "has no cause",
    lost_on_the_drain: "lost: no success and no dead letter",
    finished_steps_forgotten: "though it was finished",
    fan_out_without_a_finished_element_spoils_the_header: "though it was finished",
    wrong_reason: "nothing says so",
    rejected_is_retried: "has no cause",
    ack_before_the_reply: "before its reply was confirmed",
    records_kept_for_ever: "still has",
    handler_that_ignores_cancellation_is_waited_for: "still has",
    publish_repeated_without_a_pause: "times within a second",
}
"""Each with what the verdict says of it."""


def _decide(patch: pytest.MonkeyPatch, change: Callable[[Outcome, Disposition], Disposition]) -> None:
    own = policy.decide

    def decide(outcome: Outcome, *rest: Any, **more: Any) -> Disposition:
        return change(outcome, own(outcome, *rest, **more))

    patch.setattr(conclusions, "decide", decide)
