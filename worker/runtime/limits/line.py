"""Whose turn is when: the jobs of a key that were parked, by age, and for how long one more is parked."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from typing import Final

FIRST: Final = 1.0
LONGEST: Final = 300.0
"""Least and most seconds a job is parked for, before jitter."""

GROWTH: Final = 0.1
"""Part of its age that a job is parked for at least: who waits for long asks seldom, whatever is expected."""

GROWTH_MOST: Final = 4
"""How many times what is left of the trouble that may be, or as long as the trouble lasts by now: after a trifle even
an old job is back soon."""

EARLY: Final = 0.5
"""Seconds at least that a job comes back before its turn is to be expected, and a second more at most: it may wait so
long, and no place stands empty."""

JITTER: Final = 0.1

OVERDUE: Final = 60.0
"""Seconds after which one that has not come back here is counted no more: another process has it."""

MOST: Final = 5_000
"""Jobs of one key that are told apart; beyond, a turn is further away than anybody is parked for, or comes soon."""


LAST: Final = 1.0
"""Seconds before the last moment at which a job makes sense: then it is back once more, whatever was expected."""


FEW: Final = 16
"""Entries of jobs that are back which are kept anyhow, beside as many as there are jobs."""


def park_delay(expected: float, *, chance: float, left: float = math.inf) -> float:
    """Seconds to park a job whose turn is `expected` in so many: whole ones, as the ladder can wait for alone.

    Jittered upward only, except where just `left` seconds are left until it would be too late; `chance` is from [0, 1).
    """
    turn = min(expected - EARLY, LONGEST) * (1 + JITTER * chance)
    turn = min(turn, (left - LAST) * (1 - JITTER * chance))
    return float(max(math.floor(turn), round(FIRST + chance)))


def held_delay(rest: float, *, since: float, age: float, chance: float, left: float = math.inf) -> float:
    """Whole seconds to park a job whose key is held back for `rest` seconds more, and is in trouble since `since`.

    Never shorter than the rest. The longer the trouble lasts the further the jobs are spread: each comes back a few
    times in all, not once a minute, and within about as long again when it is over; and not too late because of that,
    where `left` seconds are left until then.
    """
    least = max(rest, min(GROWTH * age, max(GROWTH_MOST * rest, since), LONGEST))
    spread = min(max(FIRST, rest, since / 2), LONGEST)
    if rest <= left - LAST < least + spread:
        least, spread = rest, left - LAST - rest
    return float(math.ceil(least + chance * spread))


class Line:
    """The jobs of one key that this process parked and has not seen again. Ages are when they were first seen."""

    __slots__ = ("_by_age", "_due", "_parked")

    def __init__(self) -> None:
        self._by_age: list[tuple[float, str]] = []
        self._parked: dict[str, tuple[float, float]] = {}  # when first seen, until when it may be counted
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._parked)

    def parked(self, id: str, first_seen: float, now: float, delay: float) -> None:
        """A job goes away for `delay` seconds."""
        self.returned(id)
        if len(self._parked) >= MOST:
            return
        until = now + delay + OVERDUE
        self._parked[id] = first_seen, until
        insort(self._by_age, (first_seen, id))
        heapq.heappush(self._due, (until, id))
        if len(self._due) > 2 * len(self._parked) + FEW:
            self._due = [(until, one) for one, (_, until) in self._parked.items()]
            heapq.heapify(self._due)

    def returned(self, id: str) -> None:
        """It is here again, or will not come."""
        if (found := self._parked.pop(id, None)) is not None:
            del self._by_age[bisect_left(self._by_age, (found[0], id))]

    def older(self, id: str, first_seen: float, now: float) -> int:
        """How many of them go before this one."""
        self.expire(now)
        return bisect_left(self._by_age, (first_seen, id))

    def expire(self, now: float) -> None:
        """Count those no more that should be back by now."""
        while self._due and self._due[0][0] <= now:
            until, one = heapq.heappop(self._due)
            if self._parked.get(one, (0.0, 0.0))[1] == until:
                self.returned(one)
