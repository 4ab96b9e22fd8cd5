"""What a handler gets: its job, and the ways to do network-heavy work within the limits."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from worker.core.job import Job
from worker.core.outcome import Reject, Snooze
from worker.runtime.bodies import UNSET, encoded_body, has_header, with_query
from worker.runtime.clock import Clock
from worker.runtime.ends import heaviest
from worker.runtime.limiter import Busy, Limiter
from worker.runtime.quick_retry import StepRetry, with_quick_retries
from worker.runtime.steps import Steps, result_form
from worker.runtime.trace import child_traceparent
from worker.runtime.transport import NotSent, Request, Response, Transport

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Item = TypeVar("Item")

BUSY_DELAY: Final = 5.0
_current: ContextVar[Context | None] = ContextVar("worker_context", default=None)
_step: ContextVar[_Numbered | None] = ContextVar("worker_step", default=None)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every context of a process shares. `step_timeout` is in seconds, `max_requests` counts per job."""

    transport: Transport
    limiter: Limiter
    clock: Clock
    step_timeout: float = 10.0
    max_requests: int = 1000


class _Numbered:
    """Names the requests of one try of a step, or those of an attempt outside its steps, in the order they are made."""

    __slots__ = ("_made", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._made = 0

    def next(self) -> str:
        number, self._made = self._made, self._made + 1
        return f"{self.name}/{number}" if number else self.name


class Context:
    """One attempt of one job, as its handler sees it."""

    def __init__(self, job: Job, tools: Tools, state: Any = None) -> None:
        self.job = job
        self.state = state
        self.log: structlog.typing.FilteringBoundLogger = structlog.get_logger("worker.job")
        self._tools = tools
        self._steps = Steps(job.steps)
        self._outside_steps = _Numbered("request")
        self._requests = 0
        self._network = 0.0

    @property
    def http(self) -> httpx.AsyncClient:
        """The shared `httpx.AsyncClient`: guarded, bounded, without cookies."""
        return self._tools.transport.client

    @property
    def steps(self) -> Steps:
        return self._steps

    @property
    def step_timeout(self) -> float:
        """Seconds one try of a step gets, and one request, when they name no timeout."""
        return self._tools.step_timeout

    @property
    def requests(self) -> int:
        """Requests made by this attempt so far."""
        return self._requests

    @property
    def network_seconds(self) -> float:
        """Time this attempt has spent in requests, summed over concurrent ones."""
        return self._network

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        json: Any = UNSET,
        form: Mapping[str, Any] | None = None,
        text: str | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
        redirects: int = 0,
    ) -> Response:
        """One request by the lean way. `timeout` (seconds) bounds it as a whole and defaults to the step timeout.

        At most one of `json`, `form`, `text` and `body`. Raises a RequestError when no whole answer came; a status of
        400 or above is an answer.

        Unless `headers` has one, an `Idempotency-Key` is added: `<job id>/<step>` to the first request of a step and
        `<job id>/<step>/<n>` to each further one, n from 1, counted anew in every try; outside any step
        `<job id>/request` and `<job id>/request/<n>`, counted anew in every attempt. So a repeat sends the same keys as
        long as it makes its requests in the same order; where that is not sure, set the header, or make each request in
        a step of its own.
        """
        content_type, content = encoded_body(json, form, text, body)
        sent = dict(headers or {})
        if content_type and not has_header(sent, "content-type"):
            sent["Content-Type"] = content_type
        return await self._tools.transport.send(
            Request(
                method=method.upper(),
                url=with_query(url, query),
                headers=sent,
                body=content,
                timeout=self._tools.step_timeout if timeout is None else timeout,
                redirects=redirects,
            )
        )

    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        timeout: float | None = None,
        retry: StepRetry | int | None = None,
        key: str | None = None,
        **kwargs: Any,
    ) -> T:
        """The result of `await fn(*args, **kwargs)`, run once per job however often the job is retried.

        `timeout` (seconds) bounds one try; `retry` says how many quick tries transient errors get (3 by default);
        `key` names a limit the step counts against. The result travels as JSON, on the first run too; with a return
        annotation it is validated back into that type. A TypeError names the step whose result cannot be JSON.
        A step inside a step runs in its parent's place: a `key` there is a ValueError.
        """
        if key is not None and (outer := _step.get()) is not None:
            raise ValueError(f"step {name!r} inside step {outer.name!r} cannot have a key; give it to {outer.name!r}")
        if (done := self._steps.result(name)) is not None:
            result: T = result_form(fn).from_json(done.value)
            return result
        self._steps.begin(name)
        try:
            call = functools.partial(fn, *args, **kwargs)
            value = await self._run_step(name, call, timeout=timeout, retry=_retry(retry), key=key)
        finally:
            self._steps.end(name)
        plain = result_form(fn).to_json(name, value)
        again: T = result_form(fn).from_json(plain)  # before it is remembered: what does not fit now never would
        self._steps.remember(name, plain)
        return again

    async def gather(self, *work: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
        """All results, in call order, run at the same time.

        When one fails the others are still awaited, so that what they finish is remembered; then the gravest error is
        raised: Reject before a failure before Snooze.
        """
        tasks = [asyncio.ensure_future(_ended(one)) for one in work]
        try:
            ended = await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            await _cancel(tasks)
            raise
        if errors := [error for _, error in ended if error is not None]:
            raise heaviest(errors)
        return tuple(value for value, _ in ended)

    async def map(
        self,
        name: str,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item],
        *,
        concurrency: int = 10,
        timeout: float | None = None,
        retry: StepRetry | int | None = None,
    ) -> list[T]:
        """`fn` of every item, at most `concurrency` at once, results in order; each element is a step of its own.

        When one fails no further element starts; those in flight are awaited, then the gravest error is raised.
        """
        if concurrency < 1:
            raise ValueError(f"map(concurrency={concurrency}): 1 or more is needed")
        todo = deque(enumerate(items))
        results: dict[int, T] = {}
        failed = False

        async def lane() -> None:
            nonlocal failed
            while todo and not failed:
                number, item = todo.popleft()
                try:
                    results[number] = await self.step(f"{name}/{number}", fn, item, timeout=timeout, retry=retry)
                except BaseException:
                    failed = True
                    raise

        await self.gather(*(lane() for _ in range(min(concurrency, len(todo)))))
        return [results[number] for number in sorted(results)]

    async def _run_step(
        self,
        name: str,
        call: Callable[[], Awaitable[T]],
        *,
        timeout: float | None,
        retry: StepRetry,
        key: str | None,
    ) -> T:
        clock = self._tools.clock
        seconds = self._tools.step_timeout if timeout is None else timeout

        async def once() -> T:
            async with self._place(key), clock.timeout(seconds) as bound:
                token = _step.set(_Numbered(name))
                try:
                    result = await call()
                finally:
                    _step.reset(token)
            if bound.expired():  # the step swallowed the cancellation: too late is not a result
                raise TimeoutError(f"step {name!r} ended after its {seconds:g} s")
            return result

        def repeatable(error: BaseException) -> bool:
            if retry.when == "unsent":
                return isinstance(error, NotSent)
            return self._tools.transport.is_transient(error)

        return await with_quick_retries(once, retry, repeatable=repeatable, clock=clock)

    @asynccontextmanager
    async def _place(self, key: str | None) -> AsyncIterator[None]:
        """A step's place; a step inside a step runs under its parent's."""
        if _step.get() is not None:
            yield
            return
        if key is None:
            async with self._tools.limiter.step():
                yield
            return
        try:
            async with self._tools.limiter.key(key), self._tools.limiter.step():
                yield
        except Busy:
            raise Snooze(BUSY_DELAY, reason="busy_key") from None

    @asynccontextmanager
    async def outgoing(self, request: Request) -> AsyncIterator[Request]:
        """What every request of this job passes: its place among the steps, its count, its marks."""
        if self._requests >= self._tools.max_requests:
            raise Reject(f"more than {self._tools.max_requests} requests in one attempt (WORKER_MAX_REQUESTS)")
        self._requests += 1
        # Marked before it waits: the order of the calls is what a repeat has in common with this attempt.
        marked = replace(request, headers=self._marked(request.headers))
        async with self._place(None):
            since = self._tools.clock.monotonic()
            try:
                yield marked
            finally:
                self._network += self._tools.clock.monotonic() - since

    def _marked(self, headers: Mapping[str, str]) -> dict[str, str]:
        marked = dict(headers)
        if not has_header(marked, "idempotency-key"):
            marked["Idempotency-Key"] = f"{self.job.id}/{(_step.get() or self._outside_steps).next()}"
        if not has_header(marked, "traceparent"):
            marked["traceparent"] = child_traceparent(self.job)
            if isinstance(state := self.job.headers.get("tracestate"), str):
                marked["tracestate"] = state
        return marked


@asynccontextmanager
async def job_gate(request: Request) -> AsyncIterator[Request]:
    """The gate of the context whose task makes the request. Outside a job it changes nothing."""
    context = _current.get()
    if context is None:
        yield request
        return
    async with context.outgoing(request) as marked:
        yield marked


def enter(context: Context) -> None:
    """Make `context` the one whose requests the current task makes."""
    _current.set(context)


async def _ended(work: Coroutine[Any, Any, T]) -> tuple[T | None, BaseException | None]:
    """The value or the error of `work`. A SystemExit that leaves a task would end the event loop."""
    try:
        return await work, None
    except BaseException as error:  # noqa: BLE001 - gather() raises the gravest of them, whatever it is
        return None, error


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def _retry(retry: StepRetry | int | None) -> StepRetry:
    if isinstance(retry, int):
        return StepRetry(attempts=retry)
    return retry or StepRetry()
