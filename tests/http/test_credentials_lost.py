"""A credential that cannot be had, or may not be used: whose trouble that is, and how it is counted."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest
import trustme

from tests.http.targets import MakeEngine, Serve
from tests.http.token_endpoint import Endpoint, Office, Open, Resource, open_office
from worker import CredentialUnavailable, MaybeSent, NotSent, Reject, Request, Snooze
from worker.http.client import HttpTransport
from worker.http.connector import trusted_context
from worker.http.credentials import Bearer, Credential, TlsFiles, tls
from worker.http.engine import Engine
from worker.http.trail import Trail
from worker.runtime.calls import WatchedCall
from worker.runtime.limiter import Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock

ENOUGH = 25
"""Failures that open the breaker of a host."""


@pytest.fixture
def opened(serve: Serve, make_engine: MakeEngine) -> Open:
    return functools.partial(open_office, serve, make_engine)


def watched(engine: Engine) -> HttpTransport:
    """Its requests are watched as those of jobs are; the clock stands still."""
    clock = ManualClock()
    limiter = Limiter(Places(concurrency=100), clock, Silent(), lambda: 0.5)
    return HttpTransport(engine, call=lambda host: WatchedCall(limiter, clock, host, lambda: False))


async def ends(transport: HttpTransport, request: Request) -> list[type[BaseException]]:
    tries = [transport.send(request) for _ in range(ENOUGH)]
    return [type(end) for end in await asyncio.gather(*tries, return_exceptions=True) if isinstance(end, BaseException)]


async def refusing(opened: Open) -> Office:
    return await opened(Endpoint(answers=[(500, b"")]))


async def silent(opened: Open) -> Office:
    return await opened(Endpoint(gate=asyncio.Event()))


@pytest.mark.parametrize("trouble", [refusing, silent])
async def test_a_token_endpoint_in_trouble_does_not_open_the_breaker_of_the_target(opened: Open, trouble: Open) -> None:
    office = await trouble(opened)
    transport = watched(office.engine)
    assert await ends(transport, office.request(timeout=0.2)) == [CredentialUnavailable] * ENOUGH
    assert (await transport.send(Request("GET", office.target.url))).status == 200


async def test_a_target_that_is_down_opens_its_own(opened: Open) -> None:
    """What the test above would see if tokens counted."""
    office = await opened()
    transport = watched(office.engine)
    await ends(transport, Request("GET", "http://127.0.0.1:9/"))
    with pytest.raises(Snooze):
        await transport.send(Request("GET", "http://127.0.0.1:9/"))


async def test_it_is_a_not_sent_for_whoever_decides_about_repeats(opened: Open) -> None:
    office = await refusing(opened)
    with pytest.raises(CredentialUnavailable) as caught:
        await office.engine.send(office.request("POST", body=b"x"))
    assert isinstance(caught.value, NotSent)
    assert HttpTransport(office.engine).is_transient(caught.value)


def test_only_while_it_waits_a_deadline_is_the_endpoints() -> None:
    trail = Trail()
    with trail.waits_for_token():
        assert isinstance(trail.late(1), CredentialUnavailable)
    assert not isinstance(trail.late(1), CredentialUnavailable)
    with trail.waits_for_token():
        trail.next_hop()
        assert isinstance(trail.late(1), MaybeSent)


async def test_a_credential_that_may_not_be_used_ends_as_credential_and_is_counted(
    serve: Serve, make_engine: MakeEngine
) -> None:
    target = await serve(Resource())
    results: list[str] = []
    engine = make_engine(
        credentials=[Credential("crm", ("http://elsewhere.example",), Bearer(lambda: "x"))],
        on_request=lambda host, result, seconds: results.append(f"{host} {result}"),
    )
    for name in ("crm", "unknown"):
        with pytest.raises(Reject) as caught:
            await engine.send(Request("GET", target.url, auth=name))
        assert caught.value.code == "credential"
    assert results == ["127.0.0.1 credential"] * 2
    assert target.connections == 0


async def test_a_refusal_of_any_other_kind_is_counted_too(
    serve: Serve, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a KeyError in the place of what was said."""

    async def hop(self: Engine, *arguments: object) -> None:
        raise Reject("what nobody has thought of")

    results: list[str] = []
    engine = make_engine(on_request=lambda host, result, seconds: results.append(result))
    monkeypatch.setattr(Engine, "_hop", hop)
    with pytest.raises(Reject, match="what nobody has thought of"):
        await engine.send(Request("GET", "http://127.0.0.1:9/"))
    assert results == ["rejected"]


def test_a_bad_certificate_does_not_load_the_systems_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at every second for as long as it is bad, on the loop, and these take tens of milliseconds."""
    loaded: list[str | None] = []

    def counted(authorities: str | None = None) -> object:
        loaded.append(authorities)
        return trusted_context(authorities)

    monkeypatch.setattr(tls, "trusted_context", counted)
    pair = trustme.CA().issue_cert("client.example")
    cert, key = tmp_path / "crt", tmp_path / "key"
    pair.cert_chain_pems[0].write_to_path(cert)
    key.write_text("bad")
    now = [0.0]
    files = TlsFiles(str(cert), str(key))
    context = tls.RenewedContext("crm", files, lambda *told: None, lambda: now[0])
    for _ in range(5):
        with pytest.raises(CredentialUnavailable):
            context()
        now[0] += 1
    assert loaded == []
    pair.private_key_pem.write_to_path(key)
    context()
    assert loaded == [None]
