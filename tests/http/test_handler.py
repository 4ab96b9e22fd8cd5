"""The `http` job type end to end: memory broker, real sockets, a clock that is moved over the waits."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.http.targets import Exchange, MakeEngine, Serve
from tests.runtime.toys import tools as bare_tools
from worker import Context, Limits, Registry, Request, Retry
from worker.core.job import Job
from worker.core.message import Properties
from worker.http.client import HttpTransport
from worker.http.handler import http_registry, run_http
from worker.http.jobs.payload import HttpJob
from worker.http.jobs.status import asked_wait
from worker.runtime.clock import SystemClock
from worker.runtime.context import job_gate
from worker.runtime.limiter import Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import JobResult, run_job


class Desk:
    """Runs `http` jobs and keeps what they returned."""

    def __init__(self, transport: HttpTransport) -> None:
        self.transport = transport
        self.values: list[Any] = []

    async def run(self, payload: dict[str, Any], **options: Any) -> JobResult:
        registry = Registry()

        @registry.handler("http", key=lambda job: job.keys)
        async def http(job: HttpJob, context: Context) -> Any:
            value = await run_http(job, context)
            self.values.append(value)
            return value

        return await run_job(registry, "http", payload, transport=self.transport, patience=0.5, **options)


@pytest.fixture
def desk(make_engine: MakeEngine) -> Desk:
    return Desk(HttpTransport(make_engine(), gate=job_gate))


def answers(*statuses: int, body: bytes = b"", **headers: str) -> Any:
    """A script that answers with these statuses in turn, the last one for ever."""
    turns = itertools.chain(statuses, itertools.repeat(statuses[-1]))

    async def script(exchange: Exchange) -> None:
        await exchange.answer(next(turns), body, **headers)

    return script


async def test_the_registry_has_the_one_type() -> None:
    assert http_registry().types == {"http"}


async def test_a_result_keeps_little(serve: Serve, desk: Desk) -> None:
    target = await serve(
        answers(
            201,
            body=b'{"id": 7}',
            Content_Type="application/json; charset=utf-8",
            ETag='"1"',
            Location="/7",
            X_Request_Id="r",
            Set_Cookie="secret=1",
            Server="x",
        )
    )
    done = await desk.run({"url": target.url, "method": "POST", "json": {"a": "ü"}, "id": "create"}, id="job-9")
    assert done.status == "succeeded"
    assert desk.values == [
        {
            "create": {
                "status": 201,
                "headers": {
                    "content-type": "application/json; charset=utf-8",
                    "location": "/7",
                    "etag": '"1"',
                    "x-request-id": "r",
                },
                "json": {"id": 7},
            }
        }
    ]
    seen = target.seen[0]
    assert (json.loads(seen.body), seen.header("content-type")) == ({"a": "ü"}, "application/json")
    assert seen.header("idempotency-key") == "job-9/create"


DEEP = b"[" * 65 + b"]" * 65
LONG = b"[" + b"0," * 100_000 + b"0]"


@pytest.mark.parametrize(
    ("content_type", "body", "kept"),
    [
        ("application/json", b"[1]", {"json": [1]}),
        ("application/problem+json", b"null", {"json": None}),
        ("text/plain", b"[1]", {"text": "[1]"}),
        ("application/json", b"", {"text": ""}),
        ("application/json", b"{oops", {"text": "{oops"}),
        ("application/json", b"NaN", {"text": "NaN"}),
        ("application/json", b"[1e400]", {"text": "[1e400]"}),
        ("application/json", b'["\\ud800"]', {"text": '["\\ud800"]'}),
        ("application/json", b'["\\ud83d\\ude00"]', {"json": ["\U0001f600"]}),
        ("application/json", b"[" * 100_000, {"text": "[" * 100_000}),
        ("application/json", b"9" * 10_000, {"text": "9" * 10_000}),
        ("application/json", b"\xff", {"text": "\ufffd"}),
        ("application/json", b'{"a":1,"a":2}', {"text": '{"a":1,"a":2}'}),
        ("application/json", DEEP, {"text": DEEP.decode()}),
        ("application/json", LONG, {"text": LONG.decode()}),
    ],
)
async def test_json_is_kept_as_json_only_when_it_is(
    serve: Serve, desk: Desk, content_type: str, body: bytes, kept: dict[str, Any]
) -> None:
    target = await serve(answers(200, body=body, Content_Type=content_type))
    await desk.run({"url": target.url})
    result = desk.values[0]["request"]
    assert {name: result[name] for name in result if name not in ("status", "headers")} == kept


@pytest.mark.parametrize("status", [300, 302, 400, 401, 404, 409, 410, 501, 505])
async def test_other_statuses_are_final(serve: Serve, desk: Desk, status: int) -> None:
    target = await serve(answers(status, body=b"private words", Location="/elsewhere"))
    done = await desk.run({"url": f"{target.url}?token=private"})
    assert (done.status, done.reason, done.detail) == ("dead", "http_status", f"status {status}")
    assert len(target.seen) == 1


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
async def test_retried_statuses_get_quick_tries_and_then_attempts(serve: Serve, desk: Desk, status: int) -> None:
    target = await serve(answers(status, status, status, 200))
    done = await desk.run({"url": target.url, "retry": {"attempts": 2}})
    assert (done.status, done.attempts, done.snoozes) == ("succeeded", 2, 0)
    assert {seen.header("idempotency-key") for seen in target.seen} == {"job-1/request"}
    assert len(target.seen) == 4


async def test_what_is_expected_is_a_success_whatever_it_is(serve: Serve, desk: Desk) -> None:
    target = await serve(answers(404))
    assert (await desk.run({"url": target.url, "expect": {"status": [404]}})).status == "succeeded"
    target = await serve(answers(503, Retry_After="5"))
    assert (await desk.run({"url": target.url, "expect": {"status": ["5xx"]}})).snoozes == 0
    target = await serve(answers(200))
    assert (await desk.run({"url": target.url, "expect": {"status": [404]}})).reason == "http_status"


@pytest.mark.parametrize(("status", "seconds"), [(429, "120"), (503, "120")])
async def test_a_target_that_asks_to_wait_gets_it_for_free(serve: Serve, desk: Desk, status: int, seconds: str) -> None:
    async def script(exchange: Exchange) -> None:
        asked = {"Retry_After": seconds} if len(target.seen) <= 3 else {}
        await exchange.answer(status if asked else 200, b"", **asked)

    target = await serve(script)
    done = await desk.run({"url": target.url})
    assert (done.status, done.attempts, done.snoozes) == ("succeeded", 1, 3)
    assert len(target.seen) == 4
    assert done.seconds >= 3 * 120


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "named", "wait"),
    [
        (429, "7", 7.0),
        (503, "7", 7.0),
        (429, " 7 ", 7.0),
        (429, "0", 1.5),
        (429, "-5", 1.5),
        (429, "1", 1.0),
        (429, "0.5", 15.0),
        (429, "999999999", 3600.0),
        (429, "9" * 5000, 3600.0),
        (429, formatdate(NOW + 90, usegmt=True), 90.0),
        (429, formatdate(NOW - 90, usegmt=True), 1.5),
        (429, formatdate(NOW, usegmt=True), 1.5),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        (429, "soon", 15.0),
        (429, "1.5", 15.0),
        (429, "", 15.0),
        (429, None, 15.0),
        (503, "soon", 15.0),
        (503, None, None),
        (500, "7", None),
        (200, "7", None),
    ],
)
def test_waits_are_clamped(status: int, named: str | None, wait: float | None) -> None:
    headers = {} if named is None else {"retry-after": named}
    assert asked_wait(status, headers, now=NOW, chance=0.5) == wait


@pytest.mark.parametrize(
    ("snoozes", "chance", "wait"),
    [(0, 0.0, 1.0), (1, 0.0, 2.0), (5, 0.0, 32.0), (6, 0.0, 60.0), (6, 0.5, 90.0), (10_000, 0.5, 90.0)],
)
def test_a_target_that_asks_for_no_wait_at_all_gets_a_longer_one_each_time(
    snoozes: int, chance: float, wait: float
) -> None:
    for named in ("0", "-1", formatdate(NOW - 5, usegmt=True)):
        assert asked_wait(429, {"retry-after": named}, now=NOW, chance=chance, snoozes=snoozes) == wait
    assert asked_wait(429, {"retry-after": "3"}, now=NOW, chance=chance, snoozes=snoozes) == 3.0


def test_a_date_less_than_a_second_ahead_is_a_second() -> None:
    headers = {"retry-after": formatdate(NOW, usegmt=True)}
    assert asked_wait(429, headers, now=int(NOW) - 0.25, chance=0.0) == 1.0


async def test_waits_for_nothing_do_not_go_round_and_round(serve: Serve, desk: Desk) -> None:
    """Within two minutes after 1, 2, 4, ... seconds at least."""
    target = await serve(answers(429, Retry_After="0"))
    done = await desk.run({"url": target.url}, max_age=120)
    assert (done.status, done.reason) == ("dead", "expired")
    assert 2 <= len(target.seen) <= 7


async def test_a_broken_connection_costs_an_attempt(serve: Serve, desk: Desk) -> None:
    async def script(exchange: Exchange) -> None:
        if len(target.seen) <= 2:
            exchange.reset()
        else:
            await exchange.answer()

    target = await serve(script)
    done = await desk.run({"url": target.url, "method": "POST", "text": "x", "retry": {"attempts": 1}})
    assert (done.status, done.attempts) == ("succeeded", 3)


@pytest.mark.parametrize("status", [None, 500])
async def test_what_may_not_be_repeated_is_not(serve: Serve, desk: Desk, status: int | None) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.reset() if status is None else await exchange.answer(status)

    target = await serve(script)
    done = await desk.run({"url": target.url, "method": "POST", "retry": {"attempts": 5, "when": "unsent"}})
    assert (done.status, done.reason) == ("dead", "not_repeated")
    assert len(target.seen) == 1


async def test_what_was_surely_not_sent_is_repeated_even_then(desk: Desk) -> None:
    done = await desk.run({"url": "http://127.0.0.1:9/", "retry": {"when": "unsent", "attempts": 1}})
    assert (done.reason, done.attempts) == ("attempts_exhausted", 16)


async def test_the_jobs_timeout_bounds_one_try(serve: Serve, desk: Desk) -> None:
    async def silence(exchange: Exchange) -> None:
        await asyncio.sleep(30)

    target = await serve(silence)
    began = time.monotonic()
    done = await desk.run({"url": target.url, "timeout": 0.2, "retry": {"when": "unsent"}})
    assert (done.reason, time.monotonic() - began < 2) == ("not_repeated", True)


async def test_what_got_no_connection_in_the_step_timeout_was_surely_not_sent(
    serve: Serve, make_engine: MakeEngine
) -> None:
    async def silence(exchange: Exchange) -> None:
        arrived.set()
        await asyncio.sleep(30)

    arrived, told = asyncio.Event(), list[str]()
    target = await serve(silence)
    engine = make_engine(Limits(max_connections=1), on_request=lambda host, result, seconds: told.append(result))
    holds_the_connection = asyncio.create_task(engine.send(Request("GET", target.url)))
    await arrived.wait()
    clock = SystemClock()
    tools = bare_tools(HttpTransport(engine), Limiter(Places(), clock, Silent()), clock, step_timeout=0.2)
    context = Context(Job("a", "http", b"", None, 0.0, properties=Properties()), tools)
    job = TypeAdapter(HttpJob).validate_python({"url": target.url, "retry": {"attempts": 1, "when": "unsent"}})
    with pytest.raises(Retry):
        await run_http(job, context)
    assert told == ["not_sent"]
    holds_the_connection.cancel()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://10.0.0.1/", "blocked_address"),
        ("http://[::ffff:169.254.169.254]/latest/meta-data?secret", "blocked_address"),
        ("http://2130706433:0/", "blocked_address"),
        ("ftp://example.com/", "invalid_payload"),
        ("http://user:pass@example.com/", "invalid_payload"),
    ],
)
async def test_where_no_job_may_go(desk: Desk, url: str, reason: str) -> None:
    done = await desk.run({"url": url})
    assert (done.status, done.reason) == ("dead", reason)
    assert "secret" not in done.detail


async def test_a_redirect_is_followed_when_asked_for(serve: Serve, desk: Desk) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.line.startswith("GET /end"):
            await exchange.answer(200, b"end")
        else:
            await exchange.answer(302, b"", Location="/end")

    target = await serve(script)
    assert (await desk.run({"url": target.url, "redirects": 1})).status == "succeeded"
    assert desk.values[0]["request"]["text"] == "end"


async def test_an_answer_above_the_cap_is_final(serve: Serve, desk: Desk) -> None:
    target = await serve(answers(200, body=bytes((1 << 20) + 1)))
    assert (await desk.run({"url": target.url})).reason == "response_too_large"
    assert len(target.seen) == 1
