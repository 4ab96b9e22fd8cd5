"""OAuth 2.0 client credentials: one call for many, a token as long as it is good, and no job lost by the endpoint."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import functools
import json
from typing import Any

import pytest

from tests.http.targets import MakeEngine, Serve
from tests.http.token_endpoint import Endpoint, Open, Resource, open_office
from worker import Limits, NotSent, Request
from worker.http.credentials import ClientCredentials, Credential, tokens
from worker.http.guard import Guard

MANY = 100


@pytest.fixture
def opened(serve: Serve, make_engine: MakeEngine) -> Open:
    return functools.partial(open_office, serve, make_engine)


async def test_asks_as_the_standard_says(opened: Open) -> None:
    office = await opened(scope="read write", audience="https://api/", client_id="me:1", client_secret=lambda: "ä%b")
    await office.engine.send(office.request())
    (call,) = office.endpoint.calls
    assert call.line == "POST /token HTTP/1.1"
    assert call.header("content-type") == "application/x-www-form-urlencoded"
    assert call.body == b"grant_type=client_credentials&scope=read+write&audience=https%3A%2F%2Fapi%2F"
    login = str(call.header("authorization")).removeprefix("Basic ")
    assert base64.b64decode(login) == b"me%3A1:%C3%A4%25b"
    assert office.sent == ["Bearer token-1"]


async def test_a_hundred_requests_at_once_make_one_call(opened: Open) -> None:
    endpoint = Endpoint(gate=asyncio.Event())
    office = await opened(endpoint)
    waiting = [asyncio.create_task(office.engine.send(office.request())) for _ in range(MANY)]
    await endpoint.called.wait()
    assert endpoint.gate is not None
    endpoint.gate.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert len(endpoint.calls) == 1
    assert office.sent == ["Bearer token-1"] * MANY


async def test_a_token_is_used_until_shortly_before_its_end(opened: Open) -> None:
    office = await opened(Endpoint(life=100))
    for moment in (0, 79, 81):
        office.now[0] = 1000.0 + moment
        await office.engine.send(office.request())
    assert office.sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize(
    ("life", "seconds"),
    [(None, 270), ("600", 570), ("soon", 270), (True, 270), ([], 270), (1e300, 1e299), (10, 8), (36000, 35970)],
)
async def test_a_life_is_read_or_five_minutes(opened: Open, life: Any, seconds: float) -> None:
    office = await opened(Endpoint(life=life))
    for moment in (0.0, seconds - 1, seconds + 1):
        office.now[0] = moment
        await office.engine.send(office.request())
    assert len(office.endpoint.calls) == (1 if life == 1e300 else 2)
    assert office.sent[:2] == ["Bearer token-1"] * 2


@pytest.mark.parametrize("life", [0, -5])
async def test_a_token_without_a_life_serves_those_who_wait_for_it(opened: Open, life: int) -> None:
    office = await opened(Endpoint(life=life))
    for _ in range(2):
        await office.engine.send(office.request())
    assert office.sent == ["Bearer token-1", "Bearer token-2"]


async def test_who_gives_up_waiting_takes_the_token_from_nobody(opened: Open) -> None:
    endpoint = Endpoint(gate=asyncio.Event())
    office = await opened(endpoint)
    first, second = (asyncio.create_task(office.engine.send(office.request())) for _ in range(2))
    await endpoint.called.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert endpoint.gate is not None
    endpoint.gate.set()
    assert (await second).status == 200
    assert len(endpoint.calls) == 1


async def test_all_give_up_and_the_token_is_there_for_the_next(opened: Open) -> None:
    endpoint = Endpoint(gate=asyncio.Event())
    office = await opened(endpoint)
    first = asyncio.create_task(office.engine.send(office.request()))
    await endpoint.called.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert endpoint.gate is not None
    endpoint.gate.set()
    await office.engine.send(office.request())
    assert len(endpoint.calls) == 1


async def test_waiting_for_a_token_ends_at_the_deadline_as_not_sent(opened: Open) -> None:
    office = await opened(Endpoint(gate=asyncio.Event()))
    with pytest.raises(NotSent, match=r"within 0\.1 s"):
        await office.engine.send(office.request(timeout=0.1))
    assert office.target.connections == 0


async def test_a_call_of_the_endpoint_has_a_limit_of_its_own(opened: Open) -> None:
    office = await opened(Endpoint(gate=asyncio.Event()), limits=Limits(timeout=0.1))
    with pytest.raises(NotSent, match=r"credential 'api': no token, no whole answer within 0\.1 s"):
        await office.engine.send(office.request(timeout=5))


async def test_patient_requests_do_not_make_a_patient_call(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LONGEST_CALL", 0.1)
    office = await opened(Endpoint(gate=asyncio.Event()), limits=Limits(timeout=3600))
    with pytest.raises(NotSent, match=r"no whole answer within 0\.1 s"):
        await office.engine.send(office.request(timeout=5))


@pytest.mark.parametrize("kind", ["null", '"bearer"', '"BEARER"'])
async def test_a_type_may_be_left_out_or_null(opened: Open, kind: str) -> None:
    office = await opened(Endpoint(answers=[(200, f'{{"access_token": "abc", "token_type": {kind}}}'.encode())]))
    await office.engine.send(office.request())
    assert office.sent == ["Bearer abc"]


# --- an endpoint in trouble

TROUBLE: list[tuple[int, bytes, str]] = [
    (500, b"", "the token endpoint answers 500"),
    (401, b'{"error": "invalid_client canary"}', "the token endpoint answers 401"),
    (302, b"", "the token endpoint answers 302"),
    (200, b"<html>canary</html>", "the token endpoint answers no JSON that is taken"),
    (200, b"[" * 9999, "the token endpoint answers no JSON that is taken"),
    (200, b'{"access_token": "canary", "a": 1e400}', "the token endpoint answers no JSON that is taken"),
    (200, b'["canary"]', "the token endpoint answers without an access_token"),
    (200, b'{"access_token": 7}', "the token endpoint answers without an access_token"),
    (200, b'{"access_token": "canary\\r\\nX: y"}', "the token endpoint answers without an access_token"),
    (200, b'{"access_token": ""}', "the token endpoint answers without an access_token"),
    (200, b'{"access_token": "canary", "token_type": "mac"}', "the token endpoint answers a token that is no bearer"),
    (200, b'{"access_token": "' + b"c" * (64 << 10) + b'"}', "above 65536 bytes"),
]


@pytest.mark.parametrize(("status", "body", "says"), TROUBLE)
async def test_trouble_at_the_endpoint_is_not_sent_and_told_without_its_words(
    opened: Open, status: int, body: bytes, says: str
) -> None:
    office = await opened(Endpoint(answers=[(status, body)]))
    with pytest.raises(NotSent) as caught:
        await office.engine.send(office.request())
    assert says in str(caught.value)
    assert office.target.connections == 0
    ((event, name, reason),) = office.notes
    assert (event, name) == ("credential.unavailable", "api")
    assert says in reason
    shown = str(caught.value) + reason
    assert not any(word in shown for word in ("canary", "s3cret", "/token"))


async def test_an_endpoint_that_is_not_there_is_not_sent(opened: Open) -> None:
    office = await opened(token_url="http://127.0.0.1:9/token")
    with pytest.raises(NotSent, match="ECONNREFUSED"):
        await office.engine.send(office.request())


async def test_the_endpoint_stands_behind_the_guard_and_is_no_jobs_end(serve: Serve, make_engine: MakeEngine) -> None:
    endpoint = Endpoint()
    tokens, target = await serve(endpoint), await serve(Resource())
    kind = ClientCredentials(f"{tokens.url}token", "me", lambda: "s3cret")
    guard = Guard(["127.0.0.0/8"], (), [("127.0.0.1", tokens.port)])
    engine = make_engine(guard=guard, credentials=[Credential("api", (target.url.rstrip("/"),), kind)])
    with pytest.raises(NotSent):
        await engine.send(Request("GET", target.url, auth="api"))
    assert (tokens.connections, target.connections) == (0, 0)


async def test_trouble_and_its_end_are_told_once_each(opened: Open) -> None:
    office = await opened(Endpoint(answers=[(500, b"")] * 3 + [(503, b"")] * 2))
    for _ in range(5):
        with pytest.raises(NotSent):
            await office.engine.send(office.request())
        office.now[0] += 2
    for _ in range(2):
        await office.engine.send(office.request())
    assert [(event, reason) for event, _, reason in office.notes] == [
        ("credential.unavailable", "the token endpoint answers 500"),
        ("credential.unavailable", "the token endpoint answers 503"),
        ("credential.available", ""),
    ]


async def test_an_endpoint_in_trouble_is_left_alone_for_a_moment(opened: Open) -> None:
    office = await opened(Endpoint(answers=[(500, b"")]))
    for _ in range(20):
        with pytest.raises(NotSent, match="answers 500"):
            await office.engine.send(office.request())
    assert len(office.endpoint.calls) == 1
    office.now[0] += 1.1
    await office.engine.send(office.request())
    assert len(office.endpoint.calls) == 2


async def test_what_is_told_of_a_token_belongs_to_no_job(make_engine: MakeEngine) -> None:
    job = contextvars.ContextVar("job", default="none")
    told: list[str] = []
    kind = ClientCredentials("http://127.0.0.1:9/", "me", lambda: "s3cret")
    engine = make_engine(
        credentials=[Credential("api", ("http://127.0.0.1:9",), kind)], on_credential=lambda *_: told.append(job.get())
    )
    job.set("job-1")
    with pytest.raises(NotSent):
        await engine.send(Request("GET", "http://127.0.0.1:9/", auth="api"))
    assert told == ["none"]


async def test_a_new_secret_is_tried_at_once(opened: Open) -> None:
    office = await opened(Endpoint(answers=[(401, b"")]))
    with pytest.raises(NotSent):
        await office.engine.send(office.request())
    office.secrets.append("n3w")
    await office.engine.send(office.request())
    logins = [str(call.header("authorization")).removeprefix("Basic ") for call in office.endpoint.calls]
    assert [base64.b64decode(login) for login in logins] == [b"me:s3cret", b"me:n3w"]


async def test_a_closed_engine_stops_fetching(opened: Open) -> None:
    endpoint = Endpoint(gate=asyncio.Event())
    office = await opened(endpoint)
    waiting = asyncio.create_task(office.engine.send(office.request()))
    await endpoint.called.wait()
    await office.engine.aclose()
    for late in (waiting, office.engine.send(office.request())):
        with pytest.raises(NotSent, match="closed"):
            await late
    assert office.notes == []


async def test_a_token_is_shown_nowhere(opened: Open) -> None:
    office = await opened()
    await office.engine.send(office.request())
    tokens = office.engine.credentials._tokens["api"]
    token = await tokens.token()
    assert token.text == "token-1"
    assert "token-1" not in repr(token) + json.dumps(office.notes)
