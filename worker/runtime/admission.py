"""A place that is held for as long as a block runs, and the waiting for it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.runtime.bound import Timer
from worker.runtime.limits.key import Key
from worker.runtime.limits.values import Asker, Busy

if TYPE_CHECKING:
    from worker.runtime.common import CommonPlaces
    from worker.runtime.limiter import Limiter

_held: ContextVar[tuple[Admission, ...]] = ContextVar("worker_admissions", default=())


def held_here(limiter: Limiter) -> tuple[Admission, ...]:
    """What the current task runs under, its job first. Nothing of another worker's that this one was started in."""
    return tuple(one for one in _held.get() if one.limiter is limiter)


class Waiter:
    """Somebody who waits for one place. The one with the least `order` has waited longest."""

    __slots__ = ("admission", "future", "key", "order", "timer")

    def __init__(self, admission: Admission, key: Key[Waiter], number: int) -> None:
        self.admission = admission
        self.key = key
        self.order = (admission.asker.first_seen, number)
        self.future: asyncio.Future[Busy | None] = asyncio.get_running_loop().create_future()
        self.timer: Timer | None = None

    def __lt__(self, other: Waiter) -> bool:
        return self.order < other.order

    def is_older_than(self, other: Waiter) -> bool:
        """Whether it was first seen before, and so goes first."""
        return self.order[0] < other.order[0]

    def tell(self, busy: Busy | None) -> None:
        """The place is there, or will not be in time. Nothing to one who has left meanwhile."""
        if not self.future.done():
            self.future.set_result(busy)

    async def told(self) -> None:
        """Return when the place is there. Raises Busy."""
        if (busy := await self.future) is not None:
            raise busy


class Admission:
    """Places under keys and in a pool, for as long as the block runs. Entering raises Busy, and then nothing is held.

    Entered and left in one task; what that task starts runs under it, too.
    """

    __slots__ = (
        "_is_told",
        "_outer",
        "_went_well",
        "asker",
        "called",
        "entered",
        "job",
        "keys",
        "limiter",
        "placed",
        "pool",
        "probes",
        "share",
        "since",
        "started",
        "steps",
    )

    def __init__(
        self,
        limiter: Limiter,
        keys: tuple[Key[Waiter], ...],
        asker: Asker,
        pool: CommonPlaces | None = None,
        share: Key[Waiter] | None = None,
        job: Admission | None = None,
    ) -> None:
        self.limiter = limiter
        self.keys = keys
        self.asker = asker
        self.pool = pool
        self.share = share
        self.job = job
        """What a step runs under."""
        self.steps = 0
        """How many steps of this job run."""
        self.entered: list[Key[Waiter]] = []
        self.placed = False
        self.started = False
        self.since = 0.0
        """When it got its common place, then when it started."""
        self.probes: set[Key[Waiter]] = set()
        """Keys whose breaker let it through as the one call that shows how the target is."""
        self.called: set[Key[Waiter]] = set()
        """Keys that requests were made to: how those ended says how they are, and a failure here may be theirs."""
        self._went_well: bool | None = None
        self._is_told = False
        self._outer: tuple[Admission, ...] = ()

    def ended(self, *, well: bool | None) -> None:
        """How it went for its keys: None for what says nothing about them, as a fault of the handler."""
        self._went_well = well
        self._is_told = True

    @property
    def is_job(self) -> bool:
        """Whether its waiting keeps a delivery from being seen: a step and a request wait in a job that was."""
        return self.job is None and self.pool is not None

    @property
    def in_company(self) -> bool:
        """Whether other steps of the same job run: then its slot is in use, however long this one waits."""
        return self.job is not None and self.job.steps > 0

    def to_tell(self, well: bool | None) -> list[Key[Waiter]]:
        """The keys that such an end says something about: none that requests were made to, which have told already."""
        if well is None or (self.called and not well):
            return []
        return [key for key in self.keys if key not in self.called]

    async def __aenter__(self) -> Self:
        await self.limiter.admit(self)
        self._outer = _held.get()
        _held.set((*self._outer, self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.set(self._outer)
        if isinstance(error, TimeoutError | ConnectionError):
            self._went_well = False
        elif error is None and not self._is_told:
            self._went_well = True
        self.limiter.leave(self, self._went_well)
