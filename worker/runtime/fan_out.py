"""A function over many items: bounded, in order, and remembered element by element."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from worker.runtime.gathering import gather_all
from worker.runtime.quick_retry import StepRetry
from worker.runtime.result_form import ResultForm
from worker.runtime.step_run import StepRunner
from worker.runtime.steps import Fan, item_digest

T = TypeVar("T")
Item = TypeVar("Item")

AT_ONCE: Final = 100
"""Items are looked at in groups of so many; in between the loop turns."""


@dataclass(frozen=True, slots=True)
class FanOut(Generic[Item, T]):
    """What is called with which items, and how. `timeout` (seconds) bounds one try of an element."""

    runner: StepRunner
    fan: Fan
    name: str
    fn: Callable[[Item], Awaitable[T]]
    form: ResultForm
    items: list[Item]
    timeout: float | None
    retry: StepRetry
    key: str | Callable[[Item], str | None] | None

    async def run(self, concurrency: int) -> list[T]:
        """All results in order. When one fails none is started any more, and those in flight are awaited."""
        digests = await self._digests()
        results = await self._remembered(digests)
        todo = iter([number for number in range(len(self.items)) if number not in results])
        lanes = min(concurrency, len(self.items) - len(results))
        has_failed = asyncio.Event()

        async def lane() -> None:
            with contextlib.suppress(_NotStarted):
                for number in todo:
                    results[number] = await self._element(number, digests[number], has_failed)

        await gather_all(lane() for _ in range(lanes))
        return [results[number] for number in range(len(self.items))]

    async def _digests(self) -> list[bytes]:
        """What tells each item from others; taken before any of them is handed out, for a function may change it."""
        digests: list[bytes] = []
        for item in self.items:
            digests.append(item_digest(self.name, item))
            if len(digests) % AT_ONCE == 0:
                await asyncio.sleep(0)
        return digests

    async def _remembered(self, digests: list[bytes]) -> dict[int, T]:
        """What an earlier attempt finished."""
        results: dict[int, T] = {}
        for number, digest in enumerate(digests):
            if (done := self.fan.result(number, digest)) is not None:
                results[number] = self.form.read_back(done)
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        return results

    async def _element(self, number: int, digest: bytes, has_failed: asyncio.Event) -> T:
        item, name = self.items[number], f"{self.name}/{number}"
        key = self.key(item) if callable(self.key) else self.key

        async def call() -> T:
            if has_failed.is_set():  # while this one waited for its place, or for its next try
                raise _NotStarted
            return await self.fn(item)

        try:
            value = await self.runner.run(name, call, timeout=self.timeout, retry=self.retry, key=key)
            plain, size, value = self.form.travelled(name, value)
            self.fan.remember(number, digest, plain, size)
        except BaseException:
            has_failed.set()
            raise
        return value


class _NotStarted(Exception):
    """Another element has failed before this one could begin."""
