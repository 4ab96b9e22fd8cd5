"""Admission: how many jobs and steps run at once, and how many per key. Nothing waits long here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from worker.runtime.clock import Clock
from worker.runtime.telemetry import Telemetry

KEY_PATIENCE: Final = 2.0
"""Longest wait for a key, in seconds; past it the job is parked."""

OTHER_KEYS: Final = "default"
"""How the metrics call every key without a limit of its own: publishers choose keys, and would fill the labels."""


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


class _Name(NamedTuple):
    """What a gate is found by. A key never is a registration's own limit, whatever a publisher calls it."""

    own: bool
    key: str


class _Gate:
    """The places of one name. Forgotten when nobody holds or wants one."""

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
        self._gates: dict[_Name, _Gate] = {}
        self._waiting = 0

    @asynccontextmanager
    async def job(self, keys: Iterable[str], own_limits: Mapping[str, int]) -> AsyncIterator[None]:
        """A place for a job. `own_limits` are limits its type brings along, apart from all keys. Raises Busy."""
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):
                await stack.enter_async_context(self.key(key))
            for name, places in sorted(own_limits.items()):
                await stack.enter_async_context(self._gate(_Name(own=True, key=name), places, label=name))
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

    def key(self, key: str) -> AbstractAsyncContextManager[None]:
        """A place under `key`; at once when it has no limit. Raises Busy."""
        places = self._limits.keys.get(key, self._limits.default_key)
        if places is None:
            return nullcontext()
        label = key if key in self._limits.keys else OTHER_KEYS
        return self._gate(_Name(own=False, key=key), places, label)

    @asynccontextmanager
    async def _gate(self, name: _Name, places: int, label: str) -> AsyncIterator[None]:
        gate = self._gates.setdefault(name, _Gate(places))
        gate.users += 1
        try:
            await self._enter(name.key, gate, label)
            try:
                yield
            finally:
                gate.places.release()
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[name]

    async def _enter(self, key: str, gate: _Gate, label: str) -> None:
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
            self._telemetry.limit_waited(label, self._clock.monotonic() - since)
