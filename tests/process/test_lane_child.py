"""The suspects' lane and its child: who is to blame when a process ends, and who is not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from worker.core.broker import PublishFailed
from worker.core.finished import Finished
from worker.core.job import Job
from worker.core.message import Outgoing, Properties
from worker.core.outcome import Failed, Interrupted, Rejected, Snoozed, Succeeded
from worker.runtime.attempt import Ended
from worker.runtime.registry import Registry
from worker.suspects import SuspectExecutor

CHILD = """
    import asyncio, os, signal, sys
    from pydantic import BaseModel, field_validator
    from worker import Context, Registry, Reject
    from worker.link import Link, end_of_line
    from worker.runtime.clock import SystemClock
    from worker.runtime.cpu import ThreadCpu
    from worker.runtime.executor import LocalExecutor
    from worker.runtime.limiter import Limiter, Places
    from worker.runtime.telemetry import Silent
    from worker.runtime.tools import Tools
    from worker.suspects import ParentsBroker, serve_suspects
    from worker.testing.harness import NoTransport

    registry = Registry()

    class Order(BaseModel):
        do: str

        @field_validator("do")
        @classmethod
        def known(cls, do):
            if do == "kill in the validator":
                os.kill(os.getpid(), signal.SIGKILL)
            return do

    @registry.handler("job")
    async def handle(order: Order, context: Context) -> str | None:
        match order.do:
            case "exit":
                os._exit(3)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "reject":
                raise Reject("no")
            case "sleep":
                await asyncio.sleep(60)
            case "publish":
                return await context.publish("child", "other", {"a": 1})

    async def main():
        link = await Link.over(end_of_line(int(sys.argv[-1])))
        await link.receive()
        clock = SystemClock()
        broker = ParentsBroker(link)
        limiter = Limiter(Places(), clock, Silent())
        tools = Tools(NoTransport(), limiter, clock, ThreadCpu(), broker.publish, "jobs")
        await serve_suspects(link, registry, LocalExecutor(tools, None), broker)

    asyncio.run(main())
"""

BROKEN = """registry = Registry()
    from worker import suspects

    def broken(ended, registration):
        raise RuntimeError("planted")

    suspects._portable = broken
"""

UNWILLING = """
    import asyncio, sys
    from worker.link import Link, end_of_line
    from worker.replicas import Failed

    async def main():
        link = await Link.over(end_of_line(int(sys.argv[-1])))
        link.send(Failed(2, "an APP cannot be imported"))
        await link.flush()

    asyncio.run(main())
"""


class Desk:
    """The parent's broker: keeps what is published, or refuses it with `fault`."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.fault = ""

    async def publish(self, outgoing: Outgoing) -> None:
        if self.fault:
            raise PublishFailed(self.fault)
        self.sent.append(outgoing)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def executor(tmp_path: Path, desk: Desk) -> AsyncIterator[Any]:
    made: list[SuspectExecutor] = []

    def make(script: str = CHILD) -> SuspectExecutor:
        path = tmp_path / "child.py"
        path.write_text(textwrap.dedent(script))
        made.append(SuspectExecutor((sys.executable, str(path)), "an order", desk.publish))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def run(executor: SuspectExecutor, do: str, timeout: float = 20.0) -> Ended:
    job = Job("job-1", "job", b"", {"do": do}, first_seen=0.0)
    return await executor.start(job, Registry().find("job"), None, timeout).ended()


@pytest.mark.parametrize(
    ("do", "how"),
    [("exit", "with exit code 3"), ("segfault", "by SIGSEGV"), ("kill in the validator", "by SIGKILL")],
)
async def test_a_job_whose_process_ends_is_the_one_that_kills(executor: Any, do: str, how: str) -> None:
    lane = executor()
    ended = await run(lane, do)
    assert ended.outcome == Rejected("crashed_worker", f"the process that ran it alone ended {how}")
    assert (await run(lane, "return")).outcome == Succeeded(), "the next suspect gets a new process"


async def test_two_at_once_take_turns(executor: Any) -> None:
    """As when a lane under a new session delivers while one of the session before still runs."""
    lane = executor()
    ends = await asyncio.gather(run(lane, "exit"), run(lane, "reject"), run(lane, "return"))
    crashed = Rejected("crashed_worker", "the process that ran it alone ended with exit code 3")
    assert [end.outcome for end in ends] == [crashed, Rejected("rejected", "no"), Succeeded()]


async def test_a_process_that_died_while_idle_is_nobodys_fault(executor: Any) -> None:
    lane = executor()
    assert (await run(lane, "return")).outcome == Succeeded()
    child = lane._child
    os.kill(child.process.pid, signal.SIGKILL)
    await child.process.wait()
    assert (await run(lane, "return")).outcome == Succeeded()


async def test_a_process_that_does_not_come_up_is_nobodys_fault(executor: Any) -> None:
    ended = await run(executor(UNWILLING), "return")
    assert isinstance(ended.outcome, Snoozed)
    assert ended.outcome.reason == "no_child"


async def test_the_other_ends_are_told_as_anywhere(executor: Any) -> None:
    lane = executor()
    assert (await run(lane, "reject")).outcome == Rejected("rejected", "no")
    job = Job("job-1", "job", b"", {"oops": 1}, first_seen=0.0)
    invalid = await lane.start(job, Registry().find("job"), None, 5.0).ended()
    assert isinstance(invalid.outcome, Rejected)
    assert invalid.outcome.reason == "invalid_payload"
    assert (await run(lane, "sleep", timeout=0.2)).outcome == Failed("timeout after 0.2 s")


async def test_a_drain_interrupts_it(executor: Any) -> None:
    lane = executor()
    assert (await run(lane, "return")).outcome == Succeeded()
    job = Job("job-1", "job", b"", {"do": "sleep"}, first_seen=0.0)
    under_way = lane.start(job, Registry().find("job"), None, 20.0)
    ending = asyncio.create_task(under_way.ended())
    while under_way._child is None:  # noqa: ASYNC110 - set by code that tells nobody
        await asyncio.sleep(0.01)
    under_way.interrupt()
    assert (await ending).outcome == Interrupted()


async def test_what_it_publishes_goes_by_the_parents_connection(executor: Any, desk: Desk) -> None:
    ended = await run(executor(), "publish")
    assert ended.outcome == Succeeded("job-1/child")
    assert ended.steps["child"] == Finished("job-1/child", size=len('"job-1/child"'))
    (sent,) = desk.sent
    assert (sent.queue, sent.message.body) == ("jobs", b'{"a":1}')
    assert isinstance(sent.message.properties, Properties)
    assert (sent.message.properties.type, sent.message.properties.message_id) == ("other", "job-1/child")


async def test_a_publish_that_is_not_confirmed_fails_its_attempt(executor: Any, desk: Desk) -> None:
    desk.fault = "queue 'jobs' refuses"
    ended = await run(executor(), "publish")
    assert ended.outcome == Failed("worker.core.broker.PublishFailed")
    assert not ended.steps


async def test_a_fault_of_ours_there_is_an_answer_and_no_silence(executor: Any) -> None:
    ended = await run(executor(CHILD.replace("registry = Registry()", BROKEN, 1)), "return")
    assert ended.outcome == Failed("a fault of the worker")
