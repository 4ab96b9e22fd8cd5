"""One try of a step after the other: in its place, in its time, again while its errors are transient."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TypeVar

from worker.core.broker import PublishFailed
from worker.core.outcome import Snooze
from worker.runtime.limits.values import BREAKER, Busy
from worker.runtime.quick_retry import StepRetry, with_quick_retries
from worker.runtime.tools import Tools
from worker.runtime.transport import NotSent

T = TypeVar("T")

_current: ContextVar[Numbered | None] = ContextVar("worker_step", default=None)


class Numbered:
    """Names the requests of one try of a step, or those of an attempt outside its steps, in the order they are made."""

    __slots__ = ("_made", "ends", "name")

    def __init__(self, name: str, ends: float = math.inf) -> None:
        self.name = name
        self.ends = ends
        """When the try is over, on the monotonic clock."""
        self._made = 0

    def next(self) -> str:
        number, self._made = self._made, self._made + 1
        return f"{self.name}/{number}" if number else self.name


def current_step() -> Numbered | None:
    """The step whose try the current task runs; None outside all steps."""
    return _current.get()


class _Tries:
    """The tries of one step in one attempt."""

    def __init__(self) -> None:
        self._failed: Exception | None = None
        self.turned_away = False
        """Whether a breaker lets no further try pass."""

    async def one(self, call: Callable[[], Awaitable[T]]) -> T:
        """One of them. Turned away by a breaker after a try that failed, it raises that failure again.

        It had its try: were it free, the one call that a breaker lets through would never cost its job an attempt.
        """
        try:
            return await call()
        except Snooze as snooze:
            if self._failed is None or snooze.reason != BREAKER:
                raise
            self.turned_away = True
        except Exception as error:
            self._failed = error
            raise
        raise self._failed


class StepRunner:
    """Runs the steps of one attempt."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(
        self,
        name: str,
        call: Callable[[], Awaitable[T]],
        *,
        timeout: float | None,
        retry: StepRetry,
        key: str | None,
    ) -> T:
        """The result of `call`. `timeout` (seconds) bounds one try; what is not transient is raised at once."""
        if key is not None and (outer := _current.get()) is not None:
            raise ValueError(f"step {name!r} inside step {outer.name!r} cannot have a key; give it to {outer.name!r}")
        clock = self._tools.clock
        seconds = self._tools.step_timeout if timeout is None else timeout
        tries = _Tries()

        async def one_try() -> T:
            async with self.place(key), clock.timeout(seconds) as bound:
                token = _current.set(Numbered(name, clock.monotonic() + seconds))
                try:
                    result = await call()
                finally:
                    _current.reset(token)
            if bound.expired():  # the step swallowed the cancellation: too late is not a result
                raise TimeoutError(f"step {name!r} ended after its {seconds:g} s")
            return result

        def repeatable(error: BaseException) -> bool:
            if tries.turned_away:
                return False
            if retry.when == "unsent":
                return isinstance(error, NotSent)
            return isinstance(error, PublishFailed) or self._tools.transport.is_transient(error)

        return await with_quick_retries(lambda: tries.one(one_try), retry, repeatable=repeatable, clock=clock)

    @asynccontextmanager
    async def place(self, key: str | None) -> AsyncIterator[None]:
        """A step's place; a step inside a step runs under its parent's."""
        if _current.get() is not None:
            yield
            return
        try:
            async with self._tools.limiter.step(key):
                yield
        except Busy as busy:
            raise Snooze(busy.delay, reason=busy.reason) from None
