"""The built-in job type `http`: an ordinary handler on the public API."""

from __future__ import annotations

import random
import time
from typing import Any, Final, NoReturn

from worker import (
    Context,
    NotSent,
    Registry,
    Reject,
    RequestError,
    Response,
    Retry,
    Snooze,
    StatusError,
    StepRetry,
    read_json,
)
from worker.http.payload import HttpJob
from worker.http.status import asked_wait, is_retried

KEPT_HEADERS: Final = ("content-type", "location", "etag", "retry-after", "x-request-id")
"""Response headers that get into a result."""

STEP_MARGIN: Final = 0.5
"""Seconds a step gets beyond its request, so that the engine, which knows whether anything was sent, ends first."""


def http_registry() -> Registry:
    """A registry with the one type `http`."""
    registry = Registry()
    registry.handler("http", key=_keys)(run_http)
    return registry


def _keys(job: HttpJob) -> list[str]:
    return job.keys


async def run_http(job: HttpJob, context: Context) -> dict[str, Any]:
    """The results by step id. Whatever goes wrong is told by status and host only."""
    try:
        result = await context.step(
            job.id,
            _request,
            job,
            context,
            timeout=(context.step_timeout if job.timeout is None else job.timeout) + STEP_MARGIN,
            retry=StepRetry(attempts=job.retry.attempts, when=job.retry.when),
        )
    except NotSent as error:
        raise Retry(str(error)) from None
    except (RequestError, TimeoutError) as error:
        _give_up(job, error)
    return {job.id: result}


def _give_up(job: HttpJob, error: Exception) -> NoReturn:
    """It may have been executed: whether another attempt may repeat it is the job's to say."""
    text = str(error) or "no answer in time"
    if job.retry.when == "unsent":
        raise Reject(f"{text}; it may have been executed, and may not be repeated", code="not_repeated") from None
    raise Retry(text) from None


async def _request(job: HttpJob, context: Context) -> dict[str, Any]:
    response = await context.request(
        job.method, job.target, headers=job.headers, timeout=job.timeout, redirects=job.redirects, **job.body
    )
    if job.expect.holds(response.status):
        return result_of(response)
    wait = asked_wait(response.status, response.headers, now=time.time(), chance=random.random())  # noqa: S311 (no secret)
    if wait is not None:
        raise Snooze(wait, reason="retry_after")
    if is_retried(response.status, response.headers):
        raise StatusError(response)
    raise Reject(f"status {response.status}", code="http_status")


def result_of(response: Response) -> dict[str, Any]:
    """What a job keeps of an answer: `json` when it says it is JSON and a job's body could hold it, else `text`."""
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    result: dict[str, Any] = {"status": response.status, "headers": headers}
    if _says_json(headers.get("content-type", "")):
        try:
            # Read as a job's own body is: a reply or a callback made of it can be read again.
            return {**result, "json": read_json(response.body)}
        except ValueError:  # told as text: a target's bad JSON is not the job's fault
            pass
    return {**result, "text": response.text}


def _says_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")
