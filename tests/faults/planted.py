"""Workers with a bug on purpose: the APP `tests.faults.planted:registry`, the bug named by FAULTS_PLANT.

Each is a mistake somebody could make, made at run time in the worker's own process. The checker must see every one of
them from outside.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Final

from tests.faults.handlers import registry
from worker.amqp.broker import RabbitBroker
from worker.amqp.publisher import Publisher
from worker.core.broker import PublishFailed
from worker.core.message import Delivery, Outgoing, Properties
from worker.core.outcome import Failed
from worker.core.policy import DeadLetter, Park, Requeue
from worker.runtime import conclusions, settlement
from worker.runtime.inflight import InFlight, Phase
from worker.runtime.pipeline import Pipeline
from worker.runtime.settlement import ACK, Settlements
from worker.runtime.settler import Settler

__all__ = ["BUGS", "registry"]


def ack_before_effect() -> None:
    """As with early acknowledgement: done when it begins."""
    deliver, ack = Pipeline.on_delivery, RabbitBroker.ack
    pending: set[asyncio.Task[None]] = set()

    def early(self: Pipeline, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(ack(self.settler._broker, delivery))  # type: ignore[arg-type]
        pending.add(task)
        deliver(self, delivery)

    async def nothing(self: RabbitBroker, delivery: Delivery) -> None:
        return

    _set(Pipeline, "on_delivery", early)
    _set(RabbitBroker, "ack", nothing)


def ack_on_cancel() -> None:
    """A job that was cancelled passes for done."""
    plain = Settlements._plain

    def settled(self: Settlements, disposition: Any, attempt: Any) -> Any:
        return ACK if isinstance(disposition, Requeue) else plain(self, disposition, attempt)

    _set(Settlements, "_plain", settled)


def dead_letter_without_confirm() -> None:
    """Published, not looked whether it arrived."""
    publish = Publisher.publish

    async def careless(self: Publisher, outgoing: Outgoing) -> None:
        try:
            await publish(self, outgoing)
        except PublishFailed:
            return

    _set(Publisher, "publish", careless)


def drop_on_drain() -> None:
    """What has not been started is acknowledged instead of given back."""

    async def dropped(self: Pipeline, record: Any) -> Any:
        record.phase = Phase.SETTLING
        await self._giving_back.wait()
        return ACK

    _set(Pipeline, "_given_back", dropped)


def double_settle() -> None:
    """Each delivery is acknowledged twice."""
    ack = RabbitBroker.ack

    async def twice(self: RabbitBroker, delivery: Delivery) -> None:
        await ack(self, delivery)
        await ack(self, delivery)

    _set(RabbitBroker, "ack", twice)


def requeue_loop() -> None:
    """A failed job goes back at once, and at once again."""
    _decide(lambda outcome, found: Requeue() if isinstance(outcome, Failed) else found)


def lost_redelivery() -> None:
    """What comes again is taken for known, and forgotten."""
    deliver = Pipeline.on_delivery

    def deaf(self: Pipeline, delivery: Delivery) -> None:
        if not delivery.redelivered:
            deliver(self, delivery)

    _set(Pipeline, "on_delivery", deaf)


def wrong_reason() -> None:
    """Every dead letter has expired, it says."""
    _decide(lambda _, found: replace(found, reason="expired") if isinstance(found, DeadLetter) else found)


def altered_body() -> None:
    """Copies lose their last bytes."""
    copy = _get(settlement, "dead_copy")

    def cut(*arguments: Any, **options: Any) -> Outgoing:
        outgoing: Outgoing = copy(*arguments, **options)
        return replace(outgoing, message=replace(outgoing.message, body=outgoing.message.body[:-1]))

    _set(settlement, "dead_copy", cut)


def lost_header() -> None:
    """Copies forget who published them."""
    copy = _get(settlement, "dead_copy")

    def cut(*arguments: Any, **options: Any) -> Outgoing:
        outgoing: Outgoing = copy(*arguments, **options)
        assert isinstance(outgoing.message.properties, Properties)
        properties = replace(outgoing.message.properties, app_id=None)
        return replace(outgoing, message=replace(outgoing.message, properties=properties))

    _set(settlement, "dead_copy", cut)


def retry_without_limit() -> None:
    """Tried for ever."""

    def again(_: Any, found: Any) -> Any:
        is_spent = isinstance(found, DeadLetter) and found.reason == "attempts_exhausted"
        return Park(0.1, found.attempts, 0, 0, "retry") if is_spent else found

    _decide(again)


def stale_ack() -> None:
    """A delivery that was joined keeps its old number, which is another job's on the new session."""
    attach = InFlight.attach

    def stale(self: InFlight, delivery: Delivery) -> Any:
        before = {id(record): record.delivery.tag for record in self}
        record, joined = attach(self, delivery)
        if joined:
            record.delivery = replace(delivery, tag=before[id(record)])
        return record, joined

    _set(InFlight, "attach", stale)


def replay_swallowed() -> None:
    """A job id that has ended once is acknowledged without a run, as if it were a duplicate."""
    settle, decide, known = Settler.settle, Pipeline._settlement_for, set[str]()

    async def remembering(self: Settler, record: Any, settlement: Any) -> None:
        await settle(self, record, settlement)
        if record.job is not None:
            known.add(record.job.id)

    async def seen(self: Pipeline, record: Any) -> Any:
        properties = record.delivery.message.properties
        return ACK if properties.headers.get("x-worker-id") in known else await decide(self, record)

    _set(Settler, "settle", remembering)
    _set(Pipeline, "_settlement_for", seen)


def no_joining() -> None:
    """A redelivery starts a second run beside the first one."""
    attach = InFlight.attach

    def alone(self: InFlight, delivery: Delivery) -> Any:
        return attach(self, replace(delivery, redelivered=False))

    _set(InFlight, "attach", alone)


def silent_consumer() -> None:
    """A lost session is not replaced: connected, and deaf."""

    async def idle(self: RabbitBroker) -> None:
        await asyncio.Event().wait()

    _set(RabbitBroker, "_have_another", idle)


BUGS: Final[dict[str, Callable[[], None]]] = {
    bug.__name__: bug
    for bug in (
        *(ack_before_effect, ack_on_cancel, dead_letter_without_confirm, drop_on_drain, double_settle, requeue_loop),
        *(lost_redelivery, wrong_reason, altered_body, lost_header, retry_without_limit, stale_ack),
        *(replay_swallowed, no_joining, silent_consumer),
    )
}


def _decide(change: Callable[[Any, Any], Any]) -> None:
    """Change what follows from an outcome."""
    decide = _get(conclusions, "decide")

    @wraps(decide)
    def changed(outcome: Any, *arguments: Any, **options: Any) -> Any:
        return change(outcome, decide(outcome, *arguments, **options))

    _set(conclusions, "decide", changed)


def _get(where: object, name: str) -> Any:
    """An AttributeError when it is called otherwise by now: the bug would not be planted."""
    return getattr(where, name)


def _set(where: object, name: str, what: object) -> None:
    _get(where, name)
    setattr(where, name, what)


if planted := os.environ.get("FAULTS_PLANT"):
    BUGS[planted]()
