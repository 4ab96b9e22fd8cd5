"""One attempt of an `http` job: each step as soon as what it needs is there, and nothing new once one has failed."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Mapping
from typing import Any, Final

from worker import Context, Reject, Response, Retry, Snooze, StatusError, StepRetry, is_retried, may_be_sent
from worker.http.jobs.ends import cut_short, is_final, named, strip
from worker.http.jobs.fields import ITEM, MOST_ELEMENTS
from worker.http.jobs.filling import Filling
from worker.http.jobs.pace import pace
from worker.http.jobs.payload import HttpJob
from worker.http.jobs.plan import PlannedStep
from worker.http.jobs.request import Part
from worker.http.jobs.result import kept_of
from worker.http.jobs.status import asked_wait
from worker.http.jobs.step import CONCURRENCY, Step
from worker.http.templates.budget import MAX_VISITS, Budget, TemplateFault

STEP_MARGIN: Final = 0.5
"""Seconds a step gets beyond its request, so that the engine, which knows whether anything was sent, ends first."""

HOST_VISITS: Final = 2000
"""What the URL of an element may look at when it is one placeholder: all that run at once are looked at in one turn."""


class Run:
    """The steps of one attempt, and what they have given so far."""

    def __init__(self, job: HttpJob, context: Context) -> None:
        self._plan = job.plan
        self._held = frozenset(job.keys)
        self._context = context
        self._seconds = context.seconds_left
        self._filling = Filling(len(context.job.body))
        self._results: dict[str, Any] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._planned = {planned.id: planned for planned in job.plan.steps}
        self._readers = job.plan.readers()
        self._failure: BaseException | None = None
        self._cut_short: Reject | None = None

    async def all(self) -> dict[str, Any]:
        """What every step gave, by id: `{"truncated": bytes}` where it was dropped on the way."""
        try:
            await self._all()
        except asyncio.CancelledError:
            if self._cut_short is None:
                raise
            raise self._cut_short from None
        return {planned.id: self._told(planned.id) for planned in self._plan.steps}

    async def _all(self) -> None:
        if len(self._plan.steps) == 1:
            await self._finish(self._plan.steps[0])
        else:
            self._ended = {planned.id: asyncio.Event() for planned in self._plan.steps}
            await self._context.gather(*(self._in_turn(planned) for planned in self._plan.steps))

    def _told(self, name: str) -> Any:
        dropped = self._context.dropped(name)
        return self._results[name] if dropped is None else {"truncated": dropped}

    async def _in_turn(self, planned: PlannedStep) -> None:
        for need in planned.step.needs:
            await self._ended[need].wait()
        try:
            if self._failure is None:
                await self._finish(planned)
        finally:
            self._ended[planned.id].set()

    async def _finish(self, planned: PlannedStep) -> None:
        try:
            result = await self._result(planned)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing new may start
            end = self._fail(error, planned)
        else:
            if self._context.dropped(planned.id) is None:
                self._results[planned.id] = result
            self._release(planned)
            return
        raise end  # out here, where it does not keep the error it came from

    def _fail(self, error: BaseException, planned: PlannedStep) -> BaseException:
        """From now on nothing new starts. Returns the end that `error` means."""
        end = error if error is self._failure else named(error, planned, several=self._plan.several)
        self._failure = self._failure or end
        return end

    def _release(self, planned: PlannedStep) -> None:
        """Give up a result that nothing can read any more, and then those that it was made of.

        In this order, because a step whose result is still needed may be forgotten when the headers get full: it runs
        again, and then reads again what it is made of.
        """
        if self._readers[planned.id]:
            return
        self._context.release(planned.id)
        for source in planned.sources:
            self._readers[source].discard(planned.id)
            self._release(self._planned[source])

    async def _result(self, planned: PlannedStep) -> Any:
        step, context = planned.step, self._context
        timeout = (context.step_timeout if step.timeout is None else step.timeout) + STEP_MARGIN
        retry = StepRetry(attempts=step.retry.attempts, when=step.retry.when)
        if planned.for_each is None:
            key = await self._key_if_it_can_be_filled(planned)
            return await context.step(
                step.id, self._send, planned, self._results, timeout=timeout, retry=retry, key=key
            )
        return await context.map(
            step.id,
            functools.partial(self._element, planned),
            await self._items(planned, planned.for_each),
            concurrency=step.concurrency or CONCURRENCY,
            timeout=timeout,
            retry=retry,
            key=lambda item: self._key(planned, self._results | {ITEM: item}, visits=HOST_VISITS),
        )

    async def _items(self, planned: PlannedStep, for_each: Part) -> list[Any]:
        items = await self._listed(for_each)
        if not isinstance(items, list):
            raise TemplateFault("for_each: a list is needed, and the placeholder gives something else")
        if len(items) > MOST_ELEMENTS:
            raise TemplateFault(f"for_each: at most {MOST_ELEMENTS} elements are possible, these are {len(items)}")
        self._check_allowance(len(items) - self._finished_elements(planned.id))
        return items

    async def _listed(self, for_each: Part) -> Any:
        if for_each.template is None:
            return for_each.ready
        async with pace():
            try:
                return for_each.template.fill(self._results, Budget())
            except TemplateFault as fault:
                raise TemplateFault(f"for_each: {fault}") from None

    def _finished_elements(self, name: str) -> int:
        return len(getattr(self._context.steps.finished.get(name), "done", ()))

    def _check_allowance(self, elements: int) -> None:
        most = self._context.max_requests
        if elements > most:
            raise Reject(f"for_each: {elements} elements, and one job may make {most} requests (WORKER_MAX_REQUESTS)")
        if elements > (left := most - self._context.requests):
            raise Retry(f"for_each: {elements} elements, and {left} requests are left (WORKER_MAX_REQUESTS)")

    def _key(self, planned: PlannedStep, results: Mapping[str, Any], *, visits: int = MAX_VISITS) -> str | None:
        """The host the request counts against, unless the job itself holds a place under that name."""
        host = planned.draft.filled_host(results, Budget(visits=visits))
        return None if host in self._held else host

    async def _key_if_it_can_be_filled(self, planned: PlannedStep) -> str | None:
        # A finished step is not filled again, and what it read may be gone by now: only a step that runs may say so.
        if planned.draft.host is not None:
            return self._key(planned, self._results)
        async with pace():
            try:
                return self._key(planned, self._results)
            except TemplateFault:
                return None

    async def _element(self, planned: PlannedStep, item: Any) -> Any:
        return await self._send(planned, self._results | {ITEM: item})

    async def _send(self, planned: PlannedStep, results: Mapping[str, Any]) -> Any:
        """One try. It begins here, in its place: what failed while it waited for that keeps it from beginning."""
        if self._failure is not None:
            strip(self._failure)
            raise self._failure
        step = planned.step
        try:
            return await self._exchange(planned, results)
        except asyncio.CancelledError as cancelled:
            if step.retry.when == "unsent" and may_be_sent(cancelled):
                self._cut_short = self._cut_short or cut_short(planned, several=self._plan.several)
            strip(cancelled)
            raise
        except Exception as error:
            if is_final(error, step.retry):
                self._fail(error, planned)
            strip(error)
            raise

    async def _exchange(self, planned: PlannedStep, results: Mapping[str, Any]) -> Any:
        step, ready = planned.step, await self._filling.ready(planned, results)
        response = await self._context.request(
            step.method,
            ready.url,
            headers=ready.headers,
            body=ready.body,
            timeout=self._timeout(step),
            redirects=step.redirects,
            auth=step.auth,
            sign=step.sign,
        )
        if step.expect.holds(response.status):
            return kept_of(planned, response)
        raise self._unexpected(response)

    def _timeout(self, step: Step) -> float:
        """Seconds for the request.

        One that may not be repeated ends before the job does, or is not begun: cut short, it would be the job's end.
        """
        timeout = self._context.step_timeout if step.timeout is None else step.timeout
        if step.retry.when == "any":
            return timeout
        left, margin = self._context.seconds_left, min(STEP_MARGIN, self._seconds / 10)
        # Of a job timeout shorter than that of its steps, half is enough for a request to begin.
        if left < min(timeout + margin, self._seconds / 2):
            raise Retry("too little of the job timeout is left for a request that may not be repeated")
        return min(timeout, left - margin)

    def _unexpected(self, response: Response) -> Exception:
        """The error that an answer is which was not expected."""
        snoozes, chance = self._context.job.snoozes, random.random()  # noqa: S311 (no secret)
        wait = asked_wait(response.status, response.headers, now=time.time(), chance=chance, snoozes=snoozes)
        if wait is not None:
            return Snooze(wait, reason="retry_after")
        if is_retried(response.status, response.headers):
            return StatusError(Response(response.status, response.headers, b"", response.url))
        return Reject(f"status {response.status}", code="http_status")
