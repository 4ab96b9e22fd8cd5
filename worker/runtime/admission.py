"""A place that is held for as long as a block runs, and the waiting for it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.runtime.bound import Timer
from worker.runtime.limits.key import Key
from worker.runtime.limits.share import Pool
from worker.runtime.limits.values import Asker, Busy

if TYPE_CHECKING:
    from worker.runtime.limiter import Limiter

_held: ContextVar[tuple[Admission, ...]] = ContextVar("worker_admissions", default=())


def held_here() -> tuple[Admission, ...]:
    """What the current task runs under, its job first."""
    return _held.get()


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
        "_limiter",
        "_outer",
        "_went_well",
        "asker",
        "called",
        "entered",
        "keys",
        "placed",
        "pool",
        "probes",
        "share",
        "since",
        "started",
    )

    def __init__(
        self,
        limiter: Limiter,
        keys: tuple[Key[Waiter], ...],
        asker: Asker,
        pool: Pool[Waiter] | None = None,
        share: Key[Waiter] | None = None,
    ) -> None:
        self._limiter = limiter
        self.keys = keys
        self.asker = asker
        self.pool = pool
        self.share = share
        self.entered: list[Key[Waiter]] = []
        self.placed = False
        self.started = False
        self.since = 0.0
        """When it got its common place, then when it started."""
        self.probes: set[Key[Waiter]] = set()
        """Keys whose breaker let it through as the one call that shows how the target is."""
        self.called = False
        """Whether a request was made: then that one's end says how its target is, and this one's says nothing."""
        self._went_well: bool | None = None
        self._is_told = False
        self._outer: tuple[Admission, ...] = ()

    def ended(self, *, well: bool | None) -> None:
        """How it went for its keys: None for what says nothing about them, as a fault of the handler."""
        self._went_well = well
        self._is_told = True

    async def __aenter__(self) -> Self:
        await self._limiter.admit(self)
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
        self._limiter.leave(self, self._went_well)
