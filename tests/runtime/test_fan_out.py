"""Fan-outs: what gather and map run at once, in which order they answer, and which of several errors counts."""

from __future__ import annotations

import asyncio

import pytest

from tests.runtime.toys import Ran, one, run
from worker import Context, Reject, Retry, Snooze
from worker.testing import Harness
from worker.testing.clock import let_run


async def test_gather_gives_results_in_call_order() -> None:
    first, order = asyncio.Event(), []

    async def slow() -> int:
        await first.wait()
        order.append("slow")
        return 1

    async def quick() -> int:
        first.set()
        order.append("quick")
        return 2

    async def body(context: Context) -> None:
        assert await context.gather(context.step("slow", slow), context.step("quick", quick)) == (1, 2)

    assert (await run(body)).status == "succeeded"
    assert order == ["quick", "slow"]


async def failing(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([Snooze(10), ValueError(), Reject("x")], "rejected"),
        ([Reject("x"), Snooze(10)], "rejected"),
        ([Snooze(10), Retry()], "failed"),
        ([Snooze(10), SystemExit(), Snooze(20)], "failed"),
        ([Snooze(10), asyncio.CancelledError()], "failed"),
        ([Snooze(10)], "snoozed"),
    ],
)
async def test_the_gravest_error_of_several_counts(errors: list[BaseException], outcome: str) -> None:
    ran = Ran()

    async def body(context: Context) -> None:
        bad = [context.step(f"bad{number}", failing, error) for number, error in enumerate(errors)]
        await context.gather(*bad, context.step("good", ran.step, "good"))

    async with Harness(one(body)) as harness:
        harness.publish("job", id="a")
        await let_run()
        assert [report.outcome for report in harness.reports.all] == [outcome]
    assert ran.names == ["good"]


async def test_of_several_waits_the_longest_counts() -> None:
    async def body(context: Context) -> None:
        if context.job.snoozes:
            return
        waits = [context.step(f"{delay}", failing, Snooze(delay)) for delay in (5, 600, 60)]
        await context.gather(*waits)

    result = await run(body)
    assert (result.status, result.seconds) == ("succeeded", 600)


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()])
async def test_an_exit_inside_gather_ends_the_attempt_and_not_the_worker(error: BaseException) -> None:
    async def body(context: Context) -> None:
        await context.gather(context.step("s", failing, error))

    result = await run(body, attempts=1)
    assert result.reason == "attempts_exhausted"
    assert type(error).__name__ in result.detail


async def test_a_cancelled_gather_ends_what_it_began() -> None:
    ended = []

    async def hangs(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def body(context: Context) -> None:
        try:
            await context.gather(*(context.step(name, hangs, name, timeout=100) for name in "ab"))
        finally:
            ended.append("handler")

    await run(body, attempts=1, timeout=5)
    assert ended == ["a", "b", "handler"]


async def test_map_bounds_what_runs_at_once_and_keeps_the_order() -> None:
    now = most = 0

    async def square(item: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(10 - item):
            await asyncio.sleep(0)
        now -= 1
        return item * item

    async def body(context: Context) -> None:
        assert await context.map("sq", square, range(10), concurrency=3) == [n * n for n in range(10)]
        assert await context.map("none", square, []) == []

    assert (await run(body)).status == "succeeded"
    assert most == 3


async def test_map_starts_nothing_after_a_failure_finishes_what_runs_and_goes_on_from_there() -> None:
    ran: list[int] = []
    failed: list[int] = []

    async def push(item: int) -> int:
        ran.append(item)
        if item == 1 and not failed:
            failed.append(item)
            raise ValueError
        for _ in range(5):
            await asyncio.sleep(0)
        return item

    async def body(context: Context) -> None:
        assert await context.map("push", push, range(6), concurrency=2) == list(range(6))

    result = await run(body)
    assert (result.status, result.attempts) == ("succeeded", 2)
    assert ran[:2] == [0, 1]
    assert sorted(ran) == [0, 1, 1, 2, 3, 4, 5]  # element 0, in flight at the failure, was finished and remembered


async def test_map_refuses_a_concurrency_below_one() -> None:
    async def body(context: Context) -> None:
        with pytest.raises(ValueError, match=r"map\(concurrency=0\)"):
            await context.map("m", failing, [], concurrency=0)

    assert (await run(body)).status == "succeeded"
