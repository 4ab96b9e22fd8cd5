"""One attempt of an `http` job: each step as soon as what it needs is there, and nothing new once one has failed."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Mapping
from typing import Any, Final

from worker import (
    Context,
    NotSent,
    Reject,
    RequestError,
    Retry,
    Snooze,
    StatusError,
    StepRetry,
    is_retried,
)
from worker.http.budget import Budget, TemplateFault
from worker.http.fields import ITEM, MOST_ELEMENTS
from worker.http.payload import HttpJob
from worker.http.plan import PlannedStep
from worker.http.request import Part
from worker.http.result import kept_of
from worker.http.status import asked_wait
from worker.http.step import CONCURRENCY, Step
from worker.http.template import Template, UrlTemplate

STEP_MARGIN: Final = 0.5
"""Seconds a step gets beyond its request, so that the engine, which knows whether anything was sent, ends first."""


class Run:
    """The steps of one attempt, and what they have given so far."""

    def __init__(self, job: HttpJob, context: Context) -> None:
        self._plan = job.plan
        self._held = frozenset(job.keys)
        self._context = context
        self._results: dict[str, Any] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._planned = {planned.id: planned for planned in job.plan.steps}
        self._readers = job.plan.readers()
        self._failure: BaseException | None = None

    async def all(self) -> dict[str, Any]:
        """What every step gave, by id: `{"truncated": bytes}` where it was dropped on the way."""
        if len(self._plan.steps) == 1:
            await self._finish(self._plan.steps[0])
        else:
            self._ended = {planned.id: asyncio.Event() for planned in self._plan.steps}
            await self._context.gather(*(self._in_turn(planned) for planned in self._plan.steps))
        return {planned.id: self._told(planned.id) for planned in self._plan.steps}

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
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing new may start
            named = error if error is self._failure else _named(error, planned, several=self._plan.several)
            self._failure = self._failure or named
            raise named from None
        if self._context.dropped(planned.id) is None:
            self._results[planned.id] = result
        self._release(planned)

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
            key = self._key_if_it_can_be_filled(planned)
            return await context.step(
                step.id, _send, planned, self._results, context, timeout=timeout, retry=retry, key=key
            )
        return await context.map(
            step.id,
            functools.partial(self._element, planned),
            self._items(planned.for_each),
            concurrency=step.concurrency or CONCURRENCY,
            timeout=timeout,
            retry=retry,
            key=lambda item: self._key(planned, self._results | {ITEM: item}),
        )

    async def _element(self, planned: PlannedStep, item: Any) -> Any:
        if self._failure is not None:  # another step's: nothing new starts here either
            raise self._failure
        return await _send(planned, self._results | {ITEM: item}, self._context)

    def _items(self, for_each: Part) -> list[Any]:
        items = for_each.ready if for_each.template is None else _filled(for_each.template, self._results)
        if not isinstance(items, list):
            raise TemplateFault("for_each: a list is needed, and the placeholder gives something else")
        if len(items) > MOST_ELEMENTS:
            raise TemplateFault(f"for_each: at most {MOST_ELEMENTS} elements are possible, these are {len(items)}")
        if len(items) > (most := self._context.max_requests):
            raise Reject(f"for_each: {len(items)} elements, and one job may make {most} requests (WORKER_MAX_REQUESTS)")
        return items

    def _key(self, planned: PlannedStep, results: Mapping[str, Any]) -> str | None:
        """The host the request counts against, unless the job itself holds a place under that name."""
        host = planned.draft.filled_host(results)
        return None if host in self._held else host

    def _key_if_it_can_be_filled(self, planned: PlannedStep) -> str | None:
        # A finished step is not filled again, and what it read may be gone by now: only a step that runs may say so.
        try:
            return self._key(planned, self._results)
        except TemplateFault:
            return None


def _filled(template: Template | UrlTemplate, results: Mapping[str, Any]) -> Any:
    try:
        return template.fill(results, Budget())
    except TemplateFault as fault:
        raise TemplateFault(f"for_each: {fault}") from None


async def _send(planned: PlannedStep, results: Mapping[str, Any], context: Context) -> Any:
    step, filled = planned.step, planned.draft.fill(results)
    response = await context.request(
        step.method,
        filled.url,
        headers=filled.headers,
        timeout=step.timeout,
        redirects=step.redirects,
        **filled.body,
    )
    if step.expect.holds(response.status):
        return kept_of(planned, response)
    wait = asked_wait(response.status, response.headers, now=time.time(), chance=random.random())  # noqa: S311 (no secret)
    if wait is not None:
        raise Snooze(wait, reason="retry_after")
    if is_retried(response.status, response.headers):
        raise StatusError(response)
    raise Reject(f"status {response.status}", code="http_status")


def _named(error: BaseException, planned: PlannedStep, *, several: bool) -> BaseException:
    """The end of the job that the error of a step means, told by step, status and host only."""
    where = f"step {planned.id!r}: " if several else ""
    match error:
        case TemplateFault():
            return Reject(f"{where}{error}", code="template")
        case Reject():
            return Reject(f"{where}{error.detail}", code=error.code)
        case NotSent():
            return Retry(f"{where}{error}")
        case RequestError() | TimeoutError():
            return _given_up(f"{where}{str(error) or 'no answer in time'}", planned.step)
        case _:
            return error


def _given_up(text: str, step: Step) -> Reject | Retry:
    """It may have been executed: whether another attempt may repeat it is the job's to say."""
    if step.retry.when == "unsent":
        return Reject(f"{text}; it may have been executed, and may not be repeated", code="not_repeated")
    return Retry(text)
