"""run_job(): everything a test asserts about one job, under limits and retries given as plain words."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from worker import ChildJob, Context, Registry, Reject, Result, Retry, Snooze
from worker.core.broker import Undeliverable
from worker.core.message import Message, Outgoing, Properties
from worker.testing import Answer, FakeTarget, Harness, ManualClock, MemoryBroker, run_job

# How it ended.


@dataclasses.dataclass
class Receipt:
    id: int
    lines: tuple[str, ...]


async def test_the_value_is_what_the_handler_returned_as_json() -> None:
    registry = Registry()

    @registry.handler("receipt")
    async def receipt(payload: Any) -> Receipt:
        return Receipt(7, ("a", "b"))

    @registry.handler("plain")
    def plain(payload: Any) -> list[int]:
        return [1, 2]

    @registry.handler("odd")
    async def odd(payload: Any) -> Any:
        return object()

    assert (await run_job(registry, "receipt")).value == {"id": 7, "lines": ["a", "b"]}
    assert (await run_job(registry, "plain")).value == [1, 2]
    result = await run_job(registry, "odd")
    assert (result.status, result.value) == ("succeeded", None)
    assert "the handler returned object, which cannot travel as JSON" in result.detail


async def test_every_attempt_is_told_with_its_error_and_its_wait() -> None:
    ends = [Retry("first"), KeyError("second"), Snooze(100), Retry(after=7), Reject("enough")]
    registry, coming = Registry(), iter(ends)

    @registry.handler("job", backoff=(8, 8))
    async def job(payload: Any) -> None:
        raise next(coming)

    result = await run_job(registry, "job")
    assert (result.status, result.reason, result.detail) == ("dead", "rejected", "enough")
    assert (result.attempts, result.snoozes, result.waits, result.seconds) == (4, 1, (8, 8, 100, 7), 123)
    assert list(result.errors) == ends
    assert result.value is None
    assert [report.outcome for report in result.reports if report.ran] == [
        "failed", "failed", "snoozed", "failed", "rejected"
    ]  # fmt: skip


async def test_a_job_that_never_ran_made_no_attempt() -> None:
    registry = Registry()

    @registry.handler("job")
    async def job(payload: dict[str, int]) -> None:
        raise AssertionError

    result = await run_job(registry, "job", {"a": "x"})
    assert (result.status, result.reason, result.attempts, result.errors) == ("dead", "invalid_payload", 0, ())
    result = await run_job(registry, "other")
    assert (result.reason, result.attempts) == ("unknown_type", 3)


async def test_what_came_too_late_is_no_value() -> None:
    registry = Registry()

    @registry.handler("late", attempts=1, timeout=5)
    async def late(payload: Any) -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "late"
        return "never"

    result = await run_job(registry, "late")
    assert (result.status, result.detail, result.value) == ("dead", "1 attempts, the last: timeout after 5 s", None)


async def test_an_id_that_cannot_stand_is_the_workers_to_replace_also_here() -> None:
    registry, ids = Registry(), set()

    @registry.handler("job", attempts=2)
    async def job(payload: Any, context: Context) -> str:
        ids.add(context.job.id)
        if context.job.attempt == 1:
            raise Retry
        return "done"

    result = await run_job(registry, "job", id="two words")
    assert (result.status, result.attempts, result.value, result.published) == ("succeeded", 2, "done", ())
    assert [one.partition("-")[0] for one in ids] == ["sha256"]


# Limits and retries.


async def test_a_week_of_retries_takes_moments() -> None:
    registry, target = Registry(), FakeTarget()
    target.on("POST", "https://hooks.example.com/in").answers(503)

    @registry.handler("deliver", attempts=2)
    async def deliver(payload: Any, context: Context) -> None:
        (await context.request("POST", "https://hooks.example.com/in", json=payload)).raise_for_status()

    since = time.monotonic()
    result = await run_job(registry, "deliver", transport=target, attempts=40, backoff=("1m", "12h"), max_age="14d")
    assert (result.status, result.reason, result.attempts) == ("dead", "attempts_exhausted", 40)
    assert len(target.requests) == 40
    assert 7 * 86400 < result.seconds < 14 * 86400
    assert result.seconds == pytest.approx(sum(result.waits))
    assert time.monotonic() - since < 3


async def test_options_outweigh_the_registration() -> None:
    registry = Registry()

    @registry.handler("job", attempts=9, backoff=(1, 1), timeout=9)
    async def job(payload: Any) -> None:
        await asyncio.get_running_loop().create_future()

    result = await run_job(registry, "job", attempts=3, backoff=(50, 50), timeout="20s")
    assert (result.attempts, result.waits, result.seconds) == (3, (50, 50), 3 * 20 + 2 * 50)
    result = await run_job(registry, "job")
    assert (result.attempts, result.waits, result.seconds) == (9, (1,) * 8, 9 * 9 + 8)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"backoff": (2, 1)},
        {"backoff": (-1, 1)},
        {"timeout": 0},
        {"timeout": "soon"},
        {"max_age": "0s"},
        {"step_timeout": "soon"},
    ],
)
async def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match="soon" if "soon" in str(value) else f"{name}="):
        await run_job(Registry(), "job", **options)


async def test_an_option_nobody_knows_is_an_error() -> None:
    with pytest.raises(TypeError, match="atempts"):
        await run_job(Registry(), "job", atempts=3)


async def test_age_and_deadline_end_a_job() -> None:
    registry = Registry()

    @registry.handler("job")
    async def job(payload: Any) -> None:
        raise Snooze(600)

    result = await run_job(registry, "job", max_age="1h")
    assert (result.reason, result.snoozes, result.seconds) == ("expired", 7, 3600)
    result = await run_job(registry, "job", deadline=1500)
    assert (result.reason, result.snoozes, result.seconds) == ("expired", 3, 1200)


async def test_a_busy_key_is_a_wait() -> None:
    registry = Registry()

    @registry.handler("job", key=lambda payload: "tenant-7")
    async def job(payload: Any, context: Context) -> None:
        if payload["first"]:
            await context.request("GET", "https://slow.example/", timeout=100)

    target = FakeTarget()
    target.on("GET", "https://slow.example/").answers(Answer(after=30))
    async with Harness(registry, transport=target, limits={"tenant-7": 1}) as harness:
        harness.publish("job", {"first": True}, id="first")
        harness.publish("job", {"first": False}, id="second")
        await harness.until_quiet()
        assert not harness.broker.dead
        turned = [report for report in harness.reports.all if report.outcome == "turned_away" or not report.ran]
        assert {report.id for report in turned} == {"second"}


async def test_what_waits_for_real_time_gets_it() -> None:
    registry = Registry()

    @registry.handler("sleeps")
    async def sleeps(payload: Any) -> str:
        await asyncio.sleep(0.02)
        return "slept"

    @registry.handler("thread")
    def thread(payload: Any) -> str:
        time.sleep(0.02)
        return "threaded"

    for name, value in (("sleeps", "slept"), ("thread", "threaded")):
        result = await run_job(registry, name, patience=30)
        assert (result.value, result.seconds) == (value, 0)


# What it published.


async def test_jobs_it_publishes_are_told_and_not_run() -> None:
    registry, mailed = Registry(), list[Any]()

    @registry.handler("order", attempts=2)
    async def order(payload: Any, context: Context) -> None:
        await context.publish("mail", "mail.send", {"to": "a"}, delay=60, deadline=3600, headers={"tenant": "t"})
        await context.publish("audit", "audit.add", queue="audits")
        if context.job.attempt == 1:
            raise Retry

    @registry.handler("mail.send")
    async def mail(payload: Any) -> None:
        mailed.append(payload)

    result = await run_job(registry, "order", id="o-1")
    assert (result.status, result.attempts) == ("succeeded", 2)
    mail_job, audit = result.published
    assert (mail_job.queue, mail_job.id, mail_job.type, mail_job.payload) == (
        "jobs", "o-1/mail", "mail.send", {"to": "a"}
    )  # fmt: skip
    assert (mail_job.delay, mail_job.deadline, mail_job.headers["tenant"]) == (60, 3600, "t")
    assert (audit.queue, audit.id, audit.delay, audit.deadline) == ("audits", "o-1/audit", 0, None)
    assert (mailed, result.replies) == ([], ())

    async with Harness(registry) as harness:
        harness.broker.declare("audits")
        harness.publish("order", id="o-1")
        await harness.until_quiet()
        assert mailed == [{"to": "a"}]
        assert [message.properties.type for message in harness.broker.messages("audits")] == ["audit.add"]  # type: ignore[union-attr]


async def test_a_callback_is_told() -> None:
    registry = Registry()

    def callback(payload: Any, result: Result) -> ChildJob:
        return ChildJob("callback", "told", {"status": result.status, "attempts": result.attempts})

    @registry.handler("job", callback=callback, attempts=2)
    async def job(payload: Any) -> None:
        raise Retry

    [child] = (await run_job(registry, "job")).published
    assert (child.id, child.type, child.payload) == ("job-1/callback", "told", {"status": "dead", "attempts": 2})


async def test_replies_are_told() -> None:
    registry = Registry()

    @registry.handler("add")
    async def add(payload: list[int]) -> int:
        return sum(payload)

    result = await run_job(registry, "add", [1, 2], reply_to="replies.web")
    [reply] = result.replies
    assert (reply.queue, reply.payload["status"], reply.payload["value"]) == ("replies.web", "succeeded", 3)
    assert result.published == ()
    assert (await run_job(registry, "add", [1, 2], reply_to="elsewhere")).replies == ()


async def test_a_queue_of_somebody_else_is_declared_and_does_not_keep_the_broker_busy() -> None:
    broker, outgoing = MemoryBroker(ManualClock()), Outgoing("replies.web", Message(b"{}", Properties()))
    with pytest.raises(Undeliverable):
        await broker.publish(outgoing)
    broker.declare("replies.web")
    await broker.publish(outgoing)
    broker.declare("replies.web")
    assert len(broker.messages("replies.web")) == 1
    assert broker.empty
