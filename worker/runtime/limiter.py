"""Admission: who may start, who waits a moment, and who is turned away. Nothing waits long here.

What a key allows is decided in `worker.runtime.limits`; here is the asking, the waiting and the giving back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Final

from worker.runtime.admission import Admission, Waiter, held_here
from worker.runtime.bound import Timer
from worker.runtime.clock import Clock
from worker.runtime.common import CommonPlaces
from worker.runtime.health import Health
from worker.runtime.limits.key import Key, Refusal, Trouble
from worker.runtime.limits.paused import PausedKeys
from worker.runtime.limits.share import Pool
from worker.runtime.limits.table import Table
from worker.runtime.limits.values import NOBODY, Asker, Busy, Limit, Places
from worker.runtime.parking import Parking
from worker.runtime.room import Room
from worker.runtime.telemetry import Telemetry

__all__ = ["KEY_PATIENCE", "Asker", "Busy", "Limit", "Limiter", "Places"]

KEY_PATIENCE: Final = 2.0
"""Longest wait for a key, in seconds; past it the job is parked."""

SLOT_PATIENCE: Final = 0.25
STEP_PATIENCE: Final = 2.0
"""How soon somebody above the share of his key must expect a place, in seconds. A step waits in its job's slot, where
it keeps nobody from being seen."""

LEAST_TIMER: Final = 0.001


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
        self.health = Health(clock, telemetry, chance, held_back=self._send_away, changed=self._pump)
        self._table: Table[Waiter] = Table(places, clock.monotonic, self.health.forgotten)
        self._paused = PausedKeys()
        self._parking = Parking(clock, chance, self._paused)
        self._slots = CommonPlaces(Pool(places.concurrency, SLOT_PATIENCE), lambda key: key.slots, clock, self._parking)
        self._steps = CommonPlaces(
            Pool(places.steps, STEP_PATIENCE),
            lambda key: key.steps,
            clock,
            self._parking,
            longest=KEY_PATIENCE,
            placed=self._step_placed,
            left=self._step_left,
        )
        self._rate_timers: dict[Key[Waiter], Timer] = {}
        self._room = Room(places.waiters)
        self._numbers = count()

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
        outer = held_here(self)
        job = outer[0] if outer else None
        asker, share = (job.asker, job.share) if job else (NOBODY, None)
        if key is None:
            return Admission(self, (), asker, self._steps, share or self._table.own("type:", None), job)
        found = self._table.key(key)
        keys = () if any(found in one.keys for one in outer) else (found,)  # it would wait for its own job
        return Admission(self, keys, asker, self._steps, found, job)

    def call(self, key: Key[Waiter]) -> Admission:
        """A place under a key for one request whose task has none."""
        outer = held_here(self)
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
            "waiting": self._room.waiting,
        }

    def troubles(self) -> list[Trouble]:
        """The keys that are held back at present."""
        now = self._clock.monotonic()
        found = (found for key in self._table if (found := key.trouble(now)) is not None)
        return [*self._paused.troubles(), *found]

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
                self._judge(key, admission, now)
            for key in admission.keys:
                if key.is_narrow:
                    await self._enter(key, admission)
            if admission.pool is not None and admission.share is not None:
                await admission.pool.take(admission, admission.share)
            self._start(admission)
        except BaseException:
            self.leave(admission, None)
            raise

    def leave(self, admission: Admission, well: bool | None) -> None:
        """Take back what it has."""
        now = self._clock.monotonic()
        for key in admission.to_tell(well):
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
            pool.give_back(admission, share, now)

    def _judge(self, key: Key[Waiter], admission: Admission, now: float) -> None:
        """Raise Busy if the key turns this one away; without waiting, and before anything is held."""
        if key.line is not None:
            key.line.returned(admission.asker.id)
        self.check(key, admission.asker, now)
        if key.is_narrow and (key.waiting or not key.has_place(now)):
            self._check_wait(key, admission, now)

    def check(self, key: Key[Waiter], asker: Asker, now: float) -> None:
        """Raise Busy if the key is held back."""
        if (refusal := self._refusal(key, now)) is not None:
            raise self._parking.busy(key, refusal, asker, now)

    def _refusal(self, key: Key[Waiter], now: float) -> Refusal | None:
        return (self._paused and self._paused.refusal(key)) or key.refusal(now)

    def _check_wait(self, key: Key[Waiter], admission: Admission, now: float) -> Waiter | None:
        """Raise Busy if it may not wait for the key. Returns the one who has to go for it, if the room is full."""
        if admission.in_company:
            return None
        asker = admission.asker
        refusal = key.free_in(now, self._parking.ahead(key, asker))
        if refusal.seconds <= KEY_PATIENCE:
            if not admission.is_job or self._room.has_place:
                return None
            if (leaving := self._room.leaving_for(key, asker)) is not None:
                return leaving
        raise self._parking.busy(key, refusal, asker, now)

    async def _enter(self, key: Key[Waiter], admission: Admission) -> None:
        since = self._clock.monotonic()
        if not key.waiting and key.has_place(since):
            key.enter(admission, since)
            admission.entered.append(key)
            return
        leaving = self._check_wait(key, admission, since)
        if leaving is not None:
            self._refuse(leaving, leaving.key.free_in(since))
        waiter = Waiter(admission, key, next(self._numbers))
        self._room.enter(waiter)
        waiter.timer = self._clock.call_later(KEY_PATIENCE, partial(self._lose_patience, waiter))
        self._pump(key)
        try:
            await waiter.told()
        finally:
            self._out(waiter)
            self._telemetry.limit_waited(key.label, self._clock.monotonic() - since)

    def _step_placed(self, admission: Admission) -> None:
        self._telemetry.step_started()
        if admission.job is not None:
            admission.job.steps += 1

    def _step_left(self, admission: Admission) -> None:
        self._telemetry.step_ended()
        if admission.job is not None:
            admission.job.steps -= 1

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
        if waiter.admission.in_company:
            waiter.timer = self._clock.call_later(KEY_PATIENCE, partial(self._lose_patience, waiter))
            return
        self._refuse(waiter, waiter.key.free_in(self._clock.monotonic()))

    def _refuse(self, waiter: Waiter, refusal: Refusal) -> None:
        """Turn one away who waits for a key."""
        if not waiter.future.done():
            self._out(waiter)
            waiter.tell(self._parking.busy(waiter.key, refusal, waiter.admission.asker, self._clock.monotonic()))

    def _out(self, waiter: Waiter) -> None:
        """It waits for its key no more."""
        if waiter.timer is None:
            return
        waiter.timer.cancel()
        waiter.timer = None
        self._room.leave(waiter)

    def _send_away(self, key: Key[Waiter]) -> None:
        """Nobody waits for a key that is held back."""
        now = self._clock.monotonic()
        if (refusal := self._refusal(key, now)) is None:
            return
        for waiter in list(key.waiting):
            self._refuse(waiter, refusal)
        for places in (self._slots, self._steps):
            places.send_away(key, lambda asker: self._parking.busy(key, refusal, asker, now))
