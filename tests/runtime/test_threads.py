"""Plain `def` handlers: as many at once as there are slots, and none that hangs holds anything up."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from worker import Registry, Retry
from worker.runtime.threads import in_thread
from worker.testing import Harness


async def test_as_many_run_at_once_as_there_are_slots() -> None:
    registry, together = Registry(), threading.Barrier(40, timeout=10)

    @registry.handler("job")
    def handle(payload: object) -> None:
        together.wait()

    async with Harness(registry, concurrency=40, prefetch=40) as harness:
        for number in range(40):
            harness.publish("job", None, id=f"job-{number}")
        await harness.until_quiet(patience=1.0)
        assert [report.outcome for report in harness.reports.all] == ["succeeded"] * 40


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration(), SystemExit(3), Retry("later")])
async def test_what_it_raises_is_raised(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises((type(error), RuntimeError)):
        await in_thread(fail)


def test_one_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    program = (
        "import asyncio, threading\n"
        "from worker.runtime.threads import in_thread\n"
        "async def main():\n"
        "    task = asyncio.create_task(in_thread(threading.Event().wait))\n"
        "    await asyncio.sleep(0.1)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
