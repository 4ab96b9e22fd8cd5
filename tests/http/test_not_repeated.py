"""`retry.when "unsent"`: what may have reached its target is not sent again, whatever stops the job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from worker.http.handler import http_registry
from worker.runtime.transport import mark_sent, may_be_sent
from worker.testing import Answer, FakeTarget, Hangs, Harness, JobResult, Received, run_job

URL = "https://pay.example.com/"
UNSENT = {"method": "POST", "retry": {"when": "unsent"}}


async def run(target: FakeTarget, payload: dict[str, Any], **options: Any) -> JobResult:
    return await run_job(http_registry(), "http", payload, transport=target, **options)


def asked(target: FakeTarget) -> list[str]:
    return [request.url.removeprefix(URL) for request in target.requests]


async def test_a_request_ends_before_its_job_does() -> None:
    target = FakeTarget()
    target.on("POST", URL).answers(Hangs())
    done = await run(target, {"url": URL, "timeout": 30, **UNSENT}, timeout=20)
    assert (done.reason, len(target.requests)) == ("not_repeated", 1)
    assert done.detail == "no whole answer within 19.5 s; it may have been executed, and may not be repeated"


async def test_where_too_little_time_is_left_none_begins() -> None:
    """Eight seconds each, one after the other: the seventh ends at 56, and an eighth might not end before 60."""
    target = FakeTarget()
    target.on("POST", f"{URL}*").answers(Answer(after=8))
    payload = {"url": f"{URL}{{{{ item }}}}", "for_each": list(range(10)), "concurrency": 1, **UNSENT}
    done = await run(target, payload, timeout=60, step_timeout=10)
    assert (done.status, done.attempts) == ("succeeded", 2)
    assert asked(target) == [str(number) for number in range(10)]


async def test_of_a_job_shorter_than_its_steps_half_is_enough_to_begin() -> None:
    target = FakeTarget()
    target.on("POST", f"{URL}*").answers(Answer(after=4))
    payload = {"url": f"{URL}{{{{ item }}}}", "for_each": list(range(4)), "concurrency": 1, **UNSENT}
    done = await run(target, payload, timeout=10, step_timeout=10)
    assert (done.status, done.attempts, asked(target)) == ("succeeded", 2, ["0", "1", "2", "3"])


async def test_what_may_be_repeated_may_begin_at_any_time() -> None:
    target = FakeTarget()
    target.on("GET", f"{URL}*").answers(Answer(after=4))
    payload = {"url": f"{URL}{{{{ item }}}}", "for_each": list(range(4)), "concurrency": 1}
    done = await run(target, payload, timeout=10, step_timeout=10)
    assert (done.status, done.attempts, asked(target)) == ("succeeded", 2, ["0", "1", "2", "2", "3"])


async def test_what_waited_for_its_place_was_not_sent() -> None:
    target = FakeTarget()
    target.on("GET", URL).answers(Hangs())
    steps = [{"id": "slow", "url": URL, "timeout": 100}, {"id": "pay", "url": f"{URL}pay", **UNSENT}]
    done = await run(target, {"steps": steps}, timeout=20, steps=1, attempts=1)
    assert (done.reason, done.detail, asked(target)) == (
        "attempts_exhausted",
        "1 attempts, the last: timeout after 20 s",
        [""],
    )


FAN_OUT = {"url": f"{URL}{{{{ item }}}}", "for_each": [1, 2], **UNSENT}
SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"url": f"{URL}1", **UNSENT}, ""),
    (FAN_OUT, ""),
    ({"steps": [{"id": "a", "url": f"{URL}1", **UNSENT}, {"id": "b", "url": f"{URL}2"}]}, "step 'a': "),
    ({"steps": [{"id": "a", "url": f"{URL}1"}, {"id": "b", **FAN_OUT}]}, "step 'b': "),
]


async def drained(payload: dict[str, Any], requests: int) -> tuple[FakeTarget, list[tuple[str, str | None, str]]]:
    """The job is stopped when so many of its requests are on their way, and answered where it runs again."""

    def reply(_: Received) -> Hangs | int:
        if len(target.requests) >= requests:
            reached.set()
        return Hangs() if len(target.requests) <= requests else 200

    target, reached = FakeTarget(), asyncio.Event()
    target.on("*", f"{URL}*").answers(reply)
    async with Harness(http_registry(), transport=target) as harness:
        harness.publish("http", payload, id="job-1")
        await reached.wait()
        harness.pipeline.interrupt()
        await harness.until_quiet()
        return target, [(report.outcome, report.reason, report.detail) for report in harness.reports.all]


@pytest.mark.parametrize(("payload", "where"), SHAPES)
async def test_what_a_drain_stops_on_its_way_is_the_end_of_the_job(payload: dict[str, Any], where: str) -> None:
    requests = 1 if "steps" not in payload and "for_each" not in payload else 2
    _, ends = await drained(payload, requests)
    text = f"{where}stopped before the answer was there; it may have been executed, and may not be repeated"
    assert ends == [("rejected", "not_repeated", text)]


async def test_what_may_be_repeated_runs_again_after_a_drain() -> None:
    target, ends = await drained({"url": f"{URL}1"}, 1)
    assert [outcome for outcome, *_ in ends] == ["interrupted", "succeeded"]
    assert asked(target) == ["1", "1"]


def test_how_far_a_request_had_got_is_told_by_its_cancellation() -> None:
    cancelled = asyncio.CancelledError()
    assert not may_be_sent(cancelled)
    mark_sent(cancelled)
    assert may_be_sent(cancelled)
    assert type(cancelled) is asyncio.CancelledError
    late = TimeoutError()
    assert not may_be_sent(late)
    late.__cause__ = cancelled
    assert may_be_sent(late)
