"""One toy handler whose payload says how it ends, and what becomes of the job then: a line for each way to end."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from tests.runtime.toys import headers
from worker import Context, Registry, Reject, Retry, Snooze
from worker.core.message import Properties
from worker.core.outcome import REASONS
from worker.core.report import AttemptReport
from worker.runtime.executor import CLEANUP
from worker.testing import Harness, JobResult, run_job
from worker.testing.clock import START, let_run

TIMEOUT = 30.0


@dataclass
class Toy:
    """The handler `toy`, and what it left behind."""

    seen: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    registry: Registry = field(default_factory=Registry)

    def __post_init__(self) -> None:
        self.registry.handler("toy", timeout=TIMEOUT, attempts=3, backoff=(10, 10))(self.play)

    async def play(self, way: str, context: Context) -> Any:
        self.seen.append(way)
        if way in ERRORS:
            raise ERRORS[way]
        return await getattr(self, way.replace(" ", "_"))()

    async def returns(self) -> str:
        return "value"

    async def hangs(self) -> None:
        await self.release.wait()

    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    async def cancels_its_task(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def swallows_cancellation(self) -> None:
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()

    async def returns_late(self) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await self.release.wait()
        return "too late"

    async def rejects_late(self) -> None:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            raise Reject("on the way out") from None

    async def cleans_up(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._tidy)
            try:
                await self.release.wait()
            finally:
                self.seen.append("finally")

    async def _tidy(self) -> None:
        await asyncio.sleep(0)
        self.seen.append("async with")


ERRORS: dict[str, BaseException] = {
    "retries": Retry("not today"),
    "retries without a word": Retry(),
    "retries after 60": Retry(after=60),
    "snoozes": Snooze(120),
    "snoozes with a reason": Snooze(120, reason="night"),
    "rejects": Reject("never"),
    "rejects with a code": Reject("no such key", code="credential"),
    "raises ValueError": ValueError("a secret value"),
    "raises SystemExit": SystemExit(3),
    "raises KeyboardInterrupt": KeyboardInterrupt(),
    "raises GeneratorExit": GeneratorExit(),
    "raises BaseException": BaseException("x"),
    "raises StopAsyncIteration": StopAsyncIteration(),
    "raises TimeoutError": TimeoutError(),
}

# way: outcome, disposition, reason, detail, wait
ENDS: dict[str, tuple[str, str, str, str, float | None]] = {
    "returns": ("succeeded", "done", "", "", None),
    "retries": ("failed", "parked", "retry", "not today", 10),
    "retries without a word": ("failed", "parked", "retry", "Retry", 10),
    "retries after 60": ("failed", "parked", "retry", "Retry", 60),
    "snoozes": ("snoozed", "parked", "handler", "", 120),
    "snoozes with a reason": ("snoozed", "parked", "night", "", 120),
    "rejects": ("rejected", "dead", "rejected", "never", None),
    "rejects with a code": ("rejected", "dead", "credential", "no such key", None),
    "raises ValueError": ("failed", "parked", "retry", "ValueError", 10),
    "raises SystemExit": ("failed", "parked", "retry", "SystemExit", 10),
    "raises KeyboardInterrupt": ("failed", "parked", "retry", "KeyboardInterrupt", 10),
    "raises GeneratorExit": ("failed", "parked", "retry", "GeneratorExit", 10),
    "raises BaseException": ("failed", "parked", "retry", "BaseException", 10),
    "raises StopAsyncIteration": ("failed", "parked", "retry", "StopAsyncIteration", 10),
    "raises TimeoutError": ("failed", "parked", "retry", "TimeoutError", 10),
    "cancels itself": ("failed", "parked", "retry", "CancelledError raised by the handler itself", 10),
    "cancels its task": ("failed", "parked", "retry", "CancelledError raised by the handler itself", 10),
    "hangs": ("failed", "parked", "retry", "timeout after 30 s", 10),
    "swallows cancellation": ("failed", "parked", "retry", "timeout after 30 s", 10),
    "returns late": ("failed", "parked", "retry", "timeout after 30 s", 10),
    "rejects late": ("rejected", "dead", "rejected", "on the way out", None),
    "cleans up": ("failed", "parked", "retry", "timeout after 30 s", 10),
}


async def first_report(toy: Toy, way: str) -> AttemptReport:
    async with Harness(toy.registry) as harness:
        harness.publish("toy", way, id="a")
        await let_run()
        if not harness.reports.all:
            await harness.clock.advance(TIMEOUT + CLEANUP)
        toy.release.set()
        await let_run()
        return harness.reports.all[0]


@pytest.mark.parametrize("way", ENDS)
async def test_each_way_to_end(way: str) -> None:
    report = await first_report(Toy(), way)
    assert (report.outcome, report.disposition, report.reason, report.detail, report.next_in) == ENDS[way]
    assert report.ran


async def test_an_error_is_told_by_type_and_place_and_not_by_its_text() -> None:
    report = await first_report(Toy(), "raises ValueError")
    assert report.trouble["error"] == "ValueError"
    assert "test_outcomes.py" in report.trouble["at"]
    assert "a secret value" not in repr(report)


async def test_what_is_said_on_purpose_is_no_trouble() -> None:
    assert (await first_report(Toy(), "rejects")).trouble == {}


# Timeouts.


async def test_a_handler_that_swallows_cancellation_is_left_behind_after_its_time_to_clean_up() -> None:
    toy = Toy()
    async with Harness(toy.registry) as harness:
        harness.publish("toy", "swallows cancellation", id="a")
        await harness.clock.advance(TIMEOUT + CLEANUP - 0.5)
        assert harness.reports.all == []
        assert harness.pipeline.running == 1
        await harness.clock.advance(0.5)
        assert [report.outcome for report in harness.reports.all] == ["failed"]
        assert harness.pipeline.running == 0
        assert len(harness.broker.messages("jobs.wait.10s")) == 1
        toy.release.set()
        await let_run()
        assert len(harness.reports.all) == 1


async def test_cleaning_up_runs_on_cancellation() -> None:
    toy = Toy()
    await first_report(toy, "cleans up")
    assert toy.seen == ["cleans up", "finally", "async with"]


async def test_a_timeout_ends_as_soon_as_the_handler_has_cleaned_up() -> None:
    toy = Toy()
    async with Harness(toy.registry) as harness:
        harness.publish("toy", "cleans up", id="a")
        await harness.clock.advance(TIMEOUT)
        assert [report.seconds for report in harness.reports.all] == [TIMEOUT]


async def test_the_deadline_cuts_the_timeout() -> None:
    toy = Toy()
    async with Harness(toy.registry) as harness:
        harness.publish("toy", "hangs", id="a", headers={"x-worker-deadline": int((START + 12) * 1000)})
        await harness.clock.advance(12)
        [letter] = harness.broker.dead
        assert headers(letter)["x-worker-reason"] == "expired"
        assert [report.seconds for report in harness.reports.all] == [12]


# Dead letters: their reason is of the closed list, and they say how many attempts were made.


async def dead(registry: Registry, type: str = "toy", payload: Any = None, **more: Any) -> JobResult:
    result = await run_job(registry, type, payload, **more)
    assert result.status == "dead"
    assert result.reason in REASONS
    return result


async def test_attempts_exhausted_with_a_history_of_each() -> None:
    result = await dead(Toy().registry, payload="raises ValueError")
    assert result.reason == "attempts_exhausted"
    assert result.detail == "3 attempts, the last: ValueError"
    assert result.seconds == 20
    assert result.dead_letter is not None
    found = headers(result.dead_letter)
    assert found["x-worker-attempt"] == 3
    assert [entry.split()[0] for entry in found["x-worker-history"]] == ["1", "2", "3"]
    assert all(entry.endswith("failed: ValueError") for entry in found["x-worker-history"])
    assert found["x-worker-id"] == "job-1"


async def test_an_unknown_type_is_tried_three_times() -> None:
    result = await dead(Toy().registry, "other")
    assert result.reason == "unknown_type"
    assert result.attempts == 3
    assert "no handler for type 'other'" in result.detail


async def test_a_reject_counts_the_attempt_that_said_it() -> None:
    result = await dead(Toy().registry, payload="rejects")
    assert (result.reason, result.detail) == ("rejected", "never")
    assert result.dead_letter is not None
    assert headers(result.dead_letter)["x-worker-attempt"] == 1


async def test_endless_snoozing_ends_with_the_greatest_age() -> None:
    result = await dead(Toy().registry, payload="snoozes")
    assert result.reason == "expired"
    assert 86400 - 120 <= result.seconds <= 86400
    assert result.dead_letter is not None
    assert headers(result.dead_letter)["x-worker-attempt"] == 1
    assert headers(result.dead_letter)["x-worker-snoozes"] == result.seconds / 120


async def test_a_deadline_that_has_passed_dead_letters_without_a_run() -> None:
    toy = Toy()
    result = await dead(toy.registry, payload="returns", headers={"x-worker-deadline": int((START - 1) * 1000)})
    assert result.reason == "expired"
    assert toy.seen == []
    assert result.dead_letter is not None
    assert headers(result.dead_letter)["x-worker-attempt"] == 0


async def test_a_wait_that_would_pass_the_deadline_dead_letters_at_once() -> None:
    result = await dead(Toy().registry, payload="retries after 60", headers={"x-worker-deadline": _in(59)})
    assert (result.reason, result.seconds, result.attempts) == ("expired", 0, 1)


async def test_a_wait_that_ends_before_the_deadline_is_waited() -> None:
    result = await dead(Toy().registry, payload="retries after 60", headers={"x-worker-deadline": _in(61)})
    assert (result.reason, result.seconds, result.attempts) == ("expired", 60, 2)


async def test_an_expiration_bounds_the_waiting_and_is_not_copied() -> None:
    toy = Toy()
    async with Harness(toy.registry) as harness:
        harness.publish("toy", "retries after 60", id="a", expiration="100000")
        await let_run()
        [copy] = harness.broker.messages("jobs.wait.60s")
        assert isinstance(copy.properties, Properties)
        assert copy.properties.expiration is None
        await harness.until_quiet()
        assert [headers(letter)["x-worker-reason"] for letter in harness.broker.dead] == ["expired"]
        assert toy.seen == ["retries after 60"] * 2


def _in(seconds: float) -> int:
    return int((START + seconds) * 1000)


# Payloads.


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    customer: str
    lines: list[int] = []


def orders() -> tuple[Registry, list[Order]]:
    registry, seen = Registry(), list[Order]()

    @registry.handler("order")
    async def order(order: Order) -> None:
        seen.append(order)

    return registry, seen


async def test_an_invalid_payload_is_told_with_its_path_and_never_ran() -> None:
    registry, seen = orders()
    result = await dead(registry, "order", {"customer": "tops3cret", "lines": [1, "s3cret"]})
    assert result.reason == "invalid_payload"
    assert "$.lines[1]" in result.detail
    assert "s3cret" not in result.detail
    assert seen == []
    assert result.attempts == 0
    assert result.dead_letter is not None
    assert headers(result.dead_letter)["x-worker-attempt"] == 0
    assert "x-worker-history" not in headers(result.dead_letter)


async def test_an_unknown_field_comes_with_the_nearest_name() -> None:
    result = await dead(orders()[0], "order", {"custommer": "tops3cret", "customer": "x"})
    assert "unknown field 'custommer' at $, did you mean 'customer'?" in result.detail
    assert "s3cret" not in result.detail


@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        (b"{", Properties(type="toy"), "malformed"),
        (b"1", Properties(), "no_type"),
        (b"1", Properties(type="toy", content_encoding="gzip"), "malformed"),
        (b'"' + b"x" * 2**20 + b'"', Properties(type="toy"), "too_large"),
    ],
    ids=["no JSON", "no type", "an encoding", "too large"],
)
async def test_what_is_no_job_is_dead_lettered_with_its_body(body: bytes, properties: Properties, reason: str) -> None:
    toy = Toy()
    async with Harness(toy.registry) as harness:
        harness.broker.put(body, properties)
        await harness.until_quiet()
        [letter] = harness.broker.dead
        assert letter.body == body
        assert headers(letter)["x-worker-reason"] == reason
        assert headers(letter)["x-worker-attempt"] == 0
        assert toy.seen == []


async def test_neighbours_of_a_bad_message_are_not_touched() -> None:
    toy = Toy()
    async with Harness(toy.registry) as harness:
        harness.broker.put(b"{", Properties(type="toy"))
        harness.publish("toy", "raises SystemExit", id="a")
        harness.publish("toy", "returns", id="b")
        await let_run()
        assert {report.id: report.disposition for report in harness.reports.all if report.id in "ab"} == {
            "a": "parked",
            "b": "done",
        }
