"""One try of a step: its timeout, and the quick repeats of what may pass."""

from __future__ import annotations

import asyncio

import pytest

from tests.runtime.toys import one, run
from worker import Context, Reject, Retry, StepRetry
from worker.runtime.limiter import Places
from worker.testing import Harness
from worker.testing.clock import let_run


async def test_a_step_that_takes_too_long_is_a_timeout_of_the_step() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    async def body(context: Context) -> None:
        await context.step("s", hangs, timeout=5, retry=1)

    result = await run(body, attempts=1)
    assert (result.seconds, result.detail) == (5, "1 attempts, the last: TimeoutError")


async def test_a_step_that_swallows_its_timeout_has_no_result() -> None:
    async def swallows() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        raise AssertionError

    async def body(context: Context) -> None:
        await context.step("s", swallows, timeout=5, retry=1)

    result = await run(body, attempts=1)
    assert result.detail == "1 attempts, the last: TimeoutError"


@pytest.mark.parametrize(
    ("error", "retry", "tries"),
    [
        (ConnectionError(), None, 3),
        (ConnectionError(), 5, 5),
        (ConnectionError(), 1, 1),
        (ConnectionError(), StepRetry(attempts=2), 2),
        (ConnectionError(), StepRetry(when="unsent"), 1),
        (ValueError(), None, 1),
        (Reject("x"), None, 1),
        (Retry(), None, 1),
        (SystemExit(), None, 1),
    ],
)
async def test_only_transient_errors_are_tried_again_at_once(
    error: BaseException, retry: StepRetry | int | None, tries: int
) -> None:
    tried = []

    async def fails() -> None:
        tried.append(1)
        raise error

    async def body(context: Context) -> None:
        await context.step("s", fails, retry=retry)

    result = await run(body, attempts=1)
    assert result.status == "dead"
    assert len(tried) == tries
    assert result.seconds <= 8


async def test_a_quick_retry_that_succeeds_is_a_result() -> None:
    tried = []

    async def fails_twice() -> int:
        tried.append(1)
        if len(tried) < 3:
            raise ConnectionError
        return 7

    async def body(context: Context) -> None:
        assert await context.step("s", fails_twice) == 7

    result = await run(body)
    assert (result.status, result.attempts) == ("succeeded", 1)


async def test_the_wait_between_quick_tries_holds_no_place() -> None:
    other, tried = asyncio.Event(), []

    async def fails_once() -> None:
        tried.append(1)
        if len(tried) == 1:
            raise ConnectionError

    async def quick() -> None:
        other.set()

    async def body(context: Context) -> None:
        await context.gather(context.step("a", fails_once), context.step("b", quick))

    async with Harness(one(body), places=Places(steps=1)) as harness:
        harness.publish("job", id="a")
        await let_run()
        assert tried == [1]
        assert other.is_set()
