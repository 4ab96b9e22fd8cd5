"""Admission: how many jobs and steps run at once, and how many per key. Nothing waits long here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from worker.runtime.clock import Clock
from worker.runtime.telemetry import Telemetry

KEY_PATIENCE: Final = 2.0
"""Longest wait for a key, in seconds; past it the job is parked."""


class Busy(Exception):
    """The key is taken, and too many wait for it already or this one has waited long enough."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


@dataclass(frozen=True, slots=True)
class Places:
    """How much may run at once in this process. `keys` bounds single keys, `default_key` all other keys."""

    concurrency: int = 100
    steps: int = 200
    waiters: int = 12
    keys: Mapping[str, int] = field(default_factory=dict)
    default_key: int | None = None


class _Gate:
    """The places of one key. Forgotten when nobody holds or wants one."""

    __slots__ = ("places", "users")

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.users = 0


class Limiter:
    """Gates in a fixed order: keys first, the common slots last, so that a busy key holds nothing others need."""

    def __init__(self, places: Places, clock: Clock, telemetry: Telemetry) -> None:
        self._limits = places
        self._clock = clock
        self._telemetry = telemetry
        self._slots = asyncio.Semaphore(places.concurrency)
        self._steps = asyncio.Semaphore(places.steps)
        self._gates: dict[str, _Gate] = {}
        self._waiting = 0

    @asynccontextmanager
    async def job(self, keys: Iterable[str], own_limits: Mapping[str, int]) -> AsyncIterator[None]:
        """A place for a job. `own_limits` are limits the registration brings along. Raises Busy."""
        async with AsyncExitStack() as stack:
            for key in sorted({*keys, *own_limits}):
                await stack.enter_async_context(self.key(key, own_limits.get(key)))
            await self._slots.acquire()
            stack.callback(self._slots.release)
            yield

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """A place for one try of a step."""
        async with self._steps:
            self._telemetry.step_started()
            try:
                yield
            finally:
                self._telemetry.step_ended()

    @asynccontextmanager
    async def key(self, key: str, places: int | None = None) -> AsyncIterator[None]:
        """A place under `key`; at once when it has no limit. Raises Busy."""
        places = places or self._limits.keys.get(key, self._limits.default_key)
        if places is None:
            yield
            return
        gate = self._gates.setdefault(key, _Gate(places))
        gate.users += 1
        try:
            await self._enter(key, gate)
            try:
                yield
            finally:
                gate.places.release()
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[key]

    async def _enter(self, key: str, gate: _Gate) -> None:
        if not gate.places.locked():
            await gate.places.acquire()
            return
        if self._waiting >= self._limits.waiters:
            raise Busy(key)
        self._waiting += 1
        since = self._clock.monotonic()
        try:
            async with self._clock.timeout(KEY_PATIENCE):
                await gate.places.acquire()
        except TimeoutError:
            raise Busy(key) from None
        finally:
            self._waiting -= 1
            self._telemetry.limit_waited(key, self._clock.monotonic() - since)
