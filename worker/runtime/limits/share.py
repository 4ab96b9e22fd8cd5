"""A fair share of common places, without configuration.

While others want places too, a key may hold at most four times as many as stay free. Alone it may hold all.
Keys that give nothing back count as one in this: however many hang, together they leave room to the others.
Who is above that waits as long as its key gives places back quickly enough; otherwise it is turned away, so that
what hangs does not fill the house with those who wait for it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from worker.runtime.limits.service import Service

W = TypeVar("W")

SHARE: Final = 4
"""How many times what stays free one key may hold."""

WANTED: Final = 10.0
"""Seconds for which a key that asked counts as one that wants places."""

MOST_ASKERS: Final = 10_000

QUIET: Final = 1.0
"""Seconds after which a key that gave no place back is one of the quiet ones, as is who never gave any, or is not
expected to so soon by how long it held them before."""

PATIENCE_PART: Final = 0.25
MOST_PATIENCE: Final = 2.0
"""Part of the time that a key's places are held for which somebody may wait for one, and the most seconds of that: else
nobody would wait for a key that is slow, and its places would go to whoever happens to come."""

FIRST_SHARE: Final = 2 * SHARE
"""The same as SHARE for the first place of a quiet one: who is new is not held up by those who hang."""


class Member(Generic[W]):
    """One key in a pool: what it holds, and who waits for it."""

    __slots__ = ("asked", "held", "service", "since", "waiting")

    def __init__(self) -> None:
        self.held = 0
        self.asked = 0.0
        self.since = 0.0
        """When it last gave a place back, or took its first one."""
        self.service = Service()
        self.waiting: list[W] = []  # not a deque, which takes most of a kilobyte when it is empty


class Pool(Generic[W]):
    """Common places. Times in seconds; `patience` is how soon somebody above the share must expect a place."""

    def __init__(self, size: int, patience: float) -> None:
        self.free = size
        self._size = size
        self._patience = patience
        self._holders: dict[Member[W], None] = {}
        self._lively: Member[W] | None = None
        """The one that asked last of those that are not quiet."""
        self._askers: OrderedDict[Member[W], None] = OrderedDict()  # the one that asked last is last
        self._queue: dict[Member[W], None] = {}  # those with somebody who waits, whose turn is next first

    @property
    def any_waiting(self) -> bool:
        return bool(self._queue)

    def take(self, member: Member[W], now: float) -> bool:
        """Take a place if there is one for this key."""
        self._note(member, now)
        if member.waiting or not self._has_place(member, now, self._crowd(now)):
            return False
        self._give(member, now)
        return True

    def give_back(self, member: Member[W], now: float, seconds: float) -> None:
        """A place that was held for so long is free again; then ask `next`."""
        self.free += 1
        member.held -= 1
        member.since = now
        member.service.took(seconds)
        if not member.held:
            del self._holders[member]

    def may_wait(self, member: Member[W], now: float) -> bool:
        """Whether one more may wait for a place."""
        return not self._crowds(member, now, self._crowd(now)) or len(member.waiting) < self._soon(member, now)

    def wait(self, member: Member[W], waiter: W, at: int | None = None) -> None:
        """`waiter` wants a place, and will be named by `next` or `turned_away`. `at` is before whom of the others."""
        member.waiting.insert(len(member.waiting) if at is None else at, waiter)
        self._queue.setdefault(member)

    def leave(self, member: Member[W], waiter: W) -> None:
        """`waiter` wants no place any more."""
        member.waiting.remove(waiter)
        if not member.waiting:
            del self._queue[member]

    def next(self, now: float) -> W | None:
        """Whoever has a place now: first the key that holds fewest, among equals they take turns."""
        if not self.free:
            return None
        crowd = self._crowd(now)
        able = (member for member in self._queue if self._has_place(member, now, crowd))
        member = min(able, key=lambda member: member.held, default=None)
        if member is None:
            return None
        waiter = member.waiting.pop(0)
        del self._queue[member]
        if member.waiting:
            self._queue[member] = None
        self._give(member, now)
        return waiter

    def turned_away(self, now: float, stays: Callable[[W], bool] = lambda _: False) -> list[W]:
        """Those who must not wait any longer: they would keep others from being seen. Who `stays` would not."""
        leaving: list[tuple[Member[W], W]] = []
        crowd = self._crowd(now)
        for member in self._queue:
            if self._crowds(member, now, crowd):
                able = [waiter for waiter in member.waiting if not stays(waiter)]
                kept = int(min(self._soon(member, now), len(able)))
                leaving += ((member, waiter) for waiter in able[kept:])
        for member, waiter in leaving:
            self.leave(member, waiter)
        return [waiter for _, waiter in leaving]

    def free_in(self, member: Member[W], now: float, ahead: int) -> float:
        """Seconds until this key has a place for somebody with `ahead` before him."""
        pace = self._pace(member, now)
        return (ahead + 1) / pace if pace else now - member.since

    def _note(self, member: Member[W], now: float) -> None:
        member.asked = now
        self._askers[member] = None
        self._askers.move_to_end(member)
        if not self._is_quiet(member, now):
            self._lively = member
        oldest = next(iter(self._askers))
        if oldest.asked < now - WANTED or len(self._askers) > MOST_ASKERS:  # at least as many go as come
            del self._askers[oldest]

    def _give(self, member: Member[W], now: float) -> None:
        self.free -= 1
        if not member.held:
            member.since = now
            self._holders[member] = None
        member.held += 1

    def _has_place(self, member: Member[W], now: float, crowd: int) -> bool:
        if not self.free:
            return False
        if self._is_above(member.held) and self._wanted_beside(member, now, math.inf):
            return False
        if not crowd or not self._is_quiet(member, now):
            return True
        return not member.held and crowd + 1 <= FIRST_SHARE * (self.free - 1)

    def _is_above(self, held: int) -> bool:
        return held > 0 and held + 1 > SHARE * (self.free - 1)

    def _crowds(self, member: Member[W], now: float, crowd: int) -> bool:
        """Whether it, or the crowd it is in, is above its share, and somebody who has less than half wants places."""
        if self._is_above(member.held) and self._wanted_beside(member, now, member.held / 2):
            return True
        return self._lively is not None and self._lively.held < crowd / 2 and self._is_quiet(member, now)

    def _wanted_beside(self, member: Member[W], now: float, below: float) -> bool:
        """Whether another key wants places that has fewer than so many."""
        for other in reversed(self._askers):
            if other.asked < now - WANTED:
                return False
            if other is not member and other.held < below:
                return True
        return False

    def _is_quiet(self, member: Member[W], now: float) -> bool:
        mean = member.service.mean
        if mean is None or mean > QUIET * max(1, member.held):
            return True
        return member.held > 0 and now - member.since > QUIET

    def _crowd(self, now: float) -> int:
        """What the quiet ones hold together, if that is above their share and somebody else wants places; else 0."""
        lively = self._lively
        if lively is None or lively.asked < now - WANTED or not self._is_above(self._size - self.free):
            return 0
        if self._is_quiet(lively, now):
            return 0
        held = sum(one.held for one in self._holders if self._is_quiet(one, now))
        return held if self._is_above(held) else 0

    def _soon(self, member: Member[W], now: float) -> float:
        """How many of those who wait will have a place before their patience ends."""
        patience = max(self._patience, min((member.service.mean or 0.0) * PATIENCE_PART, MOST_PATIENCE))
        return self._pace(member, now) * patience

    def _pace(self, member: Member[W], now: float) -> float:
        """Places that the key gives back in a second: none where it has given none back for long."""
        mean, quiet = member.service.mean, now - member.since
        if quiet > max(self._patience, 0.0 if mean is None or not member.held else 4 * mean / member.held):
            return 0.0
        return math.inf if not mean else member.held / mean
