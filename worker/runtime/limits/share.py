"""A fair share of common places, without configuration.

While others want places too, a key may hold at most four times as many as stay free. Alone it may hold all.
Who is above that waits as long as its key gives places back quickly enough; otherwise it is turned away, so that
what hangs does not fill the house with those who wait for it.
"""

from __future__ import annotations

import math
from typing import Final, Generic, TypeVar

from worker.runtime.limits.service import Service

W = TypeVar("W")

SHARE: Final = 4
"""How many times what stays free one key may hold."""

WANTED: Final = 10.0
"""Seconds for which a key that asked counts as one that wants places."""

MOST_ASKERS: Final = 10_000


class Member(Generic[W]):
    """One key in a pool: what it holds, and who waits for it."""

    __slots__ = ("asked", "changed", "held", "service", "waiting")

    def __init__(self) -> None:
        self.held = 0
        self.asked = 0.0
        self.changed = 0.0
        """When it last took a place or gave one back."""
        self.service = Service()
        self.waiting: list[W] = []  # not a deque, which takes most of a kilobyte when it is empty


class Pool(Generic[W]):
    """Common places. Times in seconds; `patience` is how soon somebody above the share must expect a place."""

    def __init__(self, size: int, patience: float) -> None:
        self.free = size
        self._patience = patience
        self._askers: dict[Member[W], None] = {}  # the one that asked last is last
        self._queue: dict[Member[W], None] = {}  # those with somebody who waits, whose turn is next first

    @property
    def any_waiting(self) -> bool:
        return bool(self._queue)

    def take(self, member: Member[W], now: float) -> bool:
        """Take a place if there is one for this key."""
        self._note(member, now)
        if member.waiting or not self._has_place(member, now):
            return False
        self._give(member, now)
        return True

    def give_back(self, member: Member[W], now: float, seconds: float) -> None:
        """A place that was held for so long is free again; then ask `next`."""
        self.free += 1
        member.held -= 1
        member.changed = now
        member.service.took(seconds)

    def may_wait(self, member: Member[W], now: float) -> bool:
        """Whether one more may wait for a place."""
        return not self._crowds(member, now) or len(member.waiting) < self._soon(member, now)

    def wait(self, member: Member[W], waiter: W) -> None:
        """`waiter` wants a place, and will be named by `next` or `turned_away`."""
        member.waiting.append(waiter)
        self._queue.setdefault(member)

    def leave(self, member: Member[W], waiter: W) -> None:
        """`waiter` wants no place any more."""
        member.waiting.remove(waiter)
        if not member.waiting:
            del self._queue[member]

    def next(self, now: float) -> W | None:
        """Whoever has a place now: the keys take turns, and within a key it is first come, first served."""
        if not self.free:
            return None
        for member in self._queue:
            if self._has_place(member, now):
                waiter = member.waiting.pop(0)
                del self._queue[member]
                if member.waiting:
                    self._queue[member] = None
                self._give(member, now)
                return waiter
        return None

    def turned_away(self, now: float) -> list[W]:
        """Those who must not wait any longer: they would keep others from being seen."""
        leaving = []
        for member in list(self._queue):
            if self._crowds(member, now):
                soon = self._soon(member, now)
                while len(member.waiting) > soon:
                    leaving.append(member.waiting.pop())
                if not member.waiting:
                    del self._queue[member]
        return leaving

    def free_in(self, member: Member[W], now: float, ahead: int) -> float:
        """Seconds until this key has a place for somebody with `ahead` before him."""
        pace = self._pace(member, now)
        return (ahead + 1) / pace if pace else now - member.changed

    def _note(self, member: Member[W], now: float) -> None:
        member.asked = now
        self._askers.pop(member, None)
        self._askers[member] = None
        oldest = next(iter(self._askers))
        if oldest.asked < now - WANTED or len(self._askers) > MOST_ASKERS:  # at least as many go as come
            del self._askers[oldest]

    def _give(self, member: Member[W], now: float) -> None:
        self.free -= 1
        member.held += 1
        member.changed = now

    def _has_place(self, member: Member[W], now: float) -> bool:
        return self.free > 0 and not (self._is_above(member) and self._is_contended(member, now))

    def _is_above(self, member: Member[W]) -> bool:
        return member.held > 0 and member.held + 1 > SHARE * (self.free - 1)

    def _is_contended(self, member: Member[W], now: float) -> bool:
        for other in reversed(self._askers):
            if other is not member:
                return other.asked >= now - WANTED
        return False

    def _crowds(self, member: Member[W], now: float) -> bool:
        """Whether it is above its share, and somebody wants places who has less than half of its places."""
        if not self._is_above(member):
            return False
        for other in reversed(self._askers):
            if other.asked < now - WANTED:
                return False
            if other is not member and other.held * 2 < member.held:
                return True
        return False

    def _soon(self, member: Member[W], now: float) -> float:
        """How many of those who wait will have a place before their patience ends."""
        return self._pace(member, now) * self._patience

    def _pace(self, member: Member[W], now: float) -> float:
        """Places that the key gives back in a second: none where it has given none back for long."""
        mean, quiet = member.service.mean, now - member.changed
        if quiet > max(self._patience, 0.0 if mean is None or not member.held else 4 * mean / member.held):
            return 0.0
        return math.inf if not mean else member.held / mean
