"""The broker as one process has it: fulfils what `worker.service` needs of a RabbitBroker, and lets faults in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import replace
from typing import Final

from tests.simulation.broker import NO_CONTEXT, REPLIES, Consumer, Session, SimBroker, Word
from tests.simulation.jobs import order_of
from tests.simulation.ledger import Fault, Held, job_of
from worker.core.broker import EpochLost, Lane, PublishFailed, Undeliverable, Unroutable
from worker.core.message import Delivery, Epoch, Outgoing, Properties
from worker.testing.memory_broker import WORKER_USER

CONFIRM_SECONDS: Final = 30.0


class Door:
    """One process's way to the broker, until it is dead: then nothing it does has any effect."""

    node = "memory"
    blocked = False

    def __init__(self, broker: SimBroker, process: int, context: Context, die: Callable[[], None]) -> None:
        self._broker = broker
        self._ledger = broker.ledger
        self._chance = broker.chance
        self._process = process
        self._context = context
        self._die = die
        self._lanes: tuple[Lane, ...] = ()
        self._session: Session | None = None
        self._stopping = False
        self._pausing = False
        self.alive = True
        self.closed = False

    @property
    def consuming(self) -> bool:
        return self._session is not None and self._session.here and not self._stopping

    # What the service calls.

    async def connect(self, patience: float) -> int:
        await self._pass("consume")
        return 131_072 - 8 * 1024

    async def consume(self, lanes: Iterable[Lane]) -> None:
        self._lanes = tuple(lanes)
        self._connect()

    async def stop_consuming(self) -> None:
        """Until it is answered, deliveries still come."""
        self._stopping = True
        await self._pass("stop")
        if self._session is None or not self._session.here:
            return
        if not self._session.there:
            self._broker.lose_here(self._session)
        self._session.taking = False

    async def pause(self) -> None:
        self._pausing = True
        await self._pass("stop")
        if self._session is not None:
            self._session.taking = False

    async def resume(self) -> None:
        self._pausing = False
        await self._pass("stop")
        if self._session is not None:
            self._session.taking = not self._stopping
            self._broker._feed()

    async def close(self) -> None:
        self._stopping = True
        self._note_unpublished()
        await self._pass("close")
        if self._session is not None:
            self._broker._cut(self._session)
            self._broker.take_back(self._session)
            self._broker.lose_here(self._session)
        self.closed = True

    async def ack(self, delivery: Delivery) -> None:
        await self._settle("ack", delivery)

    async def requeue(self, delivery: Delivery) -> None:
        await self._settle("requeue", delivery)

    async def refuse(self, delivery: Delivery) -> None:
        await self._settle("refuse", delivery)

    async def flush(self, epoch: Epoch) -> None:
        self._consumer(epoch)
        await self._pass("flush")
        session = self._consumer(epoch).session
        if not session.there:
            self._broker.lose_here(session)
            raise EpochLost

    async def publish(self, outgoing: Outgoing) -> None:
        self._stay_out_when_dead()
        job, what = self._begun(outgoing)
        here = self._process, job
        states = self._ledger.publishing[here]
        mine = len(states)
        states.append("begun")
        try:
            await self._published(outgoing, job, what)
        except PublishFailed as error:
            states[mine] = "failed"
            self._ledger.write("failed", what, job, f"p{self._process}", error)
            raise
        states[mine] = "confirmed"
        self._ledger.write("confirmed", what, job, f"p{self._process}")
        if what == "copy":
            self._ledger.confirmed[here] += 1
        elif what != "child":
            self._ledger.announced[here].add(what)

    # Settling.

    async def _settle(self, word: Word, delivery: Delivery) -> None:
        consumer = self._consumer(delivery.epoch)
        fault = self._chance.strikes("settle")
        if fault == "full":
            await asyncio.sleep(self._chance.between(0, 2))
            consumer = self._consumer(delivery.epoch)
        elif fault.endswith("before"):
            self._happen(fault, consumer.session)
            consumer = self._consumer(delivery.epoch)
        token = consumer.held.pop(delivery.tag, None)
        if token is None:
            self._ledger.breach(f"p{self._process} sent {word} for tag {delivery.tag}, which it does not hold")
        else:
            self._ledger.write(word, job_of(token.message), f"m{token.number}", f"p{self._process}")
            self._judge(word, job_of(token.message), token.number)
        self._broker.send(consumer.session, word, consumer, delivery.tag)
        if fault == "lost on the way":
            self._later(0.3, self._broker.lose, consumer.session)
        elif fault.endswith("after"):
            self._happen(fault, consumer.session)

    def _judge(self, word: Word, id: str, number: int) -> None:
        """An acknowledgement needs a reason: the job has succeeded here, or what replaces it is confirmed (P1)."""
        ledger, here = self._ledger, (self._process, id)
        if word != "ack":
            self._note_unpublished(id)
            return
        ledger.acked[here].add(number)
        order = ledger.orders.get(id)
        succeeded, copies = ledger.succeeded_at(*here), ledger.confirmed[here]
        # The same message published twice may be taken for one: its publisher has repeated what had arrived.
        twins = id in ledger.twins
        if len(ledger.acked[here]) > succeeded + copies and not (twins and succeeded + copies):
            ledger.breach(f"P1: p{self._process} acked {id} with nothing done and nothing confirmed for it")
        if order is not None and succeeded and not copies:
            for what, wanted in (("reply", order.replies), ("callback", order.callback)):
                if wanted and what not in ledger.announced[here]:
                    ledger.breach(f"P1: p{self._process} acked {id} before its {what} was confirmed")

    def _note_unpublished(self, only: str = "") -> None:
        """A drain gives back what it cannot publish: that a run whose end was not taken repeats is owed to that."""
        ledger = self._ledger
        found = tuple(
            Held(job)
            for (process, job), states in ledger.publishing.items()
            if process == self._process and only in {"", job} and ("begun" in states or states[-1] == "failed")
        )
        if found and self._stopping:
            ledger.fault(Fault("not taken at the drain", self._process, ledger.now, found))

    # Publishing.

    def _begun(self, outgoing: Outgoing) -> tuple[str, str]:
        """Which job it is published for, and as what. Judges a copy: what it replaces must be held."""
        ledger, message = self._ledger, outgoing.message
        assert isinstance(message.properties, Properties)
        if outgoing.queue == REPLIES:
            return (message.properties.correlation_id or "").removeprefix("asked-"), "reply"
        job = job_of(message)
        if "x-worker-id" not in message.properties.headers:
            parent, _, name = job.rpartition("/")
            return (parent, "callback") if name == "callback" else (job, "child")
        ledger.write("publish", outgoing.queue, job, f"p{self._process}")
        ledger.tries_to_publish[self._process, message.properties.message_id or ""].append(ledger.now)
        if not self._holds(job):
            ledger.breach(f"p{self._process} published a copy of {job}, of which it holds no delivery")
        order = ledger.orders.get(job)
        if order is not None and message.body != order.body:
            ledger.breach(f"the body of {job} was altered")
        return job, "copy"

    async def _published(self, outgoing: Outgoing, job: str, what: str) -> None:
        fault = self._chance.strikes("publish")
        if fault.endswith("before"):
            self._happen(fault, self._session)
        await asyncio.sleep(0.001)
        self._stay_out_when_dead()
        if outgoing.queue not in self._broker._queues:
            raise Unroutable(f"no queue {outgoing.queue!r}")
        if outgoing.queue in self._broker.refusing:
            raise Undeliverable(f"queue {outgoing.queue!r} refuses")
        await self._may_fail(fault, outgoing, job, what)
        self._arrives(outgoing, what)
        if fault.endswith("after"):
            self._happen(fault, self._session)
        try:
            await asyncio.sleep(self._chance.between(0, 8) if fault == "late confirm" else 0.001)
            self._stay_out_when_dead()
        except asyncio.CancelledError:  # whoever waited for the confirm has been stopped
            if self.alive:
                self._arrived_unconfirmed(job)
            raise

    async def _may_fail(self, fault: str, outgoing: Outgoing, job: str, what: str) -> None:
        match fault:
            case "fails":
                self._ledger.fault(Fault("publish failed", self._process, self._ledger.now))
            case "no confirm":
                await asyncio.sleep(CONFIRM_SECONDS)
            case "late arrival":
                await asyncio.sleep(self._chance.between(0, 8))
                self._stay_out_when_dead()
                return
            case "arrives unconfirmed":
                self._arrives_unconfirmed(outgoing, job, what)
            case "arrives after all":
                self._later(2, self._arrives_unconfirmed, outgoing, job, what)
            case _:
                return
        raise PublishFailed("the connection broke, or it was not confirmed in time")

    def _arrives(self, outgoing: Outgoing, what: str) -> None:
        properties = outgoing.message.properties
        assert isinstance(properties, Properties)
        if what in {"child", "callback"}:
            child = order_of(outgoing.message)
            self._ledger.orders.setdefault(child.id, child)
        self._broker.arrive(
            outgoing.queue, replace(outgoing.message, properties=replace(properties, user_id=WORKER_USER))
        )

    def _arrives_unconfirmed(self, outgoing: Outgoing, job: str, what: str) -> None:
        self._arrived_unconfirmed(job)
        self._arrives(outgoing, what)

    def _arrived_unconfirmed(self, id: str) -> None:
        self._ledger.fault(Fault("arrived unconfirmed", self._process, self._ledger.now, (Held(id),)))

    def _holds(self, id: str) -> bool:
        session = self._session
        return (
            session is not None
            and session.here
            and any(
                job_of(token.message) == id
                for consumer in session.consumers.values()
                for token in consumer.held.values()
            )
        )

    # Sessions.

    def _connect(self) -> None:
        self._session = Session(self._process, self._context, self._lost, lambda: self.alive)
        self._session.taking = not self._pausing
        self._broker.open(self._session, self._lanes)

    def _lost(self, session: Session) -> None:
        if not self._stopping and self.alive and session is self._session:
            pause = self._chance.between(0.05, 4)
            self._broker._loop.call_later(pause, self._connect_again, context=self._context)

    def _connect_again(self) -> None:
        if self._stopping or not self.alive:
            return
        if self._broker.down:
            self._broker._loop.call_later(self._chance.between(0.05, 4), self._connect_again, context=self._context)
            return
        self._connect()

    def _consumer(self, epoch: Epoch) -> Consumer:
        self._stay_out_when_dead()
        consumer = None if self._session is None else self._session.consumers.get(epoch)
        if epoch.lost or consumer is None:
            raise EpochLost
        return consumer

    # Faults.

    async def _pass(self, operation: str) -> None:
        """The way to the broker and back, for what has no other effect than its answer."""
        self._stay_out_when_dead()
        fault = self._chance.strikes(operation)
        if fault.endswith("before"):
            self._happen(fault, self._session)
        await asyncio.sleep(self._chance.between(0.001, 0.02))
        self._stay_out_when_dead()
        if fault.endswith("after"):
            self._happen(fault, self._session)
        elif fault == "lost soon" and self._session is not None:
            self._later(0.3, self._broker.lose, self._session, "broker")

    def _later(self, longest: float, call: Callable[..., None], *arguments: object) -> None:
        delay = self._chance.between(0, longest)
        self._broker._loop.call_later(delay, call, *arguments, context=NO_CONTEXT)

    def _happen(self, fault: str, session: Session | None) -> None:
        if fault.startswith("dies"):
            self._die()
            raise asyncio.CancelledError
        if session is not None:
            self._broker.lose(session)

    def _stay_out_when_dead(self) -> None:
        if not self.alive:
            raise asyncio.CancelledError
