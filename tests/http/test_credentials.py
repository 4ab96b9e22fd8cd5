"""Credentials by name: which request gets them, and which never does; judged by what the targets saw."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.http.targets import Exchange, MakeEngine, Serve, Target
from worker import MaybeSent, NotSent, Reject, Request
from worker.http.client import HttpTransport
from worker.http.credentials import ApiHeader, Basic, Bearer, Credential, SigningKeys
from worker.http.credentials.kinds import Kind

SECRET: Final = "s3cret-value"
BASIC: Final = f"Basic {base64.b64encode('jane:pä:ss'.encode()).decode()}"
KEY: Final = b"k" * 24


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def to(there: Callable[[], str], status: int = 302) -> Callable[[Exchange], Any]:
    async def script(exchange: Exchange) -> None:
        if exchange.line.split(" ")[1] == "/":
            await exchange.answer(status, Location=there())
        else:
            await exchange.answer()

    return script


def origin(target: Target) -> str:
    return target.url.rstrip("/")


def get(url: str, **fields: Any) -> Request:
    return Request("GET", url, **fields)


KINDS: list[tuple[Kind, str, str]] = [
    (Bearer(lambda: SECRET), "authorization", f"Bearer {SECRET}"),
    (Basic("jane", lambda: "pä:ss"), "authorization", BASIC),
    (ApiHeader("X-Api-Key", lambda: SECRET), "x-api-key", SECRET),
    (ApiHeader("Authorization", lambda: f"Key {SECRET}"), "authorization", f"Key {SECRET}"),
]


@pytest.mark.parametrize(("kind", "name", "value"), KINDS)
async def test_goes_to_its_origin_and_only_when_named(
    serve: Serve, make_engine: MakeEngine, kind: Kind, name: str, value: str
) -> None:
    target = await serve(ok)
    engine = make_engine(credentials=[Credential("crm", (origin(target),), kind)])
    await engine.send(get(f"{target.url}a?b=c", auth="crm"))
    await engine.send(get(target.url))
    assert [seen.header(name) for seen in target.seen] == [value, None]
    assert target.connections == 1


@pytest.fixture
def crm() -> Callable[..., Credential]:
    def make(*origins: str, kind: Kind | None = None) -> Credential:
        return Credential("crm", origins, kind or Bearer(lambda: SECRET))

    return make


Crm = Callable[..., Credential]


@pytest.mark.parametrize(
    "listed",
    [
        "https://127.0.0.1:{port}",
        "http://127.0.0.1",
        "http://localhost:{port}",
        "http://127.0.0.2:{port}",
        "http://127.0.0.1:9",
    ],
)
async def test_a_request_off_the_list_is_refused_before_anything_is_sent(
    serve: Serve, make_engine: MakeEngine, crm: Crm, listed: str
) -> None:
    target = await serve(ok)
    engine = make_engine(credentials=[crm(listed.format(port=target.port))])
    with pytest.raises(Reject) as caught:
        await engine.send(get(f"{target.url}private/path?token=abc", auth="crm"))
    assert caught.value.code == "credential"
    assert "'crm'" in caught.value.detail
    assert "127.0.0.1" in caught.value.detail
    assert not any(word in caught.value.detail for word in ("private", "token", SECRET))
    assert target.connections == 0


@pytest.mark.parametrize("spelt", ["http://0x7f.1:{port}/", "http://2130706433:{port}", "HTTP://127.1:{port}/x"])
async def test_one_origin_is_known_in_every_spelling(
    serve: Serve, make_engine: MakeEngine, crm: Crm, spelt: str
) -> None:
    target = await serve(ok)
    engine = make_engine(credentials=[crm(origin(target))])
    await engine.send(get(spelt.format(port=target.port), auth="crm"))
    assert target.seen[0].header("authorization") == f"Bearer {SECRET}"


# --- redirects


async def test_a_redirect_off_the_list_goes_without(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    there = await serve(ok)
    here = await serve(to(lambda: there.url))
    signing = Credential("partner", (origin(here),), SigningKeys(lambda: (KEY,)))
    engine = make_engine(credentials=[crm(origin(here)), signing])
    answer = await engine.send(get(here.url, auth="crm", sign="partner", redirects=1))
    assert answer.url == there.url
    assert here.seen[0].header("authorization") == f"Bearer {SECRET}"
    assert here.seen[0].header("webhook-signature") is not None
    sent = {name.lower() for name, _ in there.seen[0].headers}
    assert not sent & {"authorization", "webhook-id", "webhook-timestamp", "webhook-signature"}


async def test_a_redirect_within_the_list_takes_it_along(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    there = await serve(ok)
    here = await serve(to(lambda: there.url))
    same = await serve(to(lambda: "/end"))
    engine = make_engine(credentials=[crm(origin(here), origin(there), origin(same))])
    await engine.send(get(here.url, auth="crm", redirects=1))
    await engine.send(get(same.url, auth="crm", redirects=1))
    seen = [here.seen[0], there.seen[0], same.seen[0], same.seen[1]]
    assert [one.header("authorization") for one in seen] == [f"Bearer {SECRET}"] * 4


async def test_a_redirect_that_comes_back_has_it_again(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    here = await serve(to(lambda: away.url))
    away = await serve(to(lambda: f"{here.url}end"))
    engine = make_engine(credentials=[crm(origin(here))])
    await engine.send(get(here.url, auth="crm", redirects=3))
    assert [one.header("authorization") for one in (here.seen[0], away.seen[0], here.seen[1])] == [
        f"Bearer {SECRET}",
        None,
        f"Bearer {SECRET}",
    ]


# --- what cannot be used

PARTNER: Final = Credential("partner", ("http://127.0.0.1:9",), SigningKeys(lambda: (KEY,)))
HEADER: Final = Credential("key", ("http://127.0.0.1:9",), ApiHeader("X-Api-Key", lambda: SECRET))
BEARER: Final = Credential("crm", ("http://127.0.0.1:9",), Bearer(lambda: SECRET))

UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"auth": "nobody"}, "no credential named 'nobody' is configured"),
    ({"sign": "nobody"}, "no credential named 'nobody' is configured"),
    ({"auth": "no\nbody\udc80"}, r"no credential named 'no\nbody\udc80' is configured"),
    ({"auth": "partner"}, "credential 'partner' is a signing key: name it in 'sign'"),
    ({"sign": "crm"}, "credential 'crm' is no signing key: name it in 'auth'"),
    (
        {"auth": "crm", "headers": {"authorization": "x"}},
        "credential 'crm' sets the header Authorization, which is there already",
    ),
    (
        {"auth": "key", "headers": {"x-api-KEY": "x"}},
        "credential 'key' sets the header X-Api-Key, which is there already",
    ),
    (
        {"sign": "partner", "headers": {"Webhook-Id": "x"}},
        "credential 'partner' sets the header webhook-id, which is there already",
    ),
]


@pytest.mark.parametrize(("fields", "says"), UNUSABLE)
async def test_what_cannot_be_used_is_named(make_engine: MakeEngine, fields: dict[str, Any], says: str) -> None:
    engine = make_engine(credentials=[PARTNER, HEADER, BEARER])
    with pytest.raises(Reject) as caught:
        await engine.send(get("http://127.0.0.1:9/", **fields))
    assert (caught.value.code, caught.value.detail) == ("credential", says)


async def test_one_request_may_be_signed_and_authorized(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    target = await serve(ok)
    signing = Credential("partner", (origin(target),), SigningKeys(lambda: (KEY,)))
    engine = make_engine(credentials=[crm(origin(target)), signing])
    await engine.send(get(target.url, auth="crm", sign="partner"))
    assert target.seen[0].header("authorization") == f"Bearer {SECRET}"
    assert str(target.seen[0].header("webhook-signature")).startswith("v1,")


async def test_without_a_url_only_names_and_headers_are_judged(make_engine: MakeEngine) -> None:
    fault = make_engine(credentials=[BEARER]).credentials.fault
    assert fault(auth="crm", sign=None, url=None, headers=["Accept"]) is None
    assert fault(auth="crm", sign=None, url="http://127.0.0.1:10/", headers=[]) is not None
    assert fault(auth="crm", sign=None, url=None, headers=["authorization"]) is not None
    assert fault(auth=None, sign="crm", url=None, headers=[]) is not None


# --- rotation, and what is shown


async def test_a_new_secret_is_used_by_the_next_request(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    target = await serve(ok)
    secrets = ["old"]
    engine = make_engine(credentials=[crm(origin(target), kind=Bearer(lambda: secrets[-1]))])
    await engine.send(get(target.url, auth="crm"))
    secrets.append("new")
    await engine.send(get(target.url, auth="crm"))
    assert [seen.header("authorization") for seen in target.seen] == ["Bearer old", "Bearer new"]
    assert target.connections == 1


async def test_errors_show_no_secret(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    async def broken(exchange: Exchange) -> None:
        exchange.reset()

    target = await serve(broken)
    engine = make_engine(credentials=[crm(origin(target))])
    request = get(target.url, auth="crm")
    with pytest.raises(MaybeSent) as caught:
        await engine.send(request)
    shown = repr(caught.value) + repr(request) + repr(vars(engine.credentials))
    assert target.seen[0].header("authorization") == f"Bearer {SECRET}"
    assert SECRET not in shown


# --- the httpx face


async def test_httpx_names_credentials_in_its_extensions(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    there = await serve(ok)
    here = await serve(to(lambda: there.url))
    signing = Credential("partner", (origin(here),), SigningKeys(lambda: (KEY,)))
    client = HttpTransport(make_engine(credentials=[crm(origin(here)), signing])).client
    await client.get(here.url, extensions={"auth": "crm", "sign": "partner"})
    assert here.seen[0].header("authorization") == f"Bearer {SECRET}"
    assert here.seen[0].header("webhook-id") is not None
    with pytest.raises(Reject, match="may not be sent to") as caught:
        await client.get(here.url, extensions={"auth": "crm"}, follow_redirects=True)
    assert caught.value.code == "credential"
    assert there.connections == 0, "a redirect of httpx's own never carries it off the list"


async def test_a_closed_engine_sends_nothing(serve: Serve, make_engine: MakeEngine, crm: Crm) -> None:
    target = await serve(ok)
    engine = make_engine(credentials=[crm(origin(target))])
    await engine.aclose()
    with pytest.raises(NotSent, match="closed"):
        await engine.send(get(target.url, auth="crm"))
