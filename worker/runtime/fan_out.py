"""A function over many items: bounded, in order, and remembered element by element."""

from __future__ import annotations

import asyncio
import functools
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

PASSED_AT_ONCE: Final = 100
"""Elements that an earlier attempt finished are passed over in groups of so many; in between the loop turns."""


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
        todo = iter(range(len(self.items)))
        results: dict[int, T] = {}
        failed = False

        async def lane() -> None:
            nonlocal failed
            for number in todo:
                if failed:
                    return
                try:
                    results[number] = await self._element(number)
                except BaseException:
                    failed = True
                    raise

        await gather_all(lane() for _ in range(min(concurrency, len(self.items))))
        return [results[number] for number in range(len(self.items))]

    async def _element(self, number: int) -> T:
        item = self.items[number]
        digest = item_digest(item)
        if (done := self.fan.result(number, digest)) is not None:
            if number % PASSED_AT_ONCE == 0:
                await asyncio.sleep(0)
            remembered: T = self.form.read_back(done)
            return remembered
        name = f"{self.name}/{number}"
        key = self.key(item) if callable(self.key) else self.key
        call = functools.partial(self.fn, item)
        value = await self.runner.run(name, call, timeout=self.timeout, retry=self.retry, key=key)
        plain, size, value = self.form.travelled(name, value)
        self.fan.remember(number, digest, plain, size)
        return value
