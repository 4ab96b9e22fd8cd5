"""A target that only fails is left alone for a while, then tried with one call."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final, NamedTuple

PART: Final = 2.0
PARTS: Final = 15
"""The last 30 s count, in parts of 2 s."""

LEAST_PARTS: Final = 2
"""Parts that always count: so a key that is asked often is judged by its last 2 to 4 s, and a blip does not decide."""

LEAST_CALLS: Final = 20
RATIO: Final = 0.5

RUN: Final = 5
RUN_SECONDS: Final = 4.0
"""As many failures in a row, over as long at least, open it as well: what hangs is not let in often enough for more."""

RUN_GAP: Final = 60.0
"""Seconds after which a failure belongs to a new run."""

FIRST_OPEN: Final = 5.0
LONGEST_OPEN: Final = 60.0
JITTER: Final = 0.1

PROBE_LONGEST: Final = 60.0
"""Seconds until a probe that says nothing is given up on, and another one may be made."""


class State(StrEnum):
    """Open: nobody is let through. Half open: one is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Change(NamedTuple):
    """What a breaker has become, by how many failures of how many calls; `seconds` it stays so, or was not closed."""

    state: State
    failures: int
    calls: int
    seconds: float


class Run(NamedTuple):
    """Failures without one success between them: how many, and when the first and the last one were."""

    failures: int
    since: float
    last: float

    def longer(self, now: float) -> Run:
        """With one more."""
        if now - self.last > RUN_GAP:
            return Run(1, now, now)
        return Run(self.failures + 1, self.since, now)


_NO_RUN: Final = Run(0, -math.inf, -math.inf)


class Breaker:
    """The breaker of one key. Times in seconds, on a clock that only goes forward; `chance` is from [0, 1).

    It is judged by the last 30 s, or as few of them as have 20 calls, but not less than the last 2 to 4: so both a
    target that is asked once a second and one that is asked a thousand times are judged within seconds of failing.
    One that is asked seldom is judged by five failures in a row.
    """

    __slots__ = (
        "_at",
        "_calls",
        "_failures",
        "_openings",
        "_probe_until",
        "_run",
        "_state_since",
        "_until",
        "since",
        "state",
    )

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.since = 0.0
        """When it opened, the openings since counted as one."""
        self._state_since = -math.inf
        self._until = 0.0
        self._openings = 0
        self._probe_until = -math.inf
        self._at = 0
        self._calls = [0] * PARTS
        self._failures = [0] * PARTS
        self._run = _NO_RUN

    def rest(self, now: float) -> float:
        """Seconds until a call may be made: 0 for now, as the probe if it is not closed.

        While a probe is under way that is a guess: it may tell at any moment.
        """
        match self.state:
            case State.CLOSED:
                return 0.0
            case State.OPEN:
                return max(0.0, self._until - now)
            case State.HALF_OPEN:
                return min(max(0.0, self._probe_until - now), FIRST_OPEN)

    def take_probe(self, now: float) -> Change | None:
        """Make the one call that is possible now, which `rest` has said. What changed by that, if anything."""
        self._probe_until = now + PROBE_LONGEST
        if self.state is State.HALF_OPEN:
            return None
        self.state, self._state_since = State.HALF_OPEN, now
        return Change(State.HALF_OPEN, 0, 0, now - self.since)

    def lose_probe(self) -> None:
        """The probe ended and said nothing: the next one may be made."""
        self._probe_until = -math.inf

    def succeeded(self, started: float, now: float) -> Change | None:
        """A call that began at `started` was answered."""
        match self.state:
            case State.CLOSED:
                part = self._part(now)  # first: it may begin new counts
                self._calls[part] += 1
                self._run = _NO_RUN
            case State.HALF_OPEN if started >= self._state_since:
                return self._close(now)
        return None

    def failed(self, started: float, now: float, chance: float) -> Change | None:
        """A call that began at `started` found no target, or got a failure from it."""
        match self.state:
            case State.CLOSED if started >= self._state_since:
                part = self._part(now)
                self._calls[part] += 1
                self._failures[part] += 1
                failures, calls = self._recent()
                self._run = self._run.longer(now)
                if calls >= LEAST_CALLS and failures >= RATIO * calls:
                    self.since = now
                    return self._open(failures, calls, now, chance)
                if self._run.failures >= RUN and now - self._run.since >= RUN_SECONDS:
                    self.since = now
                    return self._open(self._run.failures, self._run.failures, now, chance)
            case State.HALF_OPEN if started >= self._state_since:
                return self._open(1, 1, now, chance)
        return None

    def _open(self, failures: int, calls: int, now: float, chance: float) -> Change:
        seconds = min(FIRST_OPEN * 2.0 ** min(self._openings, 10), LONGEST_OPEN) * (1 + JITTER * chance)
        self._openings += 1
        self.state, self._state_since, self._until = State.OPEN, now, now + seconds
        return Change(State.OPEN, failures, calls, seconds)

    def _close(self, now: float) -> Change:
        self.state, self._state_since = State.CLOSED, now
        self._openings = 0
        self._calls, self._failures = [0] * PARTS, [0] * PARTS
        self._run = _NO_RUN
        return Change(State.CLOSED, 0, 1, now - self.since)

    def _part(self, now: float) -> int:
        at = int(now / PART)
        for step in range(1, min(at - self._at, PARTS) + 1):
            self._calls[(self._at + step) % PARTS] = self._failures[(self._at + step) % PARTS] = 0
        self._at = max(at, self._at)
        return self._at % PARTS

    def _recent(self) -> tuple[int, int]:
        failures = calls = 0
        for age in range(PARTS):
            if age >= LEAST_PARTS and calls >= LEAST_CALLS:
                break
            part = (self._at - age) % PARTS
            failures, calls = failures + self._failures[part], calls + self._calls[part]
        return failures, calls
