"""A MemoryBroker as a network shows it: several processes, frames under way, sessions whose two ends disagree."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from tests.simulation.chance import Chance
from tests.simulation.ledger import Fault, Held, Ledger, job_of
from tests.simulation.virtual_time import LoopClock
from worker.core.broker import Lane
from worker.core.message import Delivery, Epoch, Message, Properties
from worker.testing.clock import ManualClock
from worker.testing.memory_broker import MemoryBroker, _Stored, _with_death

ACK_SECONDS: Final = 0.25
"""Longest time until a quorum queue has really taken a settlement that it has received."""

SILENT_SECONDS: Final = 20.0
"""Longest time one end of a session takes for alive what the other end knows to be dead."""

REPLIES: Final = "replies.all"
NO_CONTEXT: Final = Context()

Word = Literal["ack", "requeue", "refuse"]


@dataclass(slots=True)
class Token(_Stored):
    """One message at the broker, wherever it is at the moment. A copy is another one."""

    number: int = 0


class Consumer:
    """One lane of a session, from both ends."""

    def __init__(self, lane: Lane, session: Session, epoch: Epoch) -> None:
        self.lane = lane
        self.session = session
        self.epoch = epoch
        self.unacked: dict[int, Token] = {}
        """At the broker: handed over and not settled."""
        self.held: dict[int, Token] = {}
        """At the worker: arrived, and no settlement sent."""
        self.tags = itertools.count(1)


@dataclass(eq=False)
class Session:
    """A connection that consumes. `here` is what the worker takes it for, `there` what the broker does."""

    process: int
    context: Context
    on_lost_here: Callable[[Session], None]
    alive: Callable[[], bool]
    here: bool = True
    there: bool = True
    taking: bool = True
    consumers: dict[Epoch, Consumer] = field(default_factory=dict)
    frames: deque[tuple[Word, Consumer, int]] = field(default_factory=deque)
    frames_due: float = 0.0
    deliveries_due: float = 0.0
    fault: Fault | None = None


class SimBroker(MemoryBroker):
    """One broker for all processes of a run."""

    def __init__(self, ledger: Ledger, chance: Chance) -> None:
        super().__init__(cast(ManualClock, LoopClock()))
        self.ledger = ledger
        self.chance = chance
        self.sessions: list[Session] = []
        self.on_deliver: Callable[[Session], None] = lambda session: None
        self.down = False
        """Whether nobody can connect at present."""
        self._numbers = itertools.count(1)
        self._arrived: set[str | None] = set()
        self._loop = asyncio.get_running_loop()
        self.declare(REPLIES)

    # What the doors of the processes call.

    def open(self, session: Session, lanes: Iterable[Lane]) -> None:
        for lane in lanes:
            epoch = Epoch(next(self._epochs))
            session.consumers[epoch] = Consumer(lane, session, epoch)
            lane.receiver.on_epoch(epoch)
        self.sessions.append(session)
        self.ledger.write("session", f"p{session.process}")
        self._feed()

    def send(self, session: Session, word: Word, consumer: Consumer, tag: int) -> None:
        """A settlement leaves the worker. It is processed a little later, in its order, if the session lives."""
        delay = self.chance.between(0, ACK_SECONDS) if self.chance.dice.random() < self.chance.slow_acks else 0.001
        session.frames_due = max(session.frames_due + 1e-6, self._loop.time() + delay)
        session.frames.append((word, consumer, tag))
        self._loop.call_at(session.frames_due, self._process_next, session, context=NO_CONTEXT)

    def arrive(self, queue: str, message: Message) -> None:
        self._arrive(queue, message)

    # Faults.

    def lose(self, session: Session, first: str = "") -> None:
        """The session breaks: for the `broker` first, for the `worker` first, for `both` at once, or as chance will."""
        if not (session.here and session.there):
            return
        self._cut(session)
        session.fault = self._fault_of("loss", session.process, [session])
        self.ledger.fault(session.fault)
        silence = self.chance.between(0.05, SILENT_SECONDS if self.chance.dice.random() < 0.5 else 1.0)
        match first or self.chance.dice.choice(("both", "both", "broker", "worker")):
            case "broker":
                self.take_back(session)
                self._loop.call_later(silence, self.lose_here, session, context=NO_CONTEXT)
            case "worker":
                self.lose_here(session)
                self._loop.call_later(silence, self.take_back, session, context=NO_CONTEXT)
            case _:
                self.take_back(session)
                self.lose_here(session)

    def lose_here(self, session: Session) -> None:
        """The worker's end finds out."""
        if not session.here:
            return
        session.here = False
        if session.fault is not None:
            session.fault.known = self._loop.time()
        for epoch in session.consumers:
            epoch.lost = True
        self.ledger.write("lost", f"p{session.process}")
        if session.alive():
            for epoch, consumer in session.consumers.items():
                consumer.lane.receiver.on_lost(epoch)
        session.on_lost_here(session)

    def take_back(self, session: Session) -> None:
        """The broker's end finds out: what is not settled is delivered again."""
        if not session.there:
            return
        session.there = False
        session.frames.clear()
        self.sessions.remove(session)
        for consumer in session.consumers.values():
            back = [token for _, token in sorted(consumer.unacked.items())]
            consumer.unacked.clear()
            self._give_back(back, failed=True)
        self.ledger.write("taken back", f"p{session.process}")
        self._feed()

    def process_died(self, process: int) -> None:
        """A process is gone: its sessions are taken back, at once or when the heartbeat stays out."""
        mine = [session for session in self.sessions if session.process == process]
        for session in mine:
            self._cut(session)
        self.ledger.fault(self._fault_of("death", process, mine))
        late = self.chance.dice.random() < 0.2
        for session in mine:
            session.here = False
            for epoch in session.consumers:
                epoch.lost = True
            delay = self.chance.between(0, SILENT_SECONDS) if late else 0.0
            self._loop.call_later(delay, self.take_back, session, context=NO_CONTEXT)

    def _fault_of(self, kind: str, process: int, sessions: list[Session]) -> Fault:
        held = tuple(
            Held(job_of(token.message), token.number)
            for session in sessions
            for consumer in session.consumers.values()
            for token in consumer.unacked.values()
        )
        return Fault(kind, process, self._loop.time(), held)

    def _cut(self, session: Session) -> None:
        """Of the settlements under way some were processed, in their order, and the rest never will be."""
        for _ in range(self.chance.dice.randint(0, len(session.frames))):
            self._process_next(session)
        session.frames.clear()

    # What tests and the end ask.

    @property
    def unacked(self) -> int:
        return sum(len(consumer.unacked) for session in self.sessions for consumer in session.consumers.values())

    # How messages move.

    def _process_next(self, session: Session) -> None:
        if not session.there or not session.frames:
            return
        word, consumer, tag = session.frames.popleft()
        token = consumer.unacked.pop(tag, None)
        if token is None:
            self.ledger.breach(f"p{session.process} settled tag {tag}, which is not delivered: the channel is closed")
            self.take_back(session)
            self.lose_here(session)
            return
        self.ledger.write("processed", word, job_of(token.message), f"m{token.number}", f"p{session.process}")
        match word:
            case "requeue":
                self._give_back([token], failed=self.chance.give_backs_count)
            case "refuse":
                self._arrive(self.topology.dead_name, _with_death(token.message, token.queue, "rejected"))
        self._feed()

    def _arrive(self, queue: str, message: Message) -> None:
        token = Token(message, queue, number=next(self._numbers))
        self.ledger.write("arrived", queue, job_of(message), f"m{token.number}")
        assert isinstance(message.properties, Properties)
        identity = message.properties.message_id
        if identity is not None and identity in self._arrived:
            self.ledger.twins.add(job_of(message))
        self._arrived.add(identity)
        self._queues[queue].append(token)
        wait = self.topology.wait_called(queue)
        if wait is None:
            self._feed()
            return
        seconds = wait.arguments["x-message-ttl"] / 1000
        self._loop.call_later(seconds, self._waited, queue, token, context=NO_CONTEXT)

    def _waited(self, queue: str, token: Token) -> None:
        self._queues[queue] = deque(one for one in self._queues[queue] if one is not token)
        back = replace(token, message=_with_death(token.message, queue, "expired"), queue=self.topology.name)
        self._queues[self.topology.name].append(back)
        self._feed()

    def _give_back(self, tokens: list[Token], *, failed: bool) -> None:
        """Near the head of the queue, in an order that only chance knows."""
        tokens = [replace(token, redelivered=True, count=token.count + failed) for token in tokens]
        if self.chance.redelivery != "in order":
            self.chance.dice.shuffle(tokens)
        for token in reversed(tokens):
            self.ledger.failed_deliveries[job_of(token.message)] += failed
            queue = self._queues[token.queue]
            deep = min(len(queue), 3) if self.chance.redelivery == "among others" else 0
            queue.insert(self.chance.dice.randint(0, deep), token)

    def _feed(self) -> None:
        for name in (self.topology.name, self.topology.suspect_name):
            ready = self._queues[name]
            while ready and (takers := self._takers(name)):
                self._hand_over(takers[0] if len(takers) == 1 else self.chance.dice.choice(takers), ready.popleft())

    def _takers(self, queue: str) -> list[Consumer]:
        return [
            consumer
            for session in self.sessions
            if session.taking
            for consumer in session.consumers.values()
            if consumer.lane.queue == queue and len(consumer.unacked) < consumer.lane.prefetch
        ]

    def _hand_over(self, consumer: Consumer, stored: Any) -> None:
        session, tag = consumer.session, next(consumer.tags)
        consumer.unacked[tag] = stored
        session.deliveries_due = max(session.deliveries_due + 1e-6, self._loop.time() + 0.0005)
        self._loop.call_at(session.deliveries_due, self._handed, consumer, tag, stored, context=session.context)

    def _handed(self, consumer: Consumer, tag: int, token: Token) -> None:
        session = consumer.session
        if consumer.epoch.lost or not session.alive():
            return
        self.ledger.deliveries[token.number] += 1
        self.ledger.first_delivery.setdefault((session.process, token.number), self._loop.time())
        again = f"again {token.count}" if token.redelivered else ""
        self.ledger.write("deliver", job_of(token.message), f"m{token.number}", f"p{session.process}", again)
        consumer.held[tag] = token
        delivery = Delivery(_counted(token), tag, token.redelivered, consumer.epoch, self._loop.time())
        consumer.lane.receiver.on_delivery(delivery)
        self.on_deliver(session)


def _counted(token: Token) -> Message:
    properties = token.message.properties
    if not token.redelivered or not isinstance(properties, Properties):
        return token.message
    headers = {**properties.headers, "x-delivery-count": token.count}
    return replace(token.message, properties=replace(properties, headers=headers))
