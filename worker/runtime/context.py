"""What a handler gets: its job, and the ways to do network-heavy work within the limits."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from worker.core.child import ChildJob
from worker.core.finished import MOST_ELEMENTS
from worker.core.job import Job
from worker.core.outcome import Retry
from worker.core.result import encoded
from worker.core.strict_json import loads
from worker.runtime.bodies import UNSET, encoded_body, has_header, with_query
from worker.runtime.calls import UnwatchedCall, WatchedCall
from worker.runtime.fan_out import FanOut
from worker.runtime.gathering import gather_all
from worker.runtime.quick_retry import StepRetry
from worker.runtime.result_form import result_form
from worker.runtime.step_run import Numbered, StepRunner, current_step
from worker.runtime.steps import Steps
from worker.runtime.tools import Tools
from worker.runtime.trace import child_traceparent
from worker.runtime.transport import Call, Request, Response

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Item = TypeVar("Item")

ROUNDING: Final = 0.001
_current: ContextVar[Context | None] = ContextVar("worker_context", default=None)


class Context:
    """One attempt of one job, as its handler sees it."""

    def __init__(self, job: Job, tools: Tools, state: Any = None, *, timeout: float = math.inf) -> None:
        self.job = job
        self.state = state
        self.log: structlog.typing.FilteringBoundLogger = structlog.get_logger("worker.job")
        self._tools = tools
        self._steps = Steps(job.steps)
        self._runner = StepRunner(tools)
        self._outside_steps = Numbered("request")
        self._published: set[str] = set()
        self._requests = 0
        self._network = 0.0
        self._ends = tools.clock.monotonic() + timeout

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
    def seconds_left(self) -> float:
        """Seconds until this attempt is ended by its timeout; infinite outside a run."""
        return max(0.0, self._ends - self._tools.clock.monotonic())

    @property
    def max_requests(self) -> int:
        """Requests one attempt may make."""
        return self._tools.max_requests

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
        auth: str | None = None,
        sign: str | None = None,
    ) -> Response:
        """One request by the lean way. `timeout` (seconds) bounds it as a whole and defaults to the step timeout.

        At most one of `json`, `form`, `text` and `body`. Raises a RequestError when no whole answer came; a status of
        400 or above is an answer.

        `auth` and `sign` name credentials of the configuration, which are sent to their own origins only: a Reject
        (`credential`) when there is none of that name and kind, when it may not go to `url`, or when `headers` has what
        it would set. A ValueError for `auth` beside an Authorization header.

        Unless `headers` has one, an `Idempotency-Key` is added: `<job id>/<step>` to the first request of a step and
        `<job id>/<step>/<n>` to each further one, n from 1, counted anew in every try; outside any step
        `<job id>/request` and `<job id>/request/<n>`, counted anew in every attempt. So a repeat sends the same keys as
        long as it makes its requests in the same order; where that is not sure, set the header, or make each request in
        a step of its own.
        """
        content_type, content = encoded_body(json, form, text, body)
        sent = dict(headers or {})
        if auth is not None and has_header(sent, "authorization"):
            raise ValueError("auth= and an Authorization header are both there: give one of them")
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
                auth=auth,
                sign=sign,
            )
        )

    def credential_fault(
        self, *, auth: str | None = None, sign: str | None = None, url: str | None = None, headers: Collection[str] = ()
    ) -> str | None:
        """What would keep `request` from using these credentials for this URL beside these headers (their names).

        None when nothing does. Without `url` only names, kinds and headers are judged.
        """
        return self._tools.transport.credential_fault(auth=auth, sign=sign, url=url, headers=headers)

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
        form = result_form(fn)
        if (done := self._steps.result(name)) is not None:
            remembered: T = form.read_back(done)
            return remembered
        self._steps.begin(name)
        try:
            call = functools.partial(fn, *args, **kwargs)
            value = await self._runner.run(name, call, timeout=timeout, retry=_retry(retry), key=key)
        finally:
            self._steps.end(name)
        plain, size, value = form.travelled(name, value)
        self._steps.remember(name, plain, size)
        return value

    def release(self, name: str) -> None:
        """Say that the result of a finished step or map is needed no more, in no later attempt either.

        To be said in every attempt. When a job's headers get full such results are the first to go; the mark that the
        step is done stays. A step whose result was dropped gives None in a later attempt, a map None for such elements.
        So release what was made of it too, or keep it: a step whose own result is too large to travel runs again, and
        would be given None.
        """
        self._steps.release(name)

    def dropped(self, name: str) -> int | None:
        """Bytes of a released result that did not travel; None when it is there, or the step is not done."""
        return self._steps.dropped(name)

    async def publish(
        self,
        name: str,
        type: str,
        payload: Any = None,
        *,
        delay: float = 0.0,
        deadline: float | None = None,
        headers: Mapping[str, Any] | None = None,
        queue: str | None = None,
    ) -> str:
        """Publish a job of its own, now, and return its id, `<job id>/<name>`, once the broker has confirmed it.

        Remembered as the step `name`: a retry does not publish again. `delay` (seconds) is its earliest start,
        `deadline` (seconds from now) the end of its life; without `queue` it goes into this job's work queue. A
        TypeError names a payload that cannot be JSON, a ValueError what else cannot be published.
        """
        child = ChildJob(name, type, payload, headers or {}, delay, deadline, queue)
        done = self._steps.result(name)
        if name in self._published or (done is not None and done.value != child.id(self.job)):
            raise ValueError(f"{name!r} names a step or a child of this job already: give each its own name")
        published = await self.step(name, self._publish, child)
        self._published.add(name)
        return published

    async def run_cpu(self, fn: Callable[..., T], *args: Any, timeout: float | None = None, **kwargs: Any) -> T:
        """What `fn(*args, **kwargs)` returns, computed in another process, so that it does not hold up the loop.

        `fn` is a plain function that can be imported by its name; arguments and result are pickled. `timeout` (seconds)
        bounds it, besides the job's own; a computation that is cut short is ended with its process. What `fn` raises is
        raised here; a CpuProcessDied, when its process was killed, fails this attempt only.
        """
        async with self._tools.clock.timeout(timeout):
            result: T = await self._tools.cpu.run(fn, args, kwargs)
            return result

    async def gather(self, *work: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
        """All results, in call order, run at the same time.

        When one fails the others are still awaited, so that what they finish is remembered; then the gravest error is
        raised: Reject before a failure before Snooze.
        """
        return await gather_all(work)

    async def map(
        self,
        name: str,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item],
        *,
        concurrency: int = 10,
        timeout: float | None = None,
        retry: StepRetry | int | None = None,
        key: str | Callable[[Item], str | None] | None = None,
    ) -> list[T]:
        """`fn` of every item, at most `concurrency` at once, results in order; each element is a step of its own.

        Elements are remembered one by one, by number and item: a retry runs those that are not finished, and those
        whose item is another one by now. At most 10,000 items. `timeout` (seconds) and `retry` go for each element,
        `key` names the limit it counts against, for all or by item. When one fails no further element starts; those in
        flight are awaited, then the gravest error is raised.
        """
        if concurrency < 1:
            raise ValueError(f"map(concurrency={concurrency}): 1 or more is needed")
        elements = list(islice(items, MOST_ELEMENTS + 1))
        if len(elements) > MOST_ELEMENTS:
            raise ValueError(f"map {name!r} has more than {MOST_ELEMENTS} items: spread them over several jobs")
        fan = self._steps.fan(name)
        try:
            return await FanOut(
                self._runner, fan, name, fn, result_form(fn), elements, timeout, _retry(retry), key
            ).run(concurrency)
        finally:
            self._steps.end(name)

    async def _publish(self, child: ChildJob) -> str:
        try:
            body = encoded(child.payload)
            loads(body)  # what a job may hold
        except (TypeError, ValueError) as error:
            raise TypeError(f"the payload of child job {child.name!r} cannot travel as JSON: {error}") from None
        traceparent = child_traceparent(self.job)
        now = self._tools.clock.now()
        message = child.message(self.job, body, queue=self._tools.queue, now=now, traceparent=traceparent)
        await self._tools.publish(message)
        return child.id(self.job)

    @asynccontextmanager
    async def outgoing(self, request: Request) -> AsyncIterator[Request]:
        """What every request of this job passes: its place among the steps, its count, its marks."""
        if self._requests >= self._tools.max_requests:
            # Quick tries count as well: with what is finished by now, the next attempt may do with fewer.
            raise Retry(f"more than {self._tools.max_requests} requests in one attempt (WORKER_MAX_REQUESTS)")
        self._requests += 1
        # Marked before it waits: the order of the calls is what a repeat has in common with this attempt.
        marked = replace(request, headers=self._marked(request.headers))
        async with self._runner.place(None):
            since = self._tools.clock.monotonic()
            try:
                yield marked
            finally:
                self._network += self._tools.clock.monotonic() - since

    def _marked(self, headers: Mapping[str, str]) -> dict[str, str]:
        marked = dict(headers)
        if not has_header(marked, "idempotency-key"):
            marked["Idempotency-Key"] = f"{self.job.id}/{(current_step() or self._outside_steps).next()}"
        if not has_header(marked, "traceparent"):
            marked["traceparent"] = child_traceparent(self.job)
            if isinstance(state := self.job.headers.get("tracestate"), str):
                marked["tracestate"] = state
        return marked

    def call(self, host: str) -> Call:
        """What a request to `host` passes once it is its turn: the key of its target, which is told how it ended."""
        return WatchedCall(self._tools.limiter, self._tools.clock, host, self._is_late, self._tools.step_timeout)

    def _is_late(self) -> bool:
        step = current_step()
        ends = self._ends if step is None else min(self._ends, step.ends)
        return self._tools.clock.monotonic() >= ends - ROUNDING


@asynccontextmanager
async def job_gate(request: Request) -> AsyncIterator[Request]:
    """The gate of the context whose task makes the request. Outside a job it changes nothing."""
    context = _current.get()
    if context is None:
        yield request
        return
    async with context.outgoing(request) as marked:
        yield marked


def job_call(host: str) -> Call:
    """The call of the context whose task makes the request; outside a job nobody watches it."""
    context = _current.get()
    return UnwatchedCall() if context is None else context.call(host)


def enter(context: Context) -> None:
    """Make `context` the one whose requests the current task makes."""
    _current.set(context)


def _retry(retry: StepRetry | int | None) -> StepRetry:
    if isinstance(retry, int):
        return StepRetry(attempts=retry)
    return retry or StepRetry()
