"""All that is known of one key, and whether it turns somebody away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from worker.runtime.limits.breaker import Breaker, State
from worker.runtime.limits.gate import Gate
from worker.runtime.limits.hold import Hold
from worker.runtime.limits.line import Line
from worker.runtime.limits.rate import Rates
from worker.runtime.limits.share import Member
from worker.runtime.limits.values import BREAKER, BUSY_KEY, RATE, RETRY_AFTER, Limit, Name

W = TypeVar("W")


class Refusal(NamedTuple):
    """Why a key has no place now, and in how many seconds it may have one."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a key back at present, for people. `seconds` are left of it."""

    key: str
    reason: str
    seconds: float


class Key(Generic[W]):
    """One key: its limits, what became of the calls to it, and who has or wants its places.

    Who waits for a place of its own gate is in `waiting`, for a common one in `slots` and `steps`.
    """

    __slots__ = (
        "breaker",
        "gate",
        "hold",
        "label",
        "limit",
        "line",
        "name",
        "rates",
        "slots",
        "steps",
        "users",
        "waiting",
    )

    def __init__(self, name: Name, limit: Limit, label: str) -> None:
        self.name = name
        self.limit = limit
        self.label = label
        self.gate = None if limit.concurrency is None else Gate(limit.concurrency, adaptive=limit.adaptive)
        self.rates = Rates(limit.rate) if limit.rate else None
        self.breaker = Breaker() if limit.breaker and not name.own else None
        self.hold: Hold | None = None
        self.line: Line | None = None
        self.slots: Member[W] = Member()
        self.steps: Member[W] = Member()
        self.waiting: list[W] = []
        self.users = 0

    @property
    def is_narrow(self) -> bool:
        """Whether it has places or starts of its own to give."""
        return self.gate is not None or self.rates is not None

    @property
    def order(self) -> tuple[float, Name]:
        """Where it comes among the keys of one job: the narrowest first, and always in the same order."""
        places = float("inf") if self.limit.concurrency is None else self.limit.concurrency
        return places, self.name

    def is_needed(self, now: float) -> bool:
        """Whether something would go wrong without it: somebody uses it, or it had starts that still count."""
        return self.users > 0 or (self.rates is not None and not self.rates.is_empty(now))

    def is_idle(self, now: float) -> bool:
        """Whether nobody would miss it."""
        if self.line is not None:
            self.line.expire(now)
        return not self.is_needed(now) and not self.line and self.trouble(now) is None

    def refusal(self, now: float) -> Refusal | None:
        """What keeps everybody from it: it is held back, or its breaker is open."""
        if self.breaker is not None and (rest := self.breaker.rest(now)) > 0:
            return Refusal(BREAKER, rest)
        if self.hold is not None and (rest := self.hold.rest(now)) > 0:
            return Refusal(RETRY_AFTER, rest)
        return None

    def in_trouble_for(self, now: float) -> float:
        """Seconds since its breaker opened first, 0 if it is closed."""
        return 0.0 if self.breaker is None or self.breaker.state is State.CLOSED else now - self.breaker.since

    def free_in(self, now: float, ahead: int = 0) -> Refusal:
        """When its own gate and rate have a place for somebody with `ahead` before him: in 0 s for now."""
        in_gate = 0.0 if self.gate is None else self.gate.free_in(now, ahead)
        in_rate = 0.0 if self.rates is None else self.rates.free_in(now, ahead)
        return Refusal(RATE, in_rate) if in_rate > in_gate else Refusal(BUSY_KEY, in_gate)

    @property
    def is_full(self) -> bool:
        return self.gate is not None and self.gate.is_full

    def has_place(self, now: float) -> bool:
        """Whether its own gate and rate have a place now."""
        return not self.is_full and (self.rates is None or not self.rates.free_in(now))

    def enter(self, holder: Any, now: float) -> None:
        """Give a place, and keep a start."""
        if self.gate is not None:
            self.gate.enter(holder, now)
        if self.rates is not None:
            self.rates.reserve()

    def leave(self, holder: Any, now: float, *, started: bool) -> None:
        """Take the place back, and the start if it was not used."""
        if self.gate is not None:
            self.gate.leave(holder, now)
        if self.rates is not None and not started:
            self.rates.give_up()

    def trouble(self, now: float) -> Trouble | None:
        """What keeps it back at present."""
        if self.breaker is not None and self.breaker.state is not State.CLOSED:
            return Trouble(self.name.key, BREAKER, self.breaker.rest(now))
        if (held := self.refusal(now)) is not None:
            return Trouble(self.name.key, held.reason, held.seconds)
        return None
