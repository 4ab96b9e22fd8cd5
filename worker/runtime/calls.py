"""One request to a host: held back when its key is, and what became of it told to the key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from worker.core.outcome import Snooze
from worker.runtime.admission import Admission, Waiter, held_here
from worker.runtime.clock import Clock
from worker.runtime.limiter import Limiter
from worker.runtime.limits.key import Key
from worker.runtime.limits.values import Busy
from worker.runtime.statuses import asks_to_wait, named_wait
from worker.runtime.transport import CredentialUnavailable, NotInTime, RequestError, RequestTimeout

_UNKNOWN_METHOD: Final = 501
"""Says that the server does not know the method, not that it fails."""

HASTY: Final = 0.05
"""Part of the usual time that a target must have had, before it counts as one that does not answer in time."""


class UnwatchedCall:
    """A request outside of all jobs."""

    def answered(self, status: int, headers: Mapping[str, str]) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class WatchedCall:
    """A request of a job. Entering raises Snooze while the key of its host is held back.

    `is_late` says whether the step or the job has no time left: a request that is cut off then has not been answered
    in time, and one that is cancelled before says nothing about its target. Nor does one that had hardly any of the
    `patience` (seconds) that is usual: it tells of who was in such a hurry.
    """

    __slots__ = ("_admission", "_clock", "_is_late", "_key", "_least", "_limiter", "_probes", "_started")

    def __init__(
        self, limiter: Limiter, clock: Clock, host: str, is_late: Callable[[], bool], patience: float = 0.0
    ) -> None:
        self._limiter = limiter
        self._clock = clock
        self._is_late = is_late
        self._least = HASTY * patience
        self._key: Key[Waiter] = limiter.key(host)
        self._admission: Admission | None = None
        self._probes = False
        self._started = 0.0

    async def __aenter__(self) -> Self:
        outer = held_here(self._limiter)
        for one in outer:
            one.called.add(self._key)
        try:
            await self._enter(next((one for one in outer if self._key in one.keys), None))
        except Busy as busy:
            raise Snooze(busy.delay, reason=busy.reason) from None
        self._key.users += 1
        self._started = self._clock.monotonic()
        return self

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        waits = asks_to_wait(status, headers)
        failed = status >= 500 and status != _UNKNOWN_METHOD
        self._report(failed=failed, too_much=waits or status == 503)
        if waits:
            seconds = named_wait(headers, now=self._clock.now())
            self._limiter.health.asked_to_wait(self._key, seconds, self._started)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        match error:
            case RequestTimeout() | NotInTime():
                self._not_in_time()
            case RequestError() if not isinstance(error, CredentialUnavailable):
                self._report(failed=True)
            case asyncio.CancelledError() if self._is_late():
                self._not_in_time()
            case _:
                self._says_nothing()
        self._key.users -= 1
        if self._admission is not None:
            self._limiter.leave(self._admission, None)

    async def _enter(self, under: Admission | None) -> None:
        limiter, key = self._limiter, self._key
        if under is None:
            admission = limiter.call(key)
            await limiter.admit(admission)
            self._admission, under = admission, admission
        elif key not in under.probes:
            now = self._clock.monotonic()
            limiter.check(key, under.asker, now)
            self._probes = limiter.health.take_probe(key, now)
            return
        self._probes = key in under.probes
        under.probes.discard(key)

    def _not_in_time(self) -> None:
        if self._clock.monotonic() - self._started < self._least:
            self._says_nothing()
        else:
            self._report(failed=True, too_much=True)

    def _says_nothing(self) -> None:
        if self._probes:
            self._limiter.health.lose_probe(self._key)

    def _report(self, *, failed: bool, too_much: bool = False) -> None:
        self._probes = False
        self._limiter.health.report(self._key, self._started, failed=failed, too_much=too_much)
