"""Going through a queue from its oldest message on, and taking what is wanted: for replay, drop and flush.

A message that has a copy is taken once the broker has confirmed the copy, so whenever this is killed every message is
in its queue, or its copy where it belongs, or for a moment both; never neither.

What is not wanted is held meanwhile, and no broker lets a message be held for ever. So after some minutes everything is
given back and a new pass begins at the oldest; the same when the broker goes away. What was copied, but came back
because its acknowledgement was lost, is known again and not copied twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from worker.amqp.connecting import Refused, Unreachable
from worker.amqp.holding import Held, Holder
from worker.core.broker import PublishFailed, Undeliverable
from worker.core.message import Outgoing
from worker.core.units import Rate

T = TypeVar("T")

IN_FLIGHT: Final = 100
"""Copies that wait for their confirms at once, where no rate is asked for."""

FLUSH_EVERY: Final = 5.0
"""Seconds between two looks whether the acknowledgements have arrived."""

LONGEST_PASS: Final = 600.0
"""Seconds. The broker's usual patience with a message that is held is 30 minutes."""

IDLE_PASSES: Final = 3
"""Passes in a row that the broker cut short before anything was done; then it is given up."""


class CannotMove(Exception):
    """The message `name` stays where it is; the text says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


@dataclass(frozen=True, slots=True)
class Move:
    """What is done with one message: `copy` is confirmed, if there is one, then it is taken.

    `name` is how people know it, and `became` what it is from then on, if that is another name. `identity` is the
    message's alone, None when nothing tells it from others.
    """

    name: str
    copy: Outgoing | None = None
    became: str = ""
    identity: Hashable = None


@dataclass(slots=True)
class Swept:
    """What has become of it. `total` were in the queue at the start, `window` of these were to be looked at."""

    total: int = 0
    window: int = 0
    looked_at: int = 0
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Orders(Generic[T]):
    """What to go through, and what to do.

    `move` gives what is to be done with a message, None to leave it; CannotMove when it should be and cannot. `on_done`
    is told of each that is done, `on_failed` of each that is not: its name, and the reason.
    """

    open: Callable[[], Awaitable[Holder[T]]]
    move: Callable[[T], Move | None]
    publish: Callable[[Outgoing], Awaitable[None]]
    window: int
    rate: Rate | None = None
    longest_pass: float = LONGEST_PASS
    on_done: Callable[[Move], None] = lambda _: None
    on_failed: Callable[[str, str], None] = lambda name, reason: None  # noqa: ARG005 - names for whoever reads it
    on_progress: Callable[[int, int], object] = lambda done, total: None  # noqa: ARG005


class Sweep(Generic[T]):
    """One way through a queue. `run()` once; `swept` says how far it came, also when it is cut short."""

    def __init__(self, orders: Orders[T]) -> None:
        self._orders = orders
        self._unsafe: list[Move] = []
        """What was done since the last flush: its acknowledgement may be lost, and the message come back."""
        self._came_back: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()
        """What has been told to be impossible."""
        self._gone = 0
        self._flushed = time.monotonic()
        self._next_turn = 0.0
        self._hopeless = False
        self.swept = Swept()

    async def run(self) -> Swept:
        """Go through the window, pass by pass. Raises Refused, and Unreachable when the broker stays away."""
        idle = 0
        while True:
            before = self.swept.done
            try:
                if await self._pass():
                    return self.swept
            except Unreachable:
                idle = 0 if self.swept.done > before else idle + 1
                self._all_may_be_back()
                if idle == IDLE_PASSES:
                    raise

    async def _pass(self) -> bool:
        """From the oldest message on; whether that was all."""
        holder = await self._orders.open()
        try:
            left = await self._left(holder)
            self.swept.looked_at, self.swept.failed = self._gone, 0  # what cannot be moved is met again
            until = time.monotonic() + self._orders.longest_pass
            is_all = True
            async for held in holder.slices(left):
                is_all = await self._slice(holder, held, until)
                if not is_all or self._hopeless:
                    break
            await self._flush(holder)
            return is_all or self._hopeless
        except asyncio.CancelledError:
            with contextlib.suppress(Unreachable):
                await self._flush(holder)
            raise
        finally:
            await holder.close()

    async def _left(self, holder: Holder[T]) -> int:
        """How many are still to be looked at. What has come to the queue since the start is not among them."""
        swept = self.swept
        if not swept.total:
            swept.total = await holder.number()
            swept.window = min(swept.total, self._orders.window)
        return swept.window - self._gone

    async def _slice(self, holder: Holder[T], held: list[Held[T]], until: float) -> bool:
        """Do what is to be done with these; whether there was time for all."""
        rest = iter(held)
        lanes = 1 if self._orders.rate else min(IN_FLIGHT, len(held))
        ends = await asyncio.gather(*(self._lane(holder, rest, until) for _ in range(lanes)), return_exceptions=True)
        for end in ends:  # only now: a lane that is cut off would not know whether its copy was confirmed
            if isinstance(end, BaseException):
                raise end
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            await self._flush(holder)
        return next(rest, None) is None

    async def _lane(self, holder: Holder[T], rest: Iterator[Held[T]], until: float) -> None:
        for held in rest:
            await self._one(holder, held)
            self.swept.looked_at += 1
            self._orders.on_progress(self.swept.looked_at, self.swept.window)
            if self._hopeless or time.monotonic() > until:
                return

    async def _one(self, holder: Holder[T], held: Held[T]) -> None:
        move: Move | None = None
        try:
            move = self._orders.move(held.what)
            if move is None:
                return
            is_back = self._is_back(move)
            if not is_back:
                await self._turn()
                await self._copy(move)
        except CannotMove as fault:
            self._fail(fault, move)
            return
        self._unsafe.append(move)
        self._gone += 1
        if not is_back:
            self.swept.done += 1
            self._orders.on_done(move)
        await holder.take(held)

    def _is_back(self, move: Move) -> bool:
        """Whether it was done in an earlier pass already, so that only its acknowledgement is to be repeated."""
        if move.identity is None or not self._came_back[move.identity]:
            return False
        self._came_back[move.identity] -= 1
        return True

    async def _copy(self, move: Move) -> None:
        if move.copy is None:
            return
        try:
            await self._orders.publish(move.copy)
        except Undeliverable as fault:
            self._hopeless = True  # the same queue would say the same to the others
            raise CannotMove(move.name, str(fault)) from fault
        except PublishFailed as fault:
            match fault.__cause__:
                case ValueError():
                    raise CannotMove(move.name, str(fault)) from fault
                case Refused() as refused:
                    raise refused from fault
                case _:
                    raise Unreachable(str(fault)) from fault

    def _fail(self, fault: CannotMove, move: Move | None) -> None:
        known = (fault.name, str(fault)) if move is None or move.identity is None else move.identity
        self.swept.failed += 1
        if known not in self._refused:  # or each pass would tell it again
            self._refused.add(known)
            self._orders.on_failed(fault.name, str(fault))

    async def _turn(self) -> None:
        """Wait for the next turn that the rate gives."""
        if self._orders.rate is None:
            return
        now = time.monotonic()
        self._next_turn = max(self._next_turn, now)
        await asyncio.sleep(self._next_turn - now)
        self._next_turn += self._orders.rate.per / self._orders.rate.count

    async def _flush(self, holder: Holder[T]) -> None:
        if self._unsafe:
            await holder.flush()
        self._unsafe.clear()
        self._flushed = time.monotonic()

    def _all_may_be_back(self) -> None:
        self._came_back.update(move.identity for move in self._unsafe)
        self._gone -= len(self._unsafe)
        self._unsafe.clear()
