"""The word for being turned away: for how long, so that it is back about when it is its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from worker.runtime.admission import Waiter
from worker.runtime.clock import Clock
from worker.runtime.limits.key import Key, Refusal
from worker.runtime.limits.line import Line, held_delay, park_delay
from worker.runtime.limits.paused import PausedKeys
from worker.runtime.limits.values import BREAKER, BUSY_KEY, RETRY_AFTER, Asker, Busy
from worker.runtime.pausing import PAUSED

LONGEST_FIRST: Final = 8.0
"""Seconds that somebody above the share is parked for at most, or as long as he has waited by now."""


class Parking:
    """Says Busy with the delay that fits. `chance` gives numbers from [0, 1) for jitter."""

    def __init__(self, clock: Clock, chance: Callable[[], float], paused: PausedKeys) -> None:
        self._clock = clock
        self._chance = chance
        self._paused = paused

    def ahead(self, key: Key[Waiter], asker: Asker) -> int:
        """How many go first of those who wait for the key here."""
        return sum(waiter.order[0] <= asker.first_seen for waiter in key.waiting)

    def crowding(self, share: Key[Waiter], asker: Asker, now: float, free_in: Callable[[int], float]) -> Busy:
        """For somebody above the share of his key; `free_in` says when its turn is after so many others.

        What the key gives back when it is well again cannot be told from now.
        """
        expected = free_in(self._parked_before(share, asker, now))
        return self._parked(share, BUSY_KEY, min(expected, max(LONGEST_FIRST, self._age(asker))), asker, now)

    def busy(self, key: Key[Waiter], refusal: Refusal, asker: Asker, now: float) -> Busy:
        """For somebody for whom the key has no place, or whom it holds back."""
        if refusal.reason not in (BREAKER, RETRY_AFTER, PAUSED):
            ahead = self.ahead(key, asker) + self._parked_before(key, asker, now)
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
