"""The door to RabbitMQ: connects, declares, delivers, publishes, settles; connects again for as long as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from aiormq.abc import AbstractConnection
from pamqp import commands
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from worker.amqp import queues
from worker.amqp.connecting import (
    BROKEN,
    Access,
    Connected,
    Refused,
    Unreachable,
    loss_as_error,
    open_connection,
)
from worker.amqp.publisher import Publisher
from worker.amqp.queues import Mode, needed_at_start
from worker.amqp.rotation import (
    FIRST_PAUSE,
    KNOWN_EVERYWHERE,
    LONGEST_PAUSE,
    LOOK_EVERY,
    SPREAD,
    Pauses,
    change_or_pause,
)
from worker.amqp.session import Session
from worker.core.broker import EpochLost, Lane
from worker.core.message import Delivery, Epoch, Outgoing
from worker.core.topology import Topology

log = structlog.get_logger("worker.broker")

HEADER_RESERVE: Final = 8 * 1024


class RabbitBroker:
    """Fulfils `worker.core.broker.Broker`.

    `connect()` once, then `consume()`; from then on lost sessions are replaced by new ones until `close()`, and when
    `access` changes, deliveries and publishes go over to connections made anew; what was delivered before is settled
    where it came from. `on_change` is told whether it consumes: True for every new session, False when one is lost.
    """

    def __init__(
        self,
        access: Access,
        topology: Topology,
        mode: Mode = "declare",
        *,
        on_change: Callable[[bool], None] = lambda consuming: None,  # noqa: ARG005 - a name for whoever reads it
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._access = access
        self._topology = topology
        self._mode: Mode = mode
        self._on_change = on_change
        self._chance = chance
        self._epochs = itertools.count(1)
        self._lanes: tuple[Lane, ...] = ()
        self._first: Connected | None = None
        self._session: Session | None = None
        self._coming: Session | None = None
        self._leaving: dict[Session, asyncio.Task[None]] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._publisher = Publisher(access, self._declare_wait, chance=chance)
        self._going_over = Pauses(FIRST_PAUSE, LONGEST_PAUSE, chance)
        self._go_over_at: float | None = None
        self._refused = ""
        self._stopping = False
        self._is_paused = False
        self.trouble = ""
        """Why it does not consume, when that is not on purpose."""
        self.node = ""
        """Where it is connected to, without the password."""

    @property
    def consuming(self) -> bool:
        """Whether there is a session that delivers, or would if it were not paused."""
        if self._session is None or self._supervisor is None or self._supervisor.done():
            return False
        return self._session.is_open and not self._stopping

    @property
    def blocked(self) -> bool:
        """Whether the broker takes no publishes at present (memory or disk alarm)."""
        return self._publisher.blocked

    async def connect(self, patience: float) -> int:
        """Reach the broker within `patience` seconds and see to its queues; the bytes a copy's header may have.

        Raises Unreachable or Refused.
        """
        trying = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            stop=stop_before_delay(patience),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            before_sleep=lambda state: log.warning("broker.unreachable", reason=_reason(state.outcome)),
            reraise=True,
        )
        first: Connected = await trying(self._prepared_connection)
        self._first, self.node = first, first.node.shown
        return first.frame_max - HEADER_RESERVE

    async def consume(self, lanes: Iterable[Lane]) -> None:
        """Begin to deliver; return once it does. Raises Unreachable or Refused."""
        assert self._first is not None
        self._lanes = tuple(lanes)
        await self._publisher.open()
        first, self._first = self._first, None
        await self._start_session(first)
        self._supervisor = asyncio.create_task(self._supervise())
        self._supervisor.add_done_callback(self._supervision_ended)

    async def stop_consuming(self) -> None:
        """Deliver nothing more; what has been delivered can still be settled."""
        self._stopping = True
        await self._end_supervision()  # or a session that is on its way would deliver
        if self._session is not None and not self._session.is_lost:
            await self._session.stop_consuming()

    async def pause(self) -> None:
        self._is_paused = True
        await asyncio.gather(*(session.pause() for session in self._sessions()))

    async def resume(self) -> None:
        self._is_paused = False
        await asyncio.gather(*(session.resume() for session in self._sessions()))

    async def close(self) -> None:
        """End both connections, the publishing one last. What is not settled goes back to its queue."""
        self._stopping = True
        await self._end_supervision()
        for leaving in list(self._leaving.values()):
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        if self._first is not None:
            await self._first.close()
        await self._publisher.close()

    async def publish(self, outgoing: Outgoing) -> None:
        await self._publisher.publish(outgoing)

    async def ack(self, delivery: Delivery) -> None:
        await self._session_of(delivery.epoch).settle(delivery, commands.Basic.Ack(delivery_tag=delivery.tag))

    async def requeue(self, delivery: Delivery) -> None:
        # Not a reject: from 4.3 on that counts as a failed delivery, and a nack does not.
        frame = commands.Basic.Nack(delivery_tag=delivery.tag, requeue=True)
        await self._session_of(delivery.epoch).settle(delivery, frame)

    async def refuse(self, delivery: Delivery) -> None:
        frame = commands.Basic.Reject(delivery_tag=delivery.tag, requeue=False)
        await self._session_of(delivery.epoch).settle(delivery, frame)

    async def flush(self, epoch: Epoch) -> None:
        for session in list(self._leaving):  # what was settled there lately counts as settled, too
            with contextlib.suppress(EpochLost):
                await session.flush_all()
        await self._session_of(epoch).flush(epoch)

    async def _end_supervision(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    def _sessions(self) -> list[Session]:
        """Those that deliver, or are about to; one that is leaving delivers no more."""
        return [session for session in (self._session, self._coming) if session is not None]

    def _current(self) -> Session:
        if self._session is None:
            raise EpochLost
        return self._session

    def _session_of(self, epoch: Epoch) -> Session:
        """The session that delivered under `epoch`, or the current one, which knows nothing of it."""
        others = [*self._leaving] if self._coming is None else [self._coming, *self._leaving]
        return next((session for session in others if session.delivered(epoch)), self._current())

    async def _prepared_connection(self) -> Connected:
        """A connection whose broker has every queue that is needed at once."""
        connected = await open_connection(self._access, "consume")
        shown = connected.node.shown
        try:
            await queues.prepare(connected.amqp, needed_at_start(self._topology, self._mode), self._mode)
        except BROKEN as error:
            await connected.close()
            raise Unreachable(f"{shown}: the queues cannot be seen to: {error}") from error
        except (Refused, asyncio.CancelledError):
            await connected.close()
            raise
        return connected

    async def _declare_wait(self, amqp: AbstractConnection, queue: str) -> None:
        wait = self._topology.wait_called(queue)
        if wait is not None and self._mode == "declare":
            await queues.prepare(amqp, [wait], self._mode)

    async def _start_session(self, connected: Connected) -> None:
        self._session = Session(connected, paused=self._is_paused)
        await self._open(self._session)
        self.node, self.trouble = connected.node.shown, ""
        self._on_change(True)

    async def _open(self, session: Session) -> None:
        try:
            await session.open(self._lanes, lambda: Epoch(next(self._epochs)))
        except BaseException:
            await session.close()
            raise

    async def _supervise(self) -> None:
        """Until told to stop: when a session is lost, have another; when the access changes, go over to the new one."""
        while not self._stopping:  # the library may swallow the cancellation that tells it to
            try:
                with loss_as_error():
                    await self._watch(self._current())
            except Exception as error:
                log.exception("broker.supervision_failed")  # or it would end, and with it, some day, all deliveries
                if not self.consuming:
                    self.trouble = f"supervision failed: {type(error).__name__}"
                await asyncio.sleep(LONGEST_PAUSE)

    async def _watch(self, session: Session) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY):
                await session.lost()
        if not session.is_lost:
            await self._look(session)
            return
        self.trouble = session.reason
        log.warning("session.lost", node=self.node, reason=session.reason)
        self._on_change(False)
        await session.close()
        await self._have_another()

    def _supervision_ended(self, supervisor: asyncio.Task[None]) -> None:
        """Not alive and not told to end: nothing would be delivered again after the next loss."""
        if not self._stopping:
            self.trouble = "supervision has ended; the process must be started anew"
            log.critical("broker.supervision_ended", cancelled=supervisor.cancelled())
            self._on_change(False)

    async def _have_another(self) -> None:
        pauses, told, tried = Pauses(FIRST_PAUSE, LONGEST_PAUSE, self._chance), "", None
        fault: Exception | None = None
        while True:
            if await change_or_pause(self._access, tried, pauses.after(fault)):
                pauses.reset()
            tried = self._access.mark()
            try:
                connected = await self._prepared_connection()
                if self._stopping:
                    await connected.close()
                    return
                await self._start_session(connected)
            except (Unreachable, Refused) as error:
                # A refusal, too, may pass: a password that is being changed, a queue that is being moved.
                _tell_once("broker.unreachable", error, told)
                fault, told, self.trouble = error, str(error), str(error)
            except Exception as error:
                log.exception("broker.unreachable")  # or nothing would ever be delivered again, without a word
                fault = error
            else:
                log.info("session.restored", node=self.node)
                with contextlib.suppress(Unreachable, Refused):  # it goes on with what it has, and asks anew when lost
                    await self._publisher.renew()  # for the access may have changed with the loss
                return

    async def _look(self, session: Session) -> None:
        """Go over to a new session when the access is no longer what this one was made with, and the time has come."""
        now = asyncio.get_running_loop().time()
        if self._access.mark() == session.mark:
            self._go_over_at, self._refused = None, ""
            self._going_over.reset()
        elif self._go_over_at is None:
            self._go_over_at = now + KNOWN_EVERYWHERE + SPREAD * self._chance()
        elif now >= self._go_over_at and not self._leaving:  # or with each change a prefetch more would be held
            try:
                await self._go_over(session)
            except (Unreachable, Refused) as error:
                _tell_once("broker.rotation_refused", error, self._refused, keeping="the connections that are open")
                self._go_over_later(error)
            except Exception as error:
                if str(error) != self._refused:
                    log.exception("broker.rotation_failed", keeping="the connections that are open")
                self._go_over_later(error)

    def _go_over_later(self, error: Exception) -> None:
        self._refused = str(error)
        self._go_over_at = asyncio.get_running_loop().time() + self._going_over.after(error)

    async def _go_over(self, session: Session) -> None:
        """Log in anew, publish and consume there, and let `session` settle what it has delivered."""
        connected = await self._prepared_connection()
        try:
            await self._publisher.renew()
        except BaseException:
            await connected.close()
            raise
        another = self._coming = Session(connected, paused=self._is_paused)  # from now on it may deliver
        try:
            await self._open(another)
        except BaseException:
            session.announce()
            raise
        finally:
            self._coming = None
        self._session, self.node = another, connected.node.shown
        self._leaving[session] = asyncio.create_task(self._see_off(session))
        log.info("broker.rotated", node=self.node, user=connected.node.user)

    async def _see_off(self, session: Session) -> None:
        try:
            await session.finish()
            if session.is_lost:
                log.warning("session.lost", reason=session.reason, leaving=True)
                if not self._current().is_lost:
                    self._current().announce()
        finally:
            del self._leaving[session]
            await session.hang_up()


def _tell_once(event: str, error: Unreachable | Refused, told: str, **more: str) -> None:
    """What is wrong and how to mend it, not again as long as that stays the same."""
    if str(error) == told:
        log.debug(event, reason=str(error), **more)
    elif isinstance(error, Refused):
        log.error(event, reason=str(error), **more)
    else:
        log.warning(event, reason=str(error), **more)


def _reason(outcome: object) -> str:
    exception = getattr(outcome, "exception", None)
    return str(exception()) if callable(exception) else ""
