"""Bounds on time: as asyncio's own, and fair to a process that was stuck when the time was up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from worker.runtime.bound import LATE, MOMENT, Alarm
from worker.runtime.clock import SystemClock
from worker.testing import ManualClock

CLOCK = SystemClock()
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


def test_it_ends_what_takes_too_long(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with CLOCK.timeout(0.01) as bound:
                await asyncio.sleep(60)
        assert bound.expired()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main())


def test_what_is_in_time_is_not_touched(run: Run) -> None:
    async def main() -> None:
        async with CLOCK.timeout(0.05) as bound:
            pass
        await asyncio.sleep(0.1)
        assert not bound.expired()
        async with CLOCK.timeout(None):
            await asyncio.sleep(0)

    run(main())


def test_an_answer_that_came_while_the_loop_was_stuck_is_in_time(run: Run) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        asyncio.get_running_loop().call_soon(stuck, theirs)
        async with CLOCK.timeout(0.1):
            assert await reader.readexactly(2) == b"ok"
        writer.close()
        await writer.wait_closed()
        theirs.close()

    def stuck(theirs: socket.socket) -> None:
        theirs.send(b"ok")
        time.sleep(0.1 + LATE + 0.1)

    run(main())


def test_what_hangs_ends_a_moment_later_then(run: Run) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 0.1 + LATE + 0.1)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with CLOCK.timeout(0.1):
                await asyncio.sleep(60)
        assert time.monotonic() - started > 0.1 + LATE + MOMENT

    run(main())


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError("its own")])
async def test_errors_of_the_block_pass(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        async with CLOCK.timeout(60):
            raise error


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def waits() -> None:
        async with CLOCK.timeout(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_at_the_same_time_wins() -> None:
    clock = ManualClock()

    async def waits() -> None:
        async with clock.timeout(10):
            await asyncio.sleep(60)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    await clock.advance(9)
    task.cancel()
    for timer in clock._timers:
        timer[2].callback()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_inner_of_two_ends_its_own_block_alone() -> None:
    async with CLOCK.timeout(60):
        with pytest.raises(TimeoutError):
            async with CLOCK.timeout(0.01):
                await asyncio.sleep(60)
        await asyncio.sleep(0)


async def test_an_alarm_that_was_cancelled_is_silent() -> None:
    clock, rung = ManualClock(), []
    alarm = Alarm(clock, 5, lambda: rung.append(1))
    alarm.cancel()
    await clock.advance(10)
    assert not rung
