"""When consuming pauses: what an operator has paused, and whether anything that comes may run at all. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

PAUSED: Final = "paused"
"""The reason of a key that is paused by hand, in metrics and logs."""

BY_HAND: Final = "by hand"
NOTHING_CAN_RUN: Final = "nothing can run"

LEAST_TURNED_AWAY: Final = 10
LEAST_SPAN: Final = 1.0
MOST_SPAN: Final = 10.0
"""Deliveries in a row that must have been turned away (or half of what is held, if that is more), and within how many
seconds: fewer in a second say little yet, and so few in ten seconds cost nothing."""

AGAIN: Final = 2
"""One in so many of them must have been parked before. What comes back queues up behind all that was there: so nothing
stands behind them that nobody has looked at."""

ALIVE: Final = 10.0
"""Seconds since a job has succeeded, at least: who has jobs that run may have more of them soon."""

SHORTEST: Final = 0.5
LONGEST: Final = 5.0
"""Seconds of a pause. Then it is looked again: jobs that may run may have come meanwhile."""

MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Paused:
    """What an operator has paused: the consuming of `everything`, and `keys`, whose jobs are parked."""

    everything: bool = False
    keys: frozenset[str] = frozenset()

    def pausing(self, key: str | None) -> Paused:
        """This key too, or everything."""
        return replace(self, everything=True) if key is None else replace(self, keys=self.keys | {key})

    def resuming(self, key: str | None) -> Paused:
        """Without this key; or consuming again, whatever keys are paused."""
        return replace(self, everything=False) if key is None else replace(self, keys=self.keys - {key})


class _Turned(NamedTuple):
    at: float
    until: float
    key: str
    again: bool


class Standstill(NamedTuple):
    """Nothing can run: pause for so many seconds. `keys` are some of those the jobs were turned away for."""

    seconds: float
    keys: tuple[str, ...]


class Lookout:
    """Sees what becomes of deliveries. Times in seconds, on a clock that only goes forward.

    `held` is how many deliveries a process may hold.
    """

    def __init__(self, held: int) -> None:
        self._row: deque[_Turned] = deque(maxlen=max(LEAST_TURNED_AWAY, held // 2))
        self._running = 0
        self._succeeded = -math.inf
        self._began = 0.0

    def started(self) -> None:
        """A job runs."""
        self._running += 1
        self._row.clear()

    def ended(self, now: float, *, well: bool) -> None:
        """A job runs no more; `well` if it succeeded."""
        self._running -= 1
        if well:
            self._succeeded = now

    def turned_away(self, key: str, now: float, delay: float, *, again: bool) -> Standstill | None:
        """A job is parked for `delay`, because of a key; `again` if it had been parked before. What follows from it."""
        if self._running:
            return None
        if not self._row:
            self._began = now
        self._row.append(_Turned(now, now + delay, key, again))
        if not self._stands_still(now):
            return None
        seconds = min(max(min(one.until for one in self._row) - now, SHORTEST), LONGEST)
        keys = tuple(dict.fromkeys(one.key for one in self._row))[:MOST_NAMED]
        self._row.clear()
        return Standstill(seconds, keys)

    def _stands_still(self, now: float) -> bool:
        return (
            len(self._row) == self._row.maxlen
            and now - self._began >= LEAST_SPAN
            and now - self._row[0].at <= MOST_SPAN
            and now - self._succeeded >= ALIVE
            and AGAIN * sum(one.again for one in self._row) >= len(self._row)
        )
