"""Certificates of a credential: shown to its origins and to nobody else, and renewed while the engine runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.http.small_proxy import SmallProxy
from tests.http.targets import Exchange, MakeEngine, Serve, Target
from worker import MaybeSent, NotSent, Reject, Request, RequestError
from worker.http.credentials import Bearer, ClientCredentials, Credential, TlsFiles
from worker.http.engine import Engine
from worker.http.guard import Guard
from worker.http.proxy import Proxy

HOST: Final = "127.0.0.1"


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


@dataclass
class Files:
    """Certificates as an operator lays them down. The server believes `clients`."""

    directory: Path
    servers: trustme.CA = field(default_factory=trustme.CA)
    clients: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.trust(self.servers)

    @property
    def ca(self) -> str:
        return str(self.directory / "ca.pem")

    def trust(self, authority: trustme.CA) -> None:
        """From now on the credential believes this one."""
        authority.cert_pem.write_to_path(self.ca)

    def spoil_key(self) -> Callable[[], object]:
        """The key's file holds something else, until what is returned is called; from outside it looks the same."""
        path = self.directory / "client.key"
        kept, found = path.read_bytes(), path.stat()

        def write(content: bytes) -> None:
            path.write_bytes(content)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

        write(b"x" * len(kept))
        return lambda: write(kept)

    def without_key(self) -> Callable[[], object]:
        """The key's file is gone, until what is returned is called."""
        path = self.directory / "client.key"
        kept = path.read_bytes()
        path.unlink()
        return lambda: path.write_bytes(kept)

    def client(self, name: str, authority: trustme.CA | None = None) -> TlsFiles:
        """The credential's files, now of a client of this name."""
        pair = (authority or self.clients).issue_cert(f"{name}.example", common_name=name)
        cert, key = self.directory / "client.crt", self.directory / "client.key"
        pair.cert_chain_pems[0].write_to_path(cert)
        pair.private_key_pem.write_to_path(key)
        return TlsFiles(str(cert), str(key), self.ca)

    def server(self, *, wants: bool = True, name: str = HOST) -> ssl.SSLContext:
        """Of a server that asks for a client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.servers.issue_cert(name).configure_cert(context)
        if wants:
            context.verify_mode = ssl.CERT_REQUIRED
            self.clients.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def client_of(exchange: Exchange) -> str | None:
    """The name on the certificate that the client has shown."""
    shown: dict[str, Any] = exchange.writer.get_extra_info("ssl_object").getpeercert() or {}
    names = {name: value for part in shown.get("subject", ()) for name, value in part}
    return names.get("commonName")


def origin(target: Target) -> str:
    return target.url.rstrip("/")


@dataclass
class Clock:
    """Moved by hand; the files are looked at once a second."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


Make = Callable[..., Engine]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notes() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def make(make_engine: MakeEngine, clock: Clock, notes: list[tuple[str, str, str]]) -> Make:
    def make_it(*credentials: Credential, **options: Any) -> Engine:
        options.setdefault("on_credential", lambda *told: notes.append(told))
        engine = make_engine(credentials=credentials, **options)
        for context in engine.credentials._contexts.values():
            context._clock = clock
        return engine

    return make_it


async def test_a_server_that_asks_for_a_certificate_gets_it(serve: Serve, make: Make, files: Files) -> None:
    target = await serve(ok, tls=files.server())
    engine = make(Credential("crm", (origin(target),), Bearer(lambda: "s3cret"), files.client("first")))
    await engine.send(Request("GET", target.url, auth="crm"))
    assert client_of(target.seen[0]) == "first"
    assert target.seen[0].header("authorization") == "Bearer s3cret"


async def test_a_certificate_may_be_all_there_is(serve: Serve, make: Make, files: Files) -> None:
    target = await serve(ok, tls=files.server())
    engine = make(Credential("crm", (origin(target),), tls=files.client("first")))
    await engine.send(Request("GET", target.url, auth="crm"))
    assert client_of(target.seen[0]) == "first"
    assert target.seen[0].header("authorization") is None


async def test_without_the_name_it_is_not_shown(serve: Serve, make: Make, files: Files, clock: Clock) -> None:
    """The server closes; a connection that somebody with the certificate has opened is not lent to anybody else."""
    target = await serve(ok, tls=files.server())
    trusting = ssl.create_default_context(cafile=files.ca)
    engine = make(Credential("crm", (origin(target),), tls=files.client("first")), ssl_context=trusting)
    await engine.send(Request("GET", target.url, auth="crm"))
    with pytest.raises(RequestError):
        await engine.send(Request("GET", target.url))
    assert len(target.seen) == 1


async def test_the_authorities_are_believed_for_these_origins_only(serve: Serve, make: Make, files: Files) -> None:
    inside, outside = [await serve(ok, tls=files.server(wants=False)) for _ in range(2)]
    engine = make(Credential("internal", (origin(inside),), tls=TlsFiles(ca=files.ca)))
    assert (await engine.send(Request("GET", inside.url, auth="internal"))).status == 200
    for url in (inside.url, outside.url):
        with pytest.raises(Reject) as caught:
            await engine.send(Request("GET", url))
        assert caught.value.code == "tls"


async def test_only_these_authorities_are_believed(serve: Serve, make: Make, files: Files, tmp_path: Path) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(stranger)
    target = await serve(ok, tls=stranger)
    engine = make(Credential("internal", (origin(target),), tls=TlsFiles(ca=files.ca)))
    with pytest.raises(Reject) as caught:
        await engine.send(Request("GET", target.url, auth="internal"))
    assert caught.value.code == "tls"
    assert target.seen == []


async def test_a_redirect_elsewhere_shows_no_certificate(serve: Serve, make: Make, files: Files) -> None:
    async def to_there(exchange: Exchange) -> None:
        await exchange.answer(302, Location=there.url)

    optional = files.server()
    optional.verify_mode = ssl.CERT_OPTIONAL
    there = await serve(ok, tls=optional)
    here = await serve(to_there, tls=files.server())
    trusting = ssl.create_default_context(cafile=files.ca)
    engine = make(Credential("crm", (origin(here),), tls=files.client("first")), ssl_context=trusting)
    await engine.send(Request("GET", here.url, auth="crm", redirects=1))
    assert client_of(here.seen[0]) == "first"
    assert client_of(there.seen[0]) is None


async def test_renewed_files_are_shown_on_new_connections(
    serve: Serve, make: Make, files: Files, clock: Clock, notes: list[Any]
) -> None:
    target = await serve(ok, tls=files.server())
    engine = make(Credential("crm", (origin(target),), tls=files.client("first")))
    for _ in range(2):
        await engine.send(Request("GET", target.url, auth="crm"))
    files.client("second")
    await engine.send(Request("GET", target.url, auth="crm"))
    clock.now += 1.1
    await engine.send(Request("GET", target.url, auth="crm"))
    assert [client_of(seen) for seen in target.seen] == ["first", "first", "first", "second"]
    assert [seen.connection for seen in target.seen] == [0, 0, 0, 1]
    assert notes == []


async def test_renewed_authorities_count(serve: Serve, make: Make, files: Files, clock: Clock) -> None:
    target = await serve(ok, tls=files.server(wants=False))
    files.trust(trustme.CA())
    engine = make(Credential("internal", (origin(target),), tls=TlsFiles(ca=files.ca)))
    with pytest.raises(Reject):
        await engine.send(Request("GET", target.url, auth="internal"))
    files.trust(files.servers)
    clock.now += 1.1
    assert (await engine.send(Request("GET", target.url, auth="internal"))).status == 200


async def test_half_a_pair_keeps_the_last_good_one_and_is_told_once(
    serve: Serve, make: Make, files: Files, clock: Clock, notes: list[tuple[str, str, str]]
) -> None:
    target = await serve(ok, tls=files.server())
    tls = files.client("first")
    engine = make(Credential("crm", (origin(target),), tls=tls))
    await engine.send(Request("GET", target.url, auth="crm"))
    other = files.clients.issue_cert("second.example", common_name="second")
    other.cert_chain_pems[0].write_to_path(str(tls.cert))
    for _ in range(3):
        clock.now += 1.1
        await engine.send(Request("GET", target.url, auth="crm"))
    assert [(event, name) for event, name, _ in notes] == [("credential.not_reloaded", "crm")]
    other.private_key_pem.write_to_path(str(tls.key))
    clock.now += 1.1
    await engine.send(Request("GET", target.url, auth="crm"))
    assert [client_of(seen) for seen in target.seen] == ["first"] * 4 + ["second"]
    assert [event for event, _, _ in notes] == ["credential.not_reloaded", "credential.available"]


async def test_files_that_are_gone_at_first_use_are_not_sent(
    serve: Serve, make: Make, files: Files, clock: Clock, notes: list[tuple[str, str, str]]
) -> None:
    target = await serve(ok, tls=files.server())
    tls = files.client("first")
    put_back = files.without_key()
    engine = make(Credential("crm", (origin(target),), tls=tls))
    for _ in range(2):
        with pytest.raises(NotSent, match="its certificate or key cannot be used"):
            await engine.send(Request("GET", target.url, auth="crm"))
    assert [event for event, _, _ in notes] == ["credential.unavailable"]
    assert target.connections == 0
    put_back()
    clock.now += 1.1
    await engine.send(Request("GET", target.url, auth="crm"))
    assert [event for event, _, _ in notes] == ["credential.unavailable", "credential.available"]


async def test_files_that_were_bad_are_read_again_however_they_look(
    serve: Serve, make: Make, files: Files, clock: Clock
) -> None:
    """A right to read that comes later changes neither time nor size."""
    target = await serve(ok, tls=files.server())
    tls = files.client("first")
    mend = files.spoil_key()
    engine = make(Credential("crm", (origin(target),), tls=tls))
    with pytest.raises(NotSent):
        await engine.send(Request("GET", target.url, auth="crm"))
    mend()
    clock.now += 1.1
    assert (await engine.send(Request("GET", target.url, auth="crm"))).status == 200


async def test_a_certificate_the_server_does_not_know_is_no_success(serve: Serve, make: Make, files: Files) -> None:
    target = await serve(ok, tls=files.server())
    engine = make(Credential("crm", (origin(target),), tls=files.client("stranger", trustme.CA())))
    with pytest.raises((NotSent, MaybeSent)):
        await engine.send(Request("GET", target.url, auth="crm"))
    assert target.seen == []


async def test_a_token_endpoint_among_the_origins_is_met_with_the_certificate(
    serve: Serve, make: Make, files: Files
) -> None:
    async def give(exchange: Exchange) -> None:
        await exchange.answer(200, b'{"access_token": "t"}')

    tokens = await serve(give, tls=files.server())
    target = await serve(ok, tls=files.server())
    kind = ClientCredentials(f"{tokens.url}token", "me", lambda: "s3cret")
    engine = make(Credential("api", (origin(target), origin(tokens)), kind, files.client("first")))
    await engine.send(Request("GET", target.url, auth="api"))
    assert client_of(tokens.seen[0]) == "first"
    assert target.seen[0].header("authorization") == "Bearer t"


async def test_a_token_endpoint_off_the_origins_sees_no_certificate(serve: Serve, make: Make, files: Files) -> None:
    async def give(exchange: Exchange) -> None:
        await exchange.answer(200, b'{"access_token": "t"}')

    optional = files.server()
    optional.verify_mode = ssl.CERT_OPTIONAL
    tokens = await serve(give, tls=optional)
    target = await serve(ok, tls=files.server())
    kind = ClientCredentials(f"{tokens.url}token", "me", lambda: "s3cret")
    trusting = ssl.create_default_context(cafile=files.ca)
    engine = make(Credential("api", (origin(target),), kind, files.client("first")), ssl_context=trusting)
    await engine.send(Request("GET", target.url, auth="api"))
    assert client_of(tokens.seen[0]) is None
    assert client_of(target.seen[0]) == "first"
    assert target.seen[0].header("authorization") == "Bearer t"


async def test_through_a_proxy_only_the_target_sees_them(serve: Serve, make: Make, files: Files) -> None:
    name = "crm.example.com"
    target = await serve(ok, tls=files.server(name=name))
    proxy = SmallProxy(leads_to={name: target.port})
    listening = await proxy.open()
    crm = Credential("crm", (f"https://{name}",), Bearer(lambda: "s3cret"), files.client("first"))
    engine = make(crm, guard=Guard(), proxy=Proxy(HOST, proxy.port))
    await engine.send(Request("GET", f"https://{name}/", auth="crm"))
    listening.close()
    proxy.close()
    assert client_of(target.seen[0]) == "first"
    assert target.seen[0].header("authorization") == "Bearer s3cret"
    assert [asked.line for asked in proxy.asked] == [f"CONNECT {name}:443 HTTP/1.1"]
    assert "authorization" not in {header.lower() for header in proxy.asked[0].headers}
