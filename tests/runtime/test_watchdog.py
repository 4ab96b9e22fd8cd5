"""What blocks the loop is named while it does, on both loops; what only keeps it busy is not accused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import uvloop

from worker import Context, Registry
from worker.runtime.threads import in_thread
from worker.runtime.watchdog import LONGEST, Watchdog
from worker.testing import Harness

Runner = Callable[[Coroutine[Any, Any, Any]], Any]
Events = list[Any]

BLOCKS, BLOCKED = "handler.blocks_loop", "handler.blocked_loop"
PATIENCE = 20.0

on_both = pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@asynccontextmanager
async def watched() -> AsyncIterator[Events]:
    """What is logged while the loop is watched: all of it, for the watch is over when this is."""
    watchdog = Watchdog()
    with structlog.testing.capture_logs() as events:
        watchdog.start(asyncio.get_running_loop())
        await asyncio.sleep(0)  # the first beat
        try:
            yield events
        finally:
            watchdog.stop()
            await asyncio.to_thread(until_no_watch)


def until_no_watch() -> None:
    deadline = time.monotonic() + PATIENCE
    while any(thread.name == "worker-watchdog" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def as_many_are_over(events: Events) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(told(events, BLOCKS)) != len(told(events, BLOCKED)):  # noqa: ASYNC110 - logged by a thread
            await asyncio.sleep(0.01)


def told(events: Events, name: str) -> Events:
    return [event for event in events if event["event"] == name]


def block_until(events: Events) -> None:
    """Blocks this thread until the loop is said to be blocked."""
    deadline = time.monotonic() + PATIENCE
    while not told(events, BLOCKS) and time.monotonic() < deadline:
        time.sleep(0.02)


async def runs(registry: Registry, payload: Any = None) -> None:
    async with Harness(registry) as harness:
        harness.publish("job", payload, id="job-7")
        await harness.until_quiet(patience=1.0)
        assert [report.outcome for report in harness.reports.all] == ["succeeded"]


def check_named(events: Events, function: str) -> None:
    (blocks,) = told(events, BLOCKS)
    (blocked,) = told(events, BLOCKED)
    assert blocks["log_level"] == "warning"
    assert (blocks["type"], blocks["id"]) == (blocked["type"], blocked["id"]) == ("job", "job-7")
    assert f"{__file__}:" in blocks["at"]
    assert blocks["at"].split(" > ")[0].endswith(f" {function}"), "not what of ours lies above it"
    assert blocked["at"] == blocks["at"]
    assert blocked["seconds"] >= blocks["seconds"] >= LONGEST
    assert "private" not in str(events)


@on_both
def test_a_handler_is_named_while_it_blocks(runner: Runner) -> None:
    async def main() -> None:
        registry = Registry()
        seen: Events = []
        took: list[float] = []
        async with watched() as events:

            @registry.handler("job")
            async def sleepy(payload: str) -> None:
                since = time.monotonic()
                block_until(events)
                time.sleep(0.6)  # noqa: ASYNC251 - two more looks
                seen.extend(told(events, BLOCKS))
                took.append(time.monotonic() - since)

            await runs(registry, "private")
            assert len(seen) == 1, "before the handler was over"
        check_named(events, "sleepy")
        assert told(events, BLOCKED)[0]["seconds"] >= round(took[0], 1)

    runner(main())


@pytest.mark.parametrize("how", ["step", "gather", "map", "plain gather", "a task of its own"])
def test_what_a_handler_started_is_named_too(how: str) -> None:
    async def main() -> None:
        registry = Registry()
        async with watched() as events:

            async def fetch(number: int = 0) -> None:
                await asyncio.sleep(0)
                block_until(events)

            @registry.handler("job")
            async def handle(payload: object, context: Context) -> None:
                match how:
                    case "step":
                        await context.step("one", fetch)
                    case "gather":
                        await context.gather(context.step("one", fetch), context.step("two", asyncio.sleep, 0))
                    case "map":
                        await context.map("many", fetch, [1])
                    case "plain gather":
                        await context.gather(fetch(), asyncio.sleep(0))
                    case _:
                        await asyncio.create_task(fetch())

            await runs(registry)
        (blocks,) = told(events, BLOCKS)
        assert " fetch > " in blocks["at"]
        expected = (None, None) if how == "a task of its own" else ("job", "job-7")
        assert (blocks.get("type"), blocks.get("id")) == expected

    uvloop.run(main())


def test_one_that_lets_no_thread_run_is_named_afterwards() -> None:
    """A regular expression, a large JSON document: they hold the interpreter's lock, and the watchdog waits for it."""

    async def main() -> None:
        registry = Registry()
        async with watched() as events:

            @registry.handler("job")
            async def greedy(payload: object) -> None:
                for _ in range(10):  # on a busy machine the watchdog's turn may come when it is over
                    hold_the_interpreter()
                    await asyncio.sleep(0.6)
                    if told(events, BLOCKED):
                        return

            await runs(registry)
        assert told(events, BLOCKS)
        for blocks in told(events, BLOCKS):  # a slow machine may need several tries
            assert (blocks["type"], blocks["id"]) == ("job", "job-7")
            assert " greedy" in blocks["at"]

    uvloop.run(main())


def hold_the_interpreter() -> None:
    """For about twice as long as is too long, in one call that does not let go in between, no other thread runs."""
    paces = []
    for _ in range(3):
        started = time.monotonic()
        sum(range(1_000_000))
        paces.append(1_000_000 / (time.monotonic() - started))
    sum(range(int(max(paces) * 2 * LONGEST)))


def test_what_runs_on_the_loop_is_not_accused_of_what_a_thread_does() -> None:
    async def main() -> None:
        async with watched() as events:
            holding = asyncio.create_task(in_thread(hold_the_interpreter))
            since, longest = time.monotonic(), 0.0
            while not holding.done():
                short()
                await asyncio.sleep(0)
                longest, since = max(longest, time.monotonic() - since), time.monotonic()
            assert longest > LONGEST, "the loop stood still"
        assert events == []

    uvloop.run(main())


def test_a_handler_is_found_above_a_deep_library() -> None:
    async def main() -> None:
        registry = Registry()
        async with watched() as events:

            def library(depth: int) -> None:
                return library(depth - 1) if depth else block_until(events)

            @registry.handler("job")
            async def deep(payload: object) -> None:
                library(30)

            await runs(registry)
        (blocks,) = told(events, BLOCKS)
        assert blocks["at"].startswith(f"{__file__}:")
        assert blocks["at"].split(" > ")[0].endswith(" deep")
        assert blocks["at"].endswith(" block_until")
        assert blocks["at"].count("library") < 10

    uvloop.run(main())


def test_one_that_is_over_as_the_watch_ends_is_told_too() -> None:
    async def main() -> None:
        watchdog = Watchdog()
        with structlog.testing.capture_logs() as events:
            watchdog.start(asyncio.get_running_loop())
            await asyncio.sleep(0)
            block_until(events)
            watchdog.stop()
            await as_many_are_over(events)
        assert [event["event"] for event in events] == [BLOCKS, BLOCKED]

    uvloop.run(main())


def test_the_next_one_is_told_again() -> None:
    async def main() -> None:
        async with watched() as events:
            for _ in range(2):
                del events[:]
                block_until(events)
                await as_many_are_over(events)
                assert [event["event"] for event in events] == [BLOCKS, BLOCKED]

    uvloop.run(main())


@on_both
def test_many_short_callbacks_are_not_accused(runner: Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        async with watched() as events:
            since = time.monotonic()
            for _ in range(300):  # in one turn of the loop, so that no beat comes between
                loop.call_soon(time.sleep, 0.006)
                loop.call_soon(short)
            loop.call_soon(over.set_result, None)
            await over
            assert time.monotonic() - since > LONGEST
        assert events == []

    runner(main())


def short() -> None:
    time.sleep(0.001)


@on_both
def test_a_loop_that_is_busy_or_idle_is_not_accused(runner: Runner) -> None:
    async def main() -> None:
        async with watched() as events:
            until = time.monotonic() + 0.8
            while time.monotonic() < until:  # noqa: ASYNC110 - busy is what it shall be
                await asyncio.sleep(0)
            await asyncio.sleep(0.8)
        assert events == []

    runner(main())


@on_both
def test_its_thread_ends_with_it_and_with_its_loop(runner: Runner) -> None:
    async def main(watchdog: Watchdog) -> None:
        watchdog.start(asyncio.get_running_loop())
        await asyncio.sleep(0)

    stopped, forgotten = Watchdog(), Watchdog()
    Watchdog().stop()  # a start-up that failed before
    runner(main(stopped))
    stopped.stop()
    runner(main(forgotten))
    until_no_watch()
