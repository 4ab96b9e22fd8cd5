"""The common places, slots or steps: who gets one, who waits for one, and who is turned away.

Who has how large a share is decided in `worker.runtime.limits.share`; here is the waiting.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

from worker.runtime.admission import Admission, Waiter
from worker.runtime.bound import Timer
from worker.runtime.clock import Clock
from worker.runtime.limits.key import Key
from worker.runtime.limits.share import Member, Pool
from worker.runtime.limits.values import Asker, Busy
from worker.runtime.parking import Parking

REVIEW_EVERY: Final = 0.25


class CommonPlaces:
    """Common places for the asking. `member_of` tells what of a key counts here, `patience` as for its `Pool`.

    `longest` is how many seconds somebody may wait while nothing else of his job runs; without one a review decides
    alone. `placed` and `left` are told of each who got a place and gave it back.
    """

    def __init__(
        self,
        pool: Pool[Waiter],
        member_of: Callable[[Key[Waiter]], Member[Waiter]],
        clock: Clock,
        parking: Parking,
        *,
        longest: float | None = None,
        placed: Callable[[Admission], None] = lambda admission: None,  # noqa: ARG005 - a name for whoever reads it
        left: Callable[[Admission], None] = lambda admission: None,  # noqa: ARG005
    ) -> None:
        self._pool = pool
        self._member_of = member_of
        self._clock = clock
        self._parking = parking
        self._longest = longest
        self._on_placed = placed
        self._on_left = left
        self._numbers = count()
        self._review_timer: Timer | None = None

    @property
    def free(self) -> int:
        return self._pool.free

    async def take(self, admission: Admission, share: Key[Waiter]) -> None:
        """Return when `admission` has a place, which counts in the share of that key. Raises Busy."""
        now, member = self._clock.monotonic(), self._member_of(share)
        if share.line is not None:
            share.line.returned(admission.asker.id)
        if self._pool.take(member, now):
            self._place(admission, now)
            return
        waiter = Waiter(admission, share, next(self._numbers))
        if not admission.in_company and not self._pool.may_wait(member, now):
            if not member.waiting or not waiter.is_older_than(member.waiting[-1]):
                raise self._crowding(share, admission.asker, now)
            self._send_back(member.waiting[-1], now)
        self._pool.wait(member, waiter, bisect(member.waiting, waiter))
        self._arm_review()
        self._arm_patience(waiter)
        try:
            await waiter.told()
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()
            if waiter in member.waiting:
                self._pool.leave(member, waiter)

    def give_back(self, admission: Admission, share: Key[Waiter], now: float) -> None:
        """Take the place back, and give it to the next one."""
        self._pool.give_back(self._member_of(share), now, now - admission.since)
        self._on_left(admission)
        if self._pool.any_waiting:
            self._fill(now)

    def send_away(self, key: Key[Waiter], word: Callable[[Asker], Busy]) -> None:
        """Nobody waits here who would use a key that is held back."""
        member = self._member_of(key)
        for waiter in [one for one in member.waiting if key in one.admission.keys]:
            self._pool.leave(member, waiter)
            waiter.tell(word(waiter.admission.asker))

    def _place(self, admission: Admission, now: float) -> None:
        admission.placed, admission.since = True, now
        self._on_placed(admission)

    def _fill(self, now: float) -> None:
        """Give what places there are to those who wait for them."""
        while (waiter := self._pool.next(now)) is not None:
            self._place(waiter.admission, now)
            waiter.tell(None)

    def _arm_patience(self, waiter: Waiter) -> None:
        if self._longest is not None:
            waiter.timer = self._clock.call_later(self._longest, partial(self._lose_patience, waiter))

    def _lose_patience(self, waiter: Waiter) -> None:
        """It keeps its job's slot for nothing, unless other steps of the job run meanwhile."""
        if waiter.admission.in_company:
            self._arm_patience(waiter)
        elif waiter in self._member_of(waiter.key).waiting:
            self._send_back(waiter, self._clock.monotonic())

    def _send_back(self, waiter: Waiter, now: float) -> None:
        self._pool.leave(self._member_of(waiter.key), waiter)
        waiter.tell(self._crowding(waiter.key, waiter.admission.asker, now))

    def _arm_review(self) -> None:
        if self._review_timer is None:
            self._review_timer = self._clock.call_later(REVIEW_EVERY, self._review)

    def _review(self) -> None:
        """Look after those who wait: who crowds the house is turned away."""
        self._review_timer = None
        now = self._clock.monotonic()
        for waiter in self._pool.turned_away(now, stays=lambda waiter: waiter.admission.in_company):
            waiter.tell(self._crowding(waiter.key, waiter.admission.asker, now))
        self._fill(now)
        if self._pool.any_waiting:
            self._arm_review()

    def _crowding(self, share: Key[Waiter], asker: Asker, now: float) -> Busy:
        return self._parking.crowding(share, asker, now, partial(self._pool.free_in, self._member_of(share), now))
