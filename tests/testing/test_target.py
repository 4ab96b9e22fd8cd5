"""The scripted target: both faces, its answers and errors, and that nothing off the script goes unnoticed."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from worker import Context, MaybeSent, NotSent, Registry, Reject, Request, RequestTimeout, StepRetry
from worker.runtime.transport import Transport
from worker.testing import Answer, Broken, FakeTarget, Hangs, Harness, OffScript, Received, Refused, run_job

CHARGE = "https://pay.example.com/charge"


async def lean(context: Context, **options: Any) -> Any:
    response = await context.request("POST", CHARGE, json={"cents": 500}, **options)
    return response.raise_for_status().json()


async def by_httpx(context: Context, **options: Any) -> Any:
    response = await context.http.post(CHARGE, json={"cents": 500}, **options)
    return response.raise_for_status().json()


FACES = pytest.mark.parametrize("face", [lean, by_httpx])


def paying(face: Any, **options: Any) -> Registry:
    """A handler that charges in a step, by one of the faces."""
    registry = Registry()

    @registry.handler("pay", attempts=1)
    async def pay(payload: dict[str, Any], context: Context) -> Any:
        return await context.step("charge", face, context, **options)

    return registry


def asking(**options: Any) -> Registry:
    """A handler that makes the request its payload names, outside of any step, and returns status and text."""
    registry = Registry()

    @registry.handler("ask", attempts=1)
    async def ask(payload: list[str], context: Context) -> list[Any]:
        response = await context.request(*payload, **options)
        return [response.status, response.text]

    return registry


# Answers.


@FACES
async def test_answers_come_one_after_the_other_and_the_last_one_stays(face: Any) -> None:
    target = FakeTarget()
    charge = target.on("POST", CHARGE).answers(503, 503, Answer(200, json={"id": "ch_1"}))
    for _ in range(2):
        result = await run_job(paying(face), "pay", {}, transport=target)
        assert (result.status, result.attempts, result.value) == ("succeeded", 1, {"id": "ch_1"})
    assert len(target.requests) == len(charge.requests) == 4
    assert {(one.method, one.url) for one in target.requests} == {("POST", CHARGE)}
    assert {str(one.json()) for one in target.requests} == {"{'cents': 500}"}


@FACES
async def test_requests_bear_the_marks_of_their_job(face: Any) -> None:
    target = FakeTarget()
    target.on("POST", CHARGE).answers(500, Answer(json=None))
    await run_job(paying(face), "pay", {}, id="order-7", headers={"tracestate": "a=b"}, transport=target)
    assert [one.key for one in target.requests] == ["order-7/charge"] * 2
    assert target.requests[0].headers["Content-Type"] == "application/json"
    traces = [one.headers["traceparent"] for one in target.requests]
    assert traces[0].split("-")[1] == traces[1].split("-")[1]
    assert [one.headers["tracestate"] for one in target.requests] == ["a=b"] * 2


@FACES
async def test_requests_count_against_the_limit_of_a_job(face: Any) -> None:
    target = FakeTarget()
    target.on("POST", CHARGE).answers(500)
    result = await run_job(paying(face), "pay", {}, transport=target, max_requests=2, attempts=1)
    assert (result.status, result.reason, len(target.requests)) == ("dead", "attempts_exhausted", 2)
    assert "more than 2 requests" in result.detail


async def test_requests_take_the_places_of_steps() -> None:
    target, registry = FakeTarget(), Registry()
    target.on("GET", "https://a.example/*").answers(Answer(after=10))

    @registry.handler("six")
    async def six(payload: Any, context: Context) -> None:
        await context.gather(*(context.request("GET", f"https://a.example/{n}", timeout=60) for n in range(6)))

    result = await run_job(registry, "six", steps=2, transport=target)
    assert (result.status, result.seconds) == ("succeeded", 30)
    start = target.requests[0].at
    assert [one.at - start for one in target.requests] == [0, 0, 10, 10, 20, 20]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (Answer(json={"a": 1}), "application/json", '{"a":1}'),
        (Answer(json={"a": 1}, headers={"X-Other": "1"}), "application/json", '{"a":1}'),
        (Answer(text="é"), "text/plain; charset=utf-8", "é"),
        (Answer(body=b"x", headers={"Content-Type": "image/png"}), "image/png", "x"),
        (204, None, ""),
    ],
)
async def test_an_answer_has_its_headers_and_body(answer: Answer | int, kind: str | None, text: str) -> None:
    target = FakeTarget()
    target.on("GET", "http://a.example/").answers(answer)
    lean = await target.send(Request("GET", "http://a.example/"))
    theirs = await target.client.get("http://a.example")
    assert (lean.headers.get("content-type"), lean.text) == (kind, text)
    assert (theirs.headers.get("content-type"), theirs.text) == (kind, text)
    assert (await target.send(Request("GET", "http://a.example"))).url == "http://a.example"
    target.on("HEAD", "http://a.example/").answers(answer)
    assert (await target.send(Request("HEAD", "http://a.example/"))).body == b""
    await target.aclose()
    assert target.client.is_closed


async def test_what_content_types_a_script_names_outweighs_its_kind() -> None:
    answer = Answer(json={}, headers={"content-type": "application/problem+json"})
    assert dict(answer.headers) == {"content-type": "application/problem+json"}


async def test_a_function_answers_by_the_request() -> None:
    def echo(request: Received) -> Answer:
        return Answer(201, text=f"{request.query} {request.text}")

    target, registry = FakeTarget(), Registry()
    target.on("PUT", "https://a.example/items").answers(echo)

    @registry.handler("put")
    async def put(payload: Any, context: Context) -> str:
        return (await context.request("PUT", "https://a.example/items", query={"q": "a b", "e": ""}, text="t")).text

    assert (await run_job(registry, "put", transport=target)).value == "{'q': 'a b', 'e': ''} t"


@pytest.mark.parametrize(
    ("script", "request_", "matches"),
    [
        (("GET", "https://a.example/x"), ("GET", "https://a.example/x"), True),
        (("get", "https://a.example/x"), ("GET", "https://a.example/x?page=2"), True),
        (("GET", "https://a.example/x?page=1"), ("GET", "https://a.example/x?page=2"), False),
        (("GET", "https://a.example/x?page=1"), ("GET", "https://a.example/x?page=1"), True),
        (("GET", "https://a.example/x"), ("POST", "https://a.example/x"), False),
        (("*", "https://a.example/x"), ("DELETE", "https://a.example/x"), True),
        (("GET", "https://a.example/*/items"), ("GET", "https://a.example/7/items"), True),
        (("GET", "https://a.example/*/items"), ("GET", "https://a.example/7/8/items"), False),
        (("GET", "https://*.example/x"), ("GET", "https://b.example/x"), True),
        (("GET", "https://a.example/x"), ("GET", "https://aXexample/x"), False),
        (("GET", "https://a.example/x"), ("GET", "https://a.example/xy"), False),
        (("GET", "https://a.example"), ("GET", "https://a.example/"), True),
        (("GET", "https://a.example/"), ("GET", "https://a.example?q=1"), True),
        (("GET", "https://a.example"), ("GET", "https://a.example/x"), False),
    ],
)
async def test_what_a_script_is_for(script: tuple[str, str], request_: tuple[str, str], matches: bool) -> None:
    target = FakeTarget()
    found = target.on(*script)
    if matches:
        assert (await target.send(Request(*request_))).status == 200
    else:
        with pytest.raises(OffScript):
            await target.send(Request(*request_))
    assert len(found.requests) == matches


async def test_the_later_script_outweighs_the_earlier_one() -> None:
    target = FakeTarget()
    usual, special = target.on("GET", "https://a.example/*"), target.on("GET", "https://a.example/7").answers(404)
    assert [(await target.send(Request("GET", f"https://a.example/{n}"))).status for n in (6, 7)] == [200, 404]
    assert [one.url[-1] for script in (usual, special) for one in script.requests] == ["6", "7"]


async def test_answers_given_anew_begin_anew() -> None:
    target = FakeTarget()
    script = target.on("GET", "https://a.example/").answers(201, 202)
    assert (await target.send(Request("GET", "https://a.example/"))).status == 201
    script.answers(203, 204)
    assert [(await target.send(Request("GET", "https://a.example/"))).status for _ in range(2)] == [203, 204]


@pytest.mark.parametrize("reply", [Hangs, Answer, "200", None])
def test_what_is_no_answer_is_refused_where_it_is_written(reply: Any) -> None:
    with pytest.raises(TypeError, match=r"^POST https://pay.example.com/charge: .* is no answer"):
        FakeTarget().on("post", CHARGE).answers(200, reply)


def test_a_script_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FakeTarget().on("POST", CHARGE).answers()


# Errors.


@pytest.mark.parametrize(
    ("reply", "ours", "theirs", "seconds"),
    [
        (Refused(), NotSent, httpx.ConnectError, 0),
        (Broken(), MaybeSent, httpx.ReadError, 0),
        (Hangs(), RequestTimeout, httpx.ReadTimeout, 5),
        (Answer(after=6), RequestTimeout, httpx.ReadTimeout, 5),
        (Reject("no", code="blocked_address"), Reject, httpx.TransportError, 0),
    ],
)
@FACES
async def test_errors_are_those_of_the_real_way_out(
    face: Any, reply: Any, ours: type[Exception], theirs: type[Exception], seconds: float
) -> None:
    target, registry = FakeTarget(), Registry()
    target.on("POST", CHARGE).answers(reply)

    @registry.handler("bare", attempts=1)
    async def bare(payload: Any, context: Context) -> None:
        await face(context, timeout=5)

    result = await run_job(registry, "bare", transport=target)
    [error] = result.errors
    assert isinstance(error, ours)
    assert isinstance(error, theirs) is (face is by_httpx)
    assert result.seconds == seconds


async def test_an_exception_is_raised_as_it_is() -> None:
    for error in (TimeoutError("the script's"), KeyError("odd")):
        target = FakeTarget()
        target.on("GET", "https://a.example/").answers(error)
        with pytest.raises(type(error)) as caught:
            await target.send(Request("GET", "https://a.example/"))
        assert caught.value is error


@FACES
async def test_a_step_may_end_before_a_request_that_hangs(face: Any) -> None:
    target = FakeTarget()
    target.on("POST", CHARGE).answers(Hangs())
    result = await run_job(paying(face, retry=1), "pay", {}, transport=target, step_timeout="2s")
    assert (type(result.errors[0]), result.seconds) == (TimeoutError, 2)


@FACES
async def test_only_what_was_surely_not_sent_is_repeated_when_asked_so(face: Any) -> None:
    for reply, requests in ((Refused(), 3), (Broken(), 1)):
        target = FakeTarget()
        target.on("POST", CHARGE).answers(reply)
        await run_job(paying(face, retry=StepRetry(3, when="unsent")), "pay", {}, transport=target)
        assert len(target.requests) == requests


@pytest.mark.parametrize(
    ("reply", "requests"),
    [(500, 3), (408, 3), (404, 1), (429, 1), (Answer(503, headers={"Retry-After": "5"}), 1), (Broken(), 3)],
)
@FACES
async def test_what_is_tried_again_at_once_is_the_real_rule(face: Any, reply: Any, requests: int) -> None:
    target = FakeTarget()
    target.on("POST", CHARGE).answers(reply)
    await run_job(paying(face), "pay", {}, transport=target)
    assert len(target.requests) == requests


async def test_hanging_costs_no_real_time() -> None:
    target = FakeTarget()
    target.on("POST", CHARGE).answers(Hangs())
    since = time.monotonic()
    result = await run_job(paying(by_httpx), "pay", {}, transport=target, attempts=16)
    assert result.attempts == 16
    assert 16 <= len(target.requests) <= 48  # its breaker opens, and lets no quick tries pass from then on
    assert result.seconds > 16 * 10
    assert time.monotonic() - since < 2


async def test_no_timeout_at_all_leaves_it_to_the_job() -> None:
    target = FakeTarget()
    target.on("GET", "https://a.example/").answers(Hangs())
    registry = Registry()

    @registry.handler("job", attempts=1, timeout=30)
    async def job(payload: Any, context: Context) -> None:
        await context.http.get("https://a.example/", timeout=None)

    result = await run_job(registry, "job", transport=target)
    assert (result.detail, result.seconds) == ("1 attempts, the last: timeout after 30 s", 30)


# Off the script.


@FACES
async def test_a_request_nobody_scripted_fails_the_test_at_once(face: Any) -> None:
    target = FakeTarget()
    target.on("GET", CHARGE)
    target.on("POST", "https://pay.example.com/refund")
    with pytest.raises(OffScript) as caught:
        await run_job(paying(face), "pay", {}, transport=target)
    assert str(caught.value) == (
        f"POST {CHARGE} is not scripted; scripted: GET {CHARGE}, POST https://pay.example.com/refund"
    )
    assert len(target.requests) == 1


async def test_a_handler_cannot_hide_it() -> None:
    registry = Registry()

    @registry.handler("careless")
    async def careless(payload: Any, context: Context) -> str:
        try:
            await context.request("GET", "https://a.example/")
        except Exception:  # noqa: BLE001 - just that
            return "done"
        return "not scripted?"

    with pytest.raises(OffScript, match="scripted: nothing"):
        await run_job(registry, "careless", transport=FakeTarget())
    async with Harness(registry, transport=FakeTarget()) as harness:
        harness.publish("careless")
        with pytest.raises(OffScript, match=r"GET https://a\.example/ is not scripted"):
            await harness.until_quiet()


async def test_what_a_function_of_the_script_asserts_fails_the_test() -> None:
    def checked(request: Received) -> int:
        assert request.json() == {"cents": 700}, "wrong amount"
        return 200

    target = FakeTarget()
    target.on("POST", CHARGE).answers(checked)
    with pytest.raises(AssertionError, match="wrong amount"):
        await run_job(paying(lean), "pay", {}, transport=target)


async def test_a_function_that_gives_no_answer_fails_the_test() -> None:
    target = FakeTarget()
    target.on("POST", CHARGE).answers(lambda _: "200")  # type: ignore[arg-type, return-value]
    with pytest.raises(OffScript, match=r"the function for POST https://pay.example.com/charge returned '200'"):
        await run_job(paying(lean), "pay", {}, transport=target)


async def test_redirects_are_given_as_they_are_and_never_silently_not_followed() -> None:
    target = FakeTarget()
    target.on("GET", "https://a.example/").answers(Answer(302, headers={"Location": "/b"}))
    assert (await run_job(asking(), "ask", ["GET", "https://a.example/"], transport=target)).value == [302, ""]
    with pytest.raises(OffScript, match="script the last answer"):
        await run_job(asking(redirects=1), "ask", ["GET", "https://a.example/"], transport=target)


def test_it_is_a_transport() -> None:
    transport: Transport = FakeTarget()
    assert transport.is_transient(NotSent())
    assert not transport.is_transient(Reject("no"))
