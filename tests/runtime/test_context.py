"""What a handler gets: its job, and requests that carry their marks and stay within the job's bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.toys import tools
from worker import Context, NotSent, Registry, Request, Response, Retry, StepRetry
from worker.core.job import Job
from worker.core.message import Properties
from worker.runtime.context import enter, job_gate
from worker.runtime.limiter import Limiter, Places
from worker.runtime.telemetry import Silent
from worker.runtime.transport import Headers
from worker.testing import Harness, ManualClock, run_job
from worker.testing.clock import let_run
from worker.testing.harness import NoTransport

if TYPE_CHECKING:
    import httpx


@dataclass
class Desk:
    """A transport that sends nothing: it passes the job's gate and keeps what would have gone out."""

    clock: ManualClock | None = None
    sent: list[Request] = field(default_factory=list)

    @property
    def client(self) -> httpx.AsyncClient:
        raise AssertionError("no test here speaks httpx")

    async def send(self, request: Request) -> Response:
        async with job_gate(request) as marked:
            self.sent.append(marked)
            if self.clock is not None:
                await self.clock.sleep(2)
            return Response(200, Headers([]), b"{}", marked.url)

    def credential_fault(self, **named: Any) -> str | None:
        return None

    def is_transient(self, error: BaseException) -> bool:
        return False

    async def aclose(self) -> None:
        return None


Body = Callable[[Context], Awaitable[Any]]


async def sent(body: Body, *, headers: Mapping[str, Any] | None = None) -> list[Request]:
    registry, desk = Registry(), Desk()

    @registry.handler("job", attempts=1)
    async def job(payload: Any, context: Context) -> None:
        await body(context)

    result = await run_job(registry, "job", transport=desk, headers=headers)
    assert result.status == "succeeded", result.detail
    return desk.sent


URL = "https://api.example.com/x"


@pytest.mark.parametrize(
    ("options", "url", "content_type", "body"),
    [
        ({}, URL, None, None),
        ({"json": {"a": 1}}, URL, "application/json", b'{"a":1}'),
        ({"json": None}, URL, "application/json", b"null"),
        ({"form": {"a": [1, 2]}}, URL, "application/x-www-form-urlencoded", b"a=1&a=2"),
        ({"text": "\u00e4"}, URL, "text/plain; charset=utf-8", b"\xc3\xa4"),
        ({"body": b"raw"}, URL, None, b"raw"),
        ({"query": {"q": "a b", "n": [1, 2]}}, URL + "?q=a+b&n=1&n=2", None, None),
        ({"json": 1, "headers": {"content-TYPE": "application/x"}}, URL, "application/x", b"1"),
    ],
)
async def test_what_a_request_becomes(
    options: dict[str, Any], url: str, content_type: str | None, body: bytes | None
) -> None:
    [request] = await sent(lambda context: context.request("post", URL, **options))
    assert (request.method, request.url, request.body) == ("POST", url, body)
    found = {name.lower(): value for name, value in request.headers.items()}
    assert found.get("content-type") == content_type
    assert request.timeout == 10


async def test_a_query_is_added_to_the_one_there() -> None:
    [request] = await sent(lambda context: context.request("GET", URL + "?a=1#top", query={"b": 2}))
    assert request.url == URL + "?a=1&b=2#top"


async def test_two_bodies_are_refused() -> None:
    async def body(context: Context) -> None:
        with pytest.raises(ValueError, match="at most one of json, form, text and body"):
            await context.request("POST", URL, json=1, text="x")

    assert await sent(body) == []


async def test_every_request_carries_the_key_of_its_step_and_a_trace() -> None:
    async def ask(context: Context) -> None:
        await context.request("GET", URL)

    async def body(context: Context) -> None:
        await context.request("GET", URL)
        await context.step("user", ask, context)
        await context.map("push", lambda _number: ask(context), range(2))
        await context.request("GET", URL, headers={"IDEMPOTENCY-key": "mine", "TraceParent": "mine too"})

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    requests = await sent(body, headers={"traceparent": trace, "tracestate": "v=1"})
    keys = [request.headers.get("Idempotency-Key") for request in requests]
    assert keys == ["job-1/request", "job-1/user", "job-1/push/0", "job-1/push/1", None]
    traces = [request.headers["traceparent"] for request in requests[:4]]
    assert all(one.split("-")[1] == trace.split("-")[1] for one in traces)
    assert len({one.split("-")[2] for one in traces} | {trace.split("-")[2]}) == 5
    assert {request.headers.get("tracestate") for request in requests[:4]} == {"v=1"}
    assert dict(requests[4].headers) == {"IDEMPOTENCY-key": "mine", "TraceParent": "mine too"}


def keys(requests: list[Request]) -> list[str]:
    return [request.headers["Idempotency-Key"].removeprefix("job-1/") for request in requests]


async def test_different_requests_never_carry_the_same_key() -> None:
    async def ask(context: Context) -> None:
        for _ in range(3):
            await context.request("POST", URL)

    async def with_a_step_inside(context: Context) -> None:
        await context.request("POST", URL)
        await context.step("inner", ask, context)
        await context.gather(*(context.request("POST", URL) for _ in range(2)))

    async def body(context: Context) -> None:
        await context.request("POST", URL)
        await context.step("outer", with_a_step_inside, context)
        await context.request("POST", URL)

    assert keys(await sent(body)) == (
        ["request", "outer", "inner", "inner/1", "inner/2", "outer/1", "outer/2", "request/1"]
    )


async def test_a_repeat_carries_the_keys_of_the_first_run() -> None:
    registry, desk, runs = Registry(), Desk(), list[str]()

    async def ask(context: Context) -> None:
        await context.request("POST", URL)
        await context.request("POST", URL)
        runs.append("step")
        if len(runs) == 1:
            raise NotSent("once")

    @registry.handler("job")
    async def job(payload: Any, context: Context) -> None:
        await context.request("POST", URL, headers={"Idempotency-Key": "mine"})
        await context.request("POST", URL)
        await context.step("s", ask, context, retry=StepRetry(2, "unsent"))
        await context.request("POST", URL)
        if context.job.attempt == 1:
            raise Retry("once")

    assert (await run_job(registry, "job", transport=desk)).status == "succeeded"
    assert keys(desk.sent) == ["mine", "request", "s", "s/1", "s", "s/1", "request/1", "mine", "request", "request/1"]


async def test_requests_are_numbered_as_they_are_made_not_as_they_get_their_place() -> None:
    async def one(context: Context, number: int) -> None:
        await context.request("POST", f"{URL}/{number}")

    async def body(context: Context) -> None:
        enter(context)
        async with limiter.step():
            work = asyncio.ensure_future(context.gather(*(one(context, number) for number in range(3))))
            await let_run()
        await work

    desk, clock = Desk(), ManualClock()
    limiter = Limiter(Places(steps=1), clock, Silent())
    context = Context(Job("job-1", "job", b"", None, 0.0, properties=Properties()), tools(desk, limiter, clock))
    await asyncio.create_task(body(context))
    assert sorted(zip(keys(desk.sent), (request.url[-1] for request in desk.sent), strict=True)) == [
        ("request", "0"),
        ("request/1", "1"),
        ("request/2", "2"),
    ]


async def test_a_step_inside_a_step_cannot_have_a_key() -> None:
    async def nothing() -> None:
        return None

    async def outer(context: Context) -> None:
        with pytest.raises(ValueError, match="step 'inner' inside step 'outer' cannot have a key; give it to 'outer'"):
            await context.step("inner", nothing, key="tenant")

    await sent(lambda context: context.step("outer", outer, context, key="tenant"))


async def test_one_job_may_make_so_many_requests_and_no_more() -> None:
    clock = ManualClock()
    limiter = Limiter(Places(), clock, Silent())
    bounded = tools(NoTransport(), limiter, clock, max_requests=2)
    context = Context(Job("a", "job", b"", None, 0.0, properties=Properties()), bounded)
    for _ in range(2):
        async with context.outgoing(Request("GET", URL)):
            pass
    with pytest.raises(Exception, match=r"more than 2 requests in one attempt \(WORKER_MAX_REQUESTS\)"):
        async with context.outgoing(Request("GET", URL)):
            pass
    assert context.requests == 2


async def test_a_request_counts_as_a_step_in_flight_and_its_time_is_told() -> None:
    registry = Registry()

    @registry.handler("job")
    async def job(payload: Any, context: Context) -> None:
        await context.gather(*(context.request("GET", URL) for _ in range(3)))

    desk = Desk()
    async with Harness(registry, transport=desk, places=Places(steps=2)) as harness:
        desk.clock = harness.clock
        harness.publish("job", id="a")
        await let_run()
        assert len(desk.sent) == 2
        await harness.clock.advance(4)
        [report] = harness.reports.all
        assert (report.requests, report.network, report.seconds) == (3, 6, 4)


async def test_outside_a_job_the_gate_changes_nothing() -> None:
    request = Request("GET", URL)
    async with job_gate(request) as passed:
        assert passed is request


async def test_a_handler_sees_its_job() -> None:
    registry, seen = Registry(), []

    @registry.handler("job")
    async def job(payload: Any, context: Context) -> None:
        seen.append(context.job)

    async with Harness(registry) as harness:
        now = harness.clock.now()
        own = {"tenant": "t", "x-worker-attempt": 9, "x-worker-deadline": int((now + 60) * 1000)}
        harness.publish("job", {"a": 1}, id="a", headers=own)
        await harness.until_quiet()
        [job_seen] = seen
        assert (job_seen.id, job_seen.type, job_seen.attempt, job_seen.snoozes) == ("a", "job", 1, 0)
        assert (job_seen.body, job_seen.first_seen, job_seen.deadline) == (b'{"a": 1}', now, now + 60)
        assert job_seen.headers == {"tenant": "t"}
