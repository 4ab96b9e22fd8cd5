"""Admission: who may start, who waits a moment, and who is turned away. Nothing waits long here.

What a key allows is decided in `worker.runtime.limits`; here is the asking, the waiting and the giving back.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final

from worker.runtime.admission import Admission, Waiter, held_here
from worker.runtime.bound import Timer
from worker.runtime.clock import Clock
from worker.runtime.health import Health
from worker.runtime.limits.key import Key, Refusal, Trouble
from worker.runtime.limits.line import Line, held_delay, park_delay
from worker.runtime.limits.paused import PausedKeys
from worker.runtime.limits.share import Member, Pool
from worker.runtime.limits.table import Table
from worker.runtime.limits.values import BREAKER, BUSY_KEY, NOBODY, RETRY_AFTER, Asker, Busy, Limit, Places
from worker.runtime.pausing import PAUSED
from worker.runtime.telemetry import Telemetry

__all__ = ["KEY_PATIENCE", "Asker", "Busy", "Limit", "Limiter", "Places"]

KEY_PATIENCE: Final = 2.0
"""Longest wait for a key, in seconds; past it the job is parked."""

SLOT_PATIENCE: Final = 0.25
STEP_PATIENCE: Final = 2.0
"""How soon somebody above the share of his key must expect a place, in seconds. A step waits in its job's slot, where
it keeps nobody from being seen."""

LONGEST_FIRST: Final = 8.0
"""Seconds that somebody above the share is parked for at most, or as long as he has waited by now."""

REVIEW_EVERY: Final = 0.25
LEAST_TIMER: Final = 0.001
MOST_TROUBLES: Final = 100


class Limiter:
    """Gates in a fixed order: keys first, the common places last, so that a busy key holds nothing others need.

    `chance` gives numbers from [0, 1) for jitter.
    """

    def __init__(
        self, places: Places, clock: Clock, telemetry: Telemetry, chance: Callable[[], float] = random.random
    ) -> None:
        self._places = places
        self._clock = clock
        self._telemetry = telemetry
        self._chance = chance
        self.health = Health(clock, telemetry, chance, held_back=self._send_away, changed=self._pump)
        self._table: Table[Waiter] = Table(places, clock.monotonic, self.health.forgotten)
        self._paused = PausedKeys()
        self._slots: Pool[Waiter] = Pool(places.concurrency, SLOT_PATIENCE)
        self._steps: Pool[Waiter] = Pool(places.steps, STEP_PATIENCE)
        self._reviews: dict[Pool[Waiter], Timer] = {}
        self._rate_timers: dict[Key[Waiter], Timer] = {}
        self._crowd: dict[Key[Waiter], None] = {}
        """Keys that somebody waits for, and how many wait in all."""
        self._waiting = 0
        self._numbers = 0

    def job(self, keys: Iterable[str], own_limits: Mapping[str, int], asker: Asker = NOBODY) -> Admission:
        """A place for a job. `own_limits` are limits its type brings along, apart from all keys.

        It counts in the fair share of its first key, or of its type if it has none.
        """
        found = [self._table.key(key) for key in dict.fromkeys(keys)]
        own = [self._table.own(name, places) for name, places in own_limits.items()]
        share = found[0] if found else self._table.own(f"type:{asker.type}", None)
        ordered = found + own
        if len(ordered) > 1:
            ordered.sort(key=lambda key: key.order)
        return Admission(self, tuple(ordered), asker, self._slots, share)

    def step(self, key: str | None = None) -> Admission:
        """A place for one try of a step, under `key` if it has one. It counts in the share of that, or of its job."""
        outer = held_here()
        asker, share = (outer[0].asker, outer[0].share) if outer else (NOBODY, None)
        if key is None:
            return Admission(self, (), asker, self._steps, share or self._table.own("type:", None))
        found = self._table.key(key)
        return Admission(self, (found,), asker, self._steps, found)

    def call(self, key: Key[Waiter]) -> Admission:
        """A place under a key for one request whose task has none."""
        outer = held_here()
        return Admission(self, (key,), outer[0].asker if outer else NOBODY)

    def key(self, name: str) -> Key[Waiter]:
        """What is known of a key."""
        return self._table.key(name)

    def pause(self, names: Collection[str]) -> None:
        """Hold back exactly these keys until told otherwise. Who waits for one of them is turned away."""
        for name in self._paused.set(names, self._clock.monotonic()):
            self._send_away(self._table.key(name))

    @property
    def most_waiters(self) -> int:
        """How many deliveries may wait at once for anything but a slot; 1 at least."""
        return max(1, self._places.waiters)

    def in_use(self) -> dict[str, int]:
        """What is held at present: nothing when nothing runs or waits."""
        return {
            "slots": self._places.concurrency - self._slots.free,
            "steps": self._places.steps - self._steps.free,
            "gates": sum(bool(key.users) or (key.gate is not None and key.gate.held > 0) for key in self._table),
            "waiting": self._waiting,
        }

    def troubles(self) -> list[Trouble]:
        """The keys that are held back at present, at most 100 of them."""
        now = self._clock.monotonic()
        found = (found for key in self._table if (found := key.trouble(now)) is not None)
        return [*self._paused.troubles(), *found][:MOST_TROUBLES]

    # Admission.

    async def admit(self, admission: Admission) -> None:
        """Give it all it wants, or raise Busy and give nothing."""
        for key in admission.keys:
            key.users += 1
        if admission.share is not None:
            admission.share.users += 1
        try:
            now = self._clock.monotonic()
            for key in admission.keys:
                self._judge(key, admission.asker, now)
            for key in admission.keys:
                if key.is_narrow:
                    await self._enter(key, admission)
            if admission.pool is not None and admission.share is not None:
                await self._place(admission, admission.pool, admission.share)
            self._start(admission)
        except BaseException:
            self.leave(admission, None)
            raise

    def leave(self, admission: Admission, well: bool | None) -> None:
        """Take back what it has."""
        now = self._clock.monotonic()
        if well is not None and not admission.called:
            for key in admission.keys:
                self.health.report(key, admission.since, failed=not well, too_much=not well)
        for key in admission.probes:
            self.health.lose_probe(key)
        for key in admission.entered:
            key.leave(admission, now, started=admission.started)
            self._pump(key)
        for key in admission.keys:
            key.users -= 1
        pool, share = admission.pool, admission.share
        if pool is None or share is None:
            return
        share.users -= 1
        if admission.placed:
            pool.give_back(self._member(pool, share), now, now - admission.since)
            if pool is self._steps:
                self._telemetry.step_ended()
            if pool.any_waiting:
                self._fill(pool, now)

    def _judge(self, key: Key[Waiter], asker: Asker, now: float) -> None:
        """Raise Busy if the key turns this one away; without waiting, and before anything is held."""
        if key.line is not None:
            key.line.returned(asker.id)
        self.check(key, asker, now)
        if key.is_narrow and (key.waiting or not key.has_place(now)):
            self._check_wait(key, asker, now)

    def check(self, key: Key[Waiter], asker: Asker, now: float) -> None:
        """Raise Busy if the key is held back."""
        if (refusal := self._refusal(key, now)) is not None:
            raise self._busy(key, refusal, asker, now)

    def _refusal(self, key: Key[Waiter], now: float) -> Refusal | None:
        return (self._paused and self._paused.refusal(key)) or key.refusal(now)

    def _check_wait(self, key: Key[Waiter], asker: Asker, now: float) -> Waiter | None:
        """Raise Busy if it may not wait for the key. Returns the one who has to go for it, if the room is full."""
        refusal = key.free_in(now, self._ahead(key, asker))
        if refusal.seconds <= KEY_PATIENCE and self._places.waiters:
            if self._waiting < self._places.waiters:
                return None
            fullest = max(self._crowd, key=lambda one: (len(one.waiting), one is key))
            youngest = fullest.waiting[-1]
            is_first = (
                asker.first_seen < youngest.order[0] if fullest is key else len(fullest.waiting) > len(key.waiting) + 1
            )
            if is_first:
                return youngest
        raise self._busy(key, refusal, asker, now)

    async def _enter(self, key: Key[Waiter], admission: Admission) -> None:
        since = self._clock.monotonic()
        if not key.waiting and key.has_place(since):
            key.enter(admission, since)
            admission.entered.append(key)
            return
        leaving = self._check_wait(key, admission.asker, since)
        if leaving is not None:
            self._refuse(leaving, leaving.key.free_in(since))
        self._numbers += 1
        waiter = Waiter(admission, key, self._numbers)
        insort(key.waiting, waiter)
        self._crowd[key] = None
        self._waiting += 1
        waiter.timer = self._clock.call_later(KEY_PATIENCE, partial(self._lose_patience, waiter))
        self._pump(key)
        try:
            await waiter.told()
        finally:
            self._out(waiter)
            self._telemetry.limit_waited(key.label, self._clock.monotonic() - since)

    async def _place(self, admission: Admission, pool: Pool[Waiter], share: Key[Waiter]) -> None:
        now, member = self._clock.monotonic(), self._member(pool, share)
        if share.line is not None:
            share.line.returned(admission.asker.id)
        if pool.take(member, now):
            self._placed(admission, now)
            return
        if not pool.may_wait(member, now):
            raise self._crowding(pool, share, admission.asker, now)
        waiter = Waiter(admission, share, 0)
        pool.wait(member, waiter)
        self._arm_review(pool)
        try:
            await waiter.told()
        finally:
            if waiter in member.waiting:
                pool.leave(member, waiter)

    def _placed(self, admission: Admission, now: float) -> None:
        admission.placed, admission.since = True, now
        if admission.pool is self._steps:
            self._telemetry.step_started()

    def _start(self, admission: Admission) -> None:
        """The last look: a key may have come into trouble while a place was waited for."""
        now = self._clock.monotonic()
        for key in admission.keys:
            self.check(key, admission.asker, now)
        admission.started, admission.since = True, now
        for key in admission.keys:
            if key.rates is not None:
                key.rates.start(now)
            if self.health.take_probe(key, now):
                admission.probes.add(key)

    # Those who wait.

    def _ahead(self, key: Key[Waiter], asker: Asker) -> int:
        return sum(waiter.order[0] <= asker.first_seen for waiter in key.waiting)

    def _pump(self, key: Key[Waiter]) -> None:
        """Give what places there are to those who wait, the oldest first."""
        if not key.waiting:
            return
        now = self._clock.monotonic()
        while key.waiting and key.has_place(now):
            waiter = key.waiting[0]
            self._out(waiter)
            if not waiter.future.done():
                key.enter(waiter.admission, now)
                waiter.admission.entered.append(key)
                waiter.tell(None)
        if key.waiting and key.rates is not None and not key.is_full and key not in self._rate_timers:
            delay = max(key.rates.free_in(now), LEAST_TIMER)
            self._rate_timers[key] = self._clock.call_later(delay, partial(self._rate_is_free, key))

    def _rate_is_free(self, key: Key[Waiter]) -> None:
        del self._rate_timers[key]
        self._pump(key)

    def _lose_patience(self, waiter: Waiter) -> None:
        self._refuse(waiter, waiter.key.free_in(self._clock.monotonic()))

    def _refuse(self, waiter: Waiter, refusal: Refusal) -> None:
        """Turn one away who waits for a key."""
        if not waiter.future.done():
            self._out(waiter)
            waiter.tell(self._busy(waiter.key, refusal, waiter.admission.asker, self._clock.monotonic()))

    def _out(self, waiter: Waiter) -> None:
        """It waits for its key no more."""
        if waiter.timer is None:
            return
        waiter.timer.cancel()
        waiter.timer = None
        waiter.key.waiting.remove(waiter)
        self._waiting -= 1
        if not waiter.key.waiting:
            del self._crowd[waiter.key]

    def _fill(self, pool: Pool[Waiter], now: float) -> None:
        """Give what places there are to those who wait for them."""
        while (waiter := pool.next(now)) is not None:
            self._placed(waiter.admission, now)
            waiter.tell(None)

    def _arm_review(self, pool: Pool[Waiter]) -> None:
        if pool not in self._reviews:
            self._reviews[pool] = self._clock.call_later(REVIEW_EVERY, partial(self._review, pool))

    def _review(self, pool: Pool[Waiter]) -> None:
        """Look after those who wait for common places: who crowds the house is turned away."""
        del self._reviews[pool]
        now = self._clock.monotonic()
        for waiter in pool.turned_away(now):
            waiter.tell(self._crowding(pool, waiter.key, waiter.admission.asker, now))
        self._fill(pool, now)
        if pool.any_waiting:
            self._arm_review(pool)

    def _member(self, pool: Pool[Waiter], share: Key[Waiter]) -> Member[Waiter]:
        return share.slots if pool is self._slots else share.steps

    def _crowding(self, pool: Pool[Waiter], share: Key[Waiter], asker: Asker, now: float) -> Busy:
        """For somebody above the share of his key. What it gives back when it is well again cannot be told from now."""
        ahead = self._parked_before(share, asker, now)
        expected = pool.free_in(self._member(pool, share), now, ahead)
        return self._parked(share, BUSY_KEY, min(expected, max(LONGEST_FIRST, self._age(asker))), asker, now)

    def _busy(self, key: Key[Waiter], refusal: Refusal, asker: Asker, now: float) -> Busy:
        """The word for being turned away, with the time until its turn."""
        if refusal.reason not in (BREAKER, RETRY_AFTER, PAUSED):
            ahead = self._ahead(key, asker) + self._parked_before(key, asker, now)
            return self._parked(key, refusal.reason, key.free_in(now, ahead).seconds, asker, now)
        since = self._paused.paused_for(key, now) or key.in_trouble_for(now)
        left = asker.latest - self._clock.now()
        delay = held_delay(refusal.seconds, since=since, age=self._age(asker), chance=self._chance(), left=left)
        return Busy(key.name.key, refusal.reason, delay)

    def _parked_before(self, key: Key[Waiter], asker: Asker, now: float) -> int:
        return 0 if key.line is None else key.line.older(asker.id, asker.first_seen, now)

    def _parked(self, key: Key[Waiter], reason: str, expected: float, asker: Asker, now: float) -> Busy:
        key.line = key.line or Line()
        delay = park_delay(expected, chance=self._chance(), left=asker.latest - self._clock.now())
        key.line.parked(asker.id, asker.first_seen, now, delay)
        return Busy(key.name.key, reason, delay)

    def _age(self, asker: Asker) -> float:
        return max(0.0, self._clock.now() - asker.first_seen) if asker.first_seen else 0.0

    def _send_away(self, key: Key[Waiter]) -> None:
        """Nobody waits for a key that is held back."""
        now = self._clock.monotonic()
        if (refusal := self._refusal(key, now)) is None:
            return
        for waiter in list(key.waiting):
            self._refuse(waiter, refusal)
        for waiter in list(key.slots.waiting):
            self._slots.leave(key.slots, waiter)
            waiter.tell(self._busy(key, refusal, waiter.admission.asker, now))
