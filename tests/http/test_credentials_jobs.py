"""`auth` and `sign` of `http` jobs: judged before anything is sent, and again with the final URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.http.desk import Answer, Desk, by_path, chain, path_of
from tests.http.targets import Exchange, MakeEngine, Serve, Target
from worker import Context, Registry
from worker.http.client import HttpTransport
from worker.http.credentials import Bearer, ClientCredentials, Credential, SigningKeys
from worker.runtime.context import job_gate
from worker.testing import FakeTarget, Harness, run_job

SECRET: Final = "s3cret-value"
QUICK: Final = {"attempts": 1}

MakeDesk = Callable[..., Desk]


@pytest.fixture
def desk_with(make_engine: MakeEngine) -> MakeDesk:
    def make(*credentials: Credential) -> Desk:
        desk = Desk(make_engine)
        desk.transport = HttpTransport(make_engine(credentials=credentials), gate=job_gate)
        return desk

    return make


def origin(target: Target) -> str:
    return target.url.rstrip("/")


def crm(*origins: str) -> Credential:
    return Credential("crm", origins, Bearer(lambda: SECRET))


def partner(*origins: str) -> Credential:
    return Credential("partner", origins, SigningKeys(lambda: (b"k" * 24,)))


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


async def test_a_job_uses_them_by_name(serve: Serve, desk_with: MakeDesk) -> None:
    target = await serve(by_path({"/a": Answer(value={"id": 7}), "/b/7": Answer()}))
    job = chain(target.url, "a", "b")
    job["steps"][0] |= {"auth": "crm"}
    job["steps"][1] |= {"url": target.url + "b/{{ a.json.id }}", "auth": "crm", "sign": "partner", "method": "POST"}
    done = await desk_with(crm(origin(target)), partner(origin(target))).run(job)
    assert done.status == "succeeded"
    assert [seen.header("authorization") for seen in target.seen] == [f"Bearer {SECRET}"] * 2
    assert [seen.header("webhook-id") for seen in target.seen] == [None, "job-1/b"]
    assert SECRET not in str(done)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"auth": "nobody"}, "no credential named 'nobody' is configured"),
    ({"auth": "partner"}, "credential 'partner' is a signing key: name it in 'sign'"),
    ({"sign": "crm"}, "credential 'crm' is no signing key: name it in 'auth'"),
    ({"sign": "partner", "headers": {"Webhook-Timestamp": "1"}}, "which is there already"),
    ({"auth": "crm", "url": "http://127.0.0.1:9/x"}, "may not be sent to 127.0.0.1 (http, port 9)"),
    ({"auth": "crm", "url": "http://127.0.0.1:9/{{ a.json }}"}, "may not be sent to 127.0.0.1 (http, port 9)"),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED)
@pytest.mark.parametrize("place", ["step", "callback"])
async def test_what_is_known_to_be_wrong_is_said_before_anything_is_sent(
    serve: Serve, desk_with: MakeDesk, fields: dict[str, Any], says: str, place: str
) -> None:
    target = await serve(by_path({"/a": Answer(value=1), "/b": Answer()}))
    job = chain(target.url, "a", "b")
    if place == "step":
        job["steps"][1] |= fields
    else:
        job["callback"] = {"url": target.url, **fields}
    done = await desk_with(crm(origin(target)), partner(origin(target))).run(job)
    assert done.reason == "credential"
    assert done.detail.startswith("step 'b': " if place == "step" else "callback: ")
    assert says in done.detail
    assert target.connections == 0


async def test_a_url_from_a_result_is_judged_when_it_is_known(serve: Serve, desk_with: MakeDesk) -> None:
    elsewhere = await serve(ok)
    target = await serve(by_path({"/a": Answer(value={"next": f"{elsewhere.url}path?api_key=canary"})}))
    job = chain(target.url, "a", "b")
    job["steps"][1] |= {"url": "{{ a.json.next }}", "auth": "crm"}
    done = await desk_with(crm(origin(target))).run(job)
    assert done.reason == "credential"
    assert done.detail.startswith("step 'b': credential 'crm' may not be sent to 127.0.0.1")
    assert "canary" not in done.detail
    assert "path" not in done.detail
    assert (len(target.seen), elsewhere.connections) == (1, 0)


async def test_every_element_of_a_fan_out_has_it(serve: Serve, desk_with: MakeDesk) -> None:
    target = await serve(ok)
    job = {"url": target.url + "{{ item }}", "for_each": ["a", "b", "c"], "auth": "crm", "sign": "partner"}
    done = await desk_with(crm(origin(target)), partner(origin(target))).run(job)
    assert done.status == "succeeded"
    assert {seen.header("authorization") for seen in target.seen} == {f"Bearer {SECRET}"}
    assert {seen.header("webhook-id") for seen in target.seen} == {f"job-1/request/{number}" for number in range(3)}


async def test_a_callback_carries_the_names(serve: Serve, desk_with: MakeDesk) -> None:
    target = await serve(ok)
    callback = {"url": f"{target.url}told", "auth": "crm", "sign": "partner"}
    desk = desk_with(crm(origin(target)), partner(origin(target)))
    done = await desk.run({"url": target.url, "callback": callback})
    (told,) = done.published
    assert (told["auth"], told["sign"]) == ("crm", "partner")
    assert SECRET not in str(told)
    assert (await desk.run(told)).status == "succeeded"
    assert path_of(target.seen[-1]) == "/told"
    assert target.seen[-1].header("authorization") == f"Bearer {SECRET}"


async def test_a_token_endpoint_in_trouble_costs_attempts_and_no_job(serve: Serve, desk_with: MakeDesk) -> None:
    """`unsent` jobs too: surely nothing was sent."""
    calls = iter([500, 500, 500, 200])

    async def give(exchange: Exchange) -> None:
        await exchange.answer(next(calls), b'{"access_token": "t"}')

    tokens, target = await serve(give), await serve(ok)
    kind = ClientCredentials(f"{tokens.url}t", "me", lambda: "s3cret")
    desk = desk_with(Credential("api", (origin(target),), kind))
    transport = desk.transport._engine.credentials._tokens["api"]
    moments = iter(range(0, 100_000, 100))
    transport._clock = lambda: float(next(moments))
    done = await desk.run({"url": target.url, "auth": "api", "retry": {"attempts": 1, "when": "unsent"}})
    assert (done.status, done.attempts) == ("succeeded", 4)
    assert {run.detail for run in done.runs[:3]} == {"credential 'api': no token, the token endpoint answers 500"}
    assert len(target.seen) == 1


# --- handlers


async def refusal(make_engine: MakeEngine, **request: Any) -> tuple[str | None, str]:
    """Reason and detail of the dead letter of a handler that makes this request."""
    registry = Registry()

    @registry.handler("job", attempts=1)
    async def job(payload: Any, context: Context) -> None:
        await context.request("GET", "http://127.0.0.1:9/", **request)

    transport = HttpTransport(make_engine(credentials=[crm("http://127.0.0.1:10")]), gate=job_gate)
    async with Harness(registry, transport=transport) as harness:
        harness.publish("job", None, id="a")
        await harness.until_quiet(patience=0.5)
        return harness.reports.all[-1].reason, harness.reports.all[-1].detail


async def test_a_handler_is_rejected_with_the_same_words(make_engine: MakeEngine) -> None:
    assert await refusal(make_engine, auth="nobody") == ("credential", "no credential named 'nobody' is configured")
    reason, detail = await refusal(make_engine, auth="crm")
    assert reason == "credential"
    assert detail.startswith("credential 'crm' may not be sent to 127.0.0.1")


async def test_auth_beside_an_authorization_header_is_a_value_error(make_engine: MakeEngine) -> None:
    reason, detail = await refusal(make_engine, auth="crm", headers={"AUTHORIZATION": "x"})
    assert reason == "attempts_exhausted"
    assert "ValueError" in detail


# --- tests of users, who need no secrets


async def test_a_fake_target_knows_any_name_and_shows_it() -> None:
    registry = Registry()

    @registry.handler("job")
    async def job(payload: Any, context: Context) -> None:
        await context.request("POST", "https://crm.example.com/", auth="crm", sign="partner")
        await context.http.get("https://crm.example.com/", extensions={"auth": "crm"})

    target = FakeTarget()
    target.on("*", "https://crm.example.com/")
    assert (await run_job(registry, "job", transport=target)).status == "succeeded"
    assert [(seen.auth, seen.sign) for seen in target.requests] == [("crm", "partner"), ("crm", None)]
    assert not any(name.startswith(("authorization", "webhook")) for seen in target.requests for name in seen.headers)


async def test_a_fake_target_may_know_some_names_only() -> None:
    from worker.http.handler import http_registry

    target = FakeTarget(credentials={"crm"})
    target.on("GET", "https://crm.example.com/")
    url = "https://crm.example.com/"
    assert (await run_job(http_registry(), "http", {"url": url, "auth": "crm"}, transport=target)).status == "succeeded"
    result = await run_job(http_registry(), "http", {"url": url, "sign": "partner"}, transport=target)
    assert (result.reason, result.detail) == ("credential", "no credential named 'partner' is configured")

    registry = Registry()

    @registry.handler("job")
    async def job(payload: Any, context: Context) -> None:
        await context.request("GET", url, auth="other")

    assert (await run_job(registry, "job", transport=target)).reason == "credential"
    assert len(target.requests) == 1
