"""The way out through a proxy: it alone is dialled, and names are judged by what they say."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trustme

from tests.http.small_proxy import SmallProxy
from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Limits, MaybeSent, NotInTime, NotSent, Reject, Request, RequestError
from worker.http.engine import Engine
from worker.http.guard import Blocked, Guard
from worker.http.lookups import LookupThreads
from worker.http.proxy import Proxy

MakeProxy = Callable[..., Awaitable[SmallProxy]]

HOST = "api.example.com"
PASSWORD = "canary:p@ss"


@pytest.fixture
async def make_proxy() -> AsyncIterator[MakeProxy]:
    opened: list[tuple[SmallProxy, asyncio.Server]] = []

    async def make(**options: object) -> SmallProxy:
        proxy = SmallProxy(**options)  # type: ignore[arg-type]
        opened.append((proxy, await proxy.open()))
        return proxy

    yield make
    for proxy, server in opened:
        server.close()
        proxy.close()
    await asyncio.sleep(0)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def unasked(host: str) -> list[str]:
    raise AssertionError(f"{host} was looked up here")


def through(make_engine: MakeEngine, proxy: SmallProxy, guard: Guard | None = None, **options: object) -> Engine:
    """An engine whose only way out is `proxy`, which allows nothing, and knows no name."""
    options.setdefault("names", LookupThreads(unasked))
    return make_engine(guard=guard or Guard(), proxy=Proxy("127.0.0.1", proxy.port), **options)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


# --- what it carries


async def test_plain_http_goes_in_absolute_form(serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy) -> None:
    target = await serve(ok)
    proxy = await make_proxy(leads_to={HOST: target.port})
    answer = await through(make_engine, proxy).send(Request("POST", f"http://{HOST}/a%2fb?q=%7e+c", body=b"hello"))
    assert answer.status == 200
    assert [asked.line for asked in proxy.asked] == [f"POST http://{HOST}/a%2fb?q=%7e+c HTTP/1.1"]
    assert (target.seen[0].header("host"), target.seen[0].body) == (HOST, b"hello")


async def test_https_goes_through_a_tunnel_with_the_name_kept(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy, authority: trustme.CA
) -> None:
    """The proxy sees host and port and nothing else; the certificate is checked against the name."""
    target = await serve(ok, tls=serving(authority, HOST))
    proxy = await make_proxy(leads_to={HOST: target.port, "other.example.com": target.port})
    engine = through(make_engine, proxy, ssl_context=trusting(authority))
    for host in (HOST, f"{HOST}."):
        assert (await engine.send(Request("GET", f"https://{host}/secret?token=1"))).status == 200
    assert [asked.line for asked in proxy.asked] == [f"CONNECT {host}:443 HTTP/1.1" for host in (HOST, f"{HOST}.")]
    assert set(proxy.asked[0].headers) <= {"host", "user-agent", "accept", "accept-encoding"}
    with pytest.raises(Reject) as caught:
        await engine.send(Request("GET", "https://other.example.com/"))
    assert caught.value.code == "tls"
    assert len(target.seen) == 2


async def test_a_connection_is_used_again(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy, authority: trustme.CA
) -> None:
    plain, secure = await serve(ok), await serve(ok, tls=serving(authority, HOST))
    proxy = await make_proxy(leads_to={"plain.example.com": plain.port, HOST: secure.port}, login="u:p")
    engine = make_engine(guard=Guard(), proxy=Proxy("127.0.0.1", proxy.port, "u", "p"), ssl_context=trusting(authority))
    for _ in range(3):
        assert (await engine.send(Request("GET", "http://plain.example.com/"))).status == 200
        assert (await engine.send(Request("GET", f"https://{HOST}/"))).status == 200
    assert (proxy.connections, secure.connections, len(secure.seen)) == (2, 1, 3)


async def test_only_the_proxy_is_dialled(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the target, not what the environment names; by its name, too, which alone is looked up here."""
    target, other = await serve(ok), await make_proxy()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*" if name.lower() == "no_proxy" else f"http://127.0.0.1:{other.port}/")
    proxy = await make_proxy(leads_to={HOST: target.port})
    asked: list[str] = []

    def answers(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    names = LookupThreads(answers)
    engine = make_engine(guard=Guard(), proxy=Proxy("Proxy.Internal", proxy.port), names=names)
    assert (await engine.send(Request("GET", f"http://{HOST}/"))).status == 200
    assert (asked, other.connections, proxy.connections) == (["proxy.internal"], 0, 1)
    await engine.self_test()


async def test_a_redirect_goes_by_the_proxy_and_is_judged(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(302, Location=exchange.line.split(" ")[1].removeprefix("/"))

    target = await serve(script)
    proxy = await make_proxy(leads_to={HOST: target.port, "b.example.com": target.port})
    engine = through(make_engine, proxy)
    answer = await engine.send(Request("GET", f"http://{HOST}/http://b.example.com/", redirects=1))
    assert (answer.status, answer.url) == (302, "http://b.example.com/")
    for there in ("http://10.0.0.1/", "http://metadata.google.internal/", "http://intranet/"):
        with pytest.raises(Blocked):
            await engine.send(Request("GET", f"http://{HOST}/{there}", redirects=3))
    assert len(proxy.asked) == 5


# --- who is told the login


async def test_the_login_goes_to_the_proxy_and_nobody_else(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy, authority: trustme.CA
) -> None:
    plain, secure = await serve(ok), await serve(ok, tls=serving(authority, HOST))
    proxy = await make_proxy(leads_to={"plain.example.com": plain.port, HOST: secure.port}, login=f"u:{PASSWORD}")
    engine = make_engine(
        guard=Guard(), proxy=Proxy("127.0.0.1", proxy.port, "u", PASSWORD), ssl_context=trusting(authority)
    )
    await engine.send(Request("GET", "http://plain.example.com/"))
    await engine.send(Request("GET", f"https://{HOST}/"))
    assert all(asked.login for asked in proxy.asked)
    for target in (plain, secure):
        assert [seen.header("proxy-authorization") or seen.header("authorization") for seen in target.seen] == [None]
    assert PASSWORD not in repr(Proxy("h", 1, "u", PASSWORD))


@pytest.mark.parametrize("login", [None, ("u", "wrong")])
async def test_a_refused_login_is_said_and_not_shown(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy, login: tuple[str, str] | None
) -> None:
    """Surely not sent where a tunnel was asked for; with plain http the 407 might be the target's."""
    proxy = await make_proxy(login=f"u:{PASSWORD}")
    engine = make_engine(guard=Guard(), proxy=Proxy("127.0.0.1", proxy.port, *(login or ())))
    for scheme, error in (("https", NotSent), ("http", MaybeSent)):
        with pytest.raises(error) as caught:
            await engine.send(Request("GET", f"{scheme}://{HOST}/"))
        assert str(caught.value) == "the proxy wants a user and password that it knows (407)"


async def test_a_407_of_the_target_in_a_tunnel_is_an_answer(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy, authority: trustme.CA
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(407)

    target = await serve(script, tls=serving(authority, HOST))
    proxy = await make_proxy(leads_to={HOST: target.port})
    engine = through(make_engine, proxy, ssl_context=trusting(authority))
    assert (await engine.send(Request("GET", f"https://{HOST}/"))).status == 407


# --- when it fails


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ncanary", "the proxy refused to connect (403)"),
        (b"HTTP/1.1 502 canary\r\nContent-Length: 0\r\n\r\n", "the proxy refused to connect (502)"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n",
         "the proxy refused to connect (302)"),
        (b"canary\r\n\r\n", "the proxy did not answer as one"),
        (b"", "the proxy did not answer as one"),
    ],
)  # fmt: skip
async def test_a_tunnel_that_is_refused_was_not_sent(
    make_engine: MakeEngine, make_proxy: MakeProxy, answer: bytes, text: str
) -> None:
    proxy = await make_proxy(answer=answer)
    with pytest.raises(NotSent) as caught:
        await through(make_engine, proxy).send(Request("POST", f"https://{HOST}/", body=b"x"))
    assert str(caught.value) == text
    assert (len(proxy.asked), proxy.connections) == (1, 1)


async def test_a_proxy_that_is_not_there_was_not_sent(make_engine: MakeEngine) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for scheme in ("http", "https"):
            engine = make_engine(guard=Guard(), proxy=Proxy("127.0.0.1", unused.getsockname()[1]))
            with pytest.raises(NotSent, match=r"^the proxy was not reached \(ECONNREFUSED\)$"):
                await engine.send(Request("GET", f"{scheme}://{HOST}/"))


async def test_a_proxy_whose_name_is_unknown_was_not_sent(make_engine: MakeEngine) -> None:
    def answers(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "canary")

    engine = make_engine(guard=Guard(), proxy=Proxy("proxy.example", 3128), names=LookupThreads(answers))
    with pytest.raises(NotSent, match=r"^the name of the proxy was not resolved$"):
        await engine.send(Request("GET", f"https://{HOST}/"))


async def test_a_proxy_that_never_answers_ends_at_the_connect_timeout(serve: Serve, make_engine: MakeEngine) -> None:
    silent = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await silent.wait()

    target = await serve(script)
    engine = make_engine(Limits(connect_timeout=0.2), guard=Guard(), proxy=Proxy("127.0.0.1", target.port))
    with pytest.raises(NotInTime):
        await engine.send(Request("POST", f"https://{HOST}/", body=b"x", timeout=30))
    silent.set()


async def test_after_a_redirect_a_proxy_that_fails_is_never_not_sent(
    serve: Serve, make_engine: MakeEngine, make_proxy: MakeProxy
) -> None:
    async def script(exchange: Exchange) -> None:
        proxy.answer = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
        await exchange.answer(302, Location=f"https://{HOST}/")

    target = await serve(script)
    proxy = await make_proxy(leads_to={HOST: target.port})
    with pytest.raises(MaybeSent):
        await through(make_engine, proxy).send(Request("GET", f"http://{HOST}/", redirects=1))


# --- what it may be asked for

BLOCKED = [
    *("localhost", "LOCALHOST.", "a.localhost", "localhost.localdomain", "intranet", "db", "printer.local", "wpad"),
    *("vault.internal", "a.b.corp", "nas.home.arpa", "router.lan", "wiki.intranet", "x.home", "db.private"),
    *("kubernetes.default.svc", "a.svc.cluster.local", "db.service.consul", "1.0.0.127.in-addr.arpa"),
    *("metadata.google.internal", "metadata.goog", "metadata", "instance-data", "metadata.azure.com"),
    *("127.0.0.1.nip.io", "10-0-0-1.sslip.io", "localtest.me", "a.lvh.me"),
    *("127.0.0.1", "0x7f.1", "10.0.0.1", "169.254.169.254", "[::1]", "[fd00:ec2::254]", "0", "[64:ff9b::10.0.0.1]"),
]


async def test_names_and_literals_of_inner_networks_are_blocked(make_engine: MakeEngine, make_proxy: MakeProxy) -> None:
    proxy = await make_proxy()
    engine = through(make_engine, proxy)
    for host in BLOCKED:
        for scheme in ("http", "https"):
            with pytest.raises(Blocked):
                await engine.send(Request("GET", f"{scheme}://{host}/"))
    for port in (0, 22, 25, 1023):
        with pytest.raises(Blocked):
            await engine.send(Request("GET", f"http://{HOST}:{port}/"))
    assert proxy.connections == 0


NAMES: list[tuple[list[str], str, int, bool]] = [
    ([], HOST, 80, True),
    ([], HOST, 443, True),
    ([], HOST, 8443, True),
    ([], "local.example.com", 80, True),
    ([], "internal.com", 80, True),
    ([], "xn--bcher-kva.example.com", 80, True),
    (["vault.internal"], "vault.internal", 22, True),
    (["vault.internal"], "VAULT.internal.", 8200, True),
    (["vault.internal"], "a.vault.internal", 80, False),
    (["db"], "db", 5432, True),
    (["db"], "db", 0, False),
    # as without a proxy: a name never opens loopback or metadata
    (["localhost"], "localhost", 80, False),
    (["a.localhost"], "a.localhost", 80, False),
    (["metadata.google.internal"], "metadata.google.internal", 80, False),
]


@pytest.mark.parametrize(("hosts", "host", "port", "open_"), NAMES)
def test_decisions_by_name(hosts: list[str], host: str, port: int, open_: bool) -> None:
    guard = Guard([], hosts)
    if open_:
        guard.check_name(host, port)
    else:
        with pytest.raises(Blocked):
            guard.check_name(host, port)


async def test_the_brokers_and_the_admins_place_is_blocked(make_engine: MakeEngine, make_proxy: MakeProxy) -> None:
    """By name, by address, and by a name that leads there as far as this machine knows; others are not looked up."""
    proxy = await make_proxy()
    known = {"rabbit.example.com": ["10.7.7.7"], "alias.example.com": ["10.7.7.7"], "own.example.com": ["127.0.0.1"]}

    def answers(host: str) -> list[str]:
        if host not in known:
            raise OSError("no such name")
        return known[host]

    guard = Guard(
        ["0.0.0.0/0", "::/0"],
        ["rabbit.example.com", "alias.example.com"],
        [("rabbit.example.com", 5672), ("127.0.0.1", 8080)],
    )
    engine = through(make_engine, proxy, guard, names=LookupThreads(answers))
    for host in ("rabbit.example.com", "Rabbit.example.com.", "alias.example.com", "10.7.7.7", "[::ffff:10.7.7.7]"):
        with pytest.raises(Blocked):
            await engine.send(Request("GET", f"http://{host}:5672/"))
    for host in ("own.example.com", "127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]"):
        with pytest.raises(Blocked):
            await engine.send(Request("GET", f"http://{host}:8080/"))
    assert proxy.connections == 0
    for url in ("http://elsewhere.example.com:5672/", "http://alias.example.com:8081/"):
        with pytest.raises(RequestError):  # the proxy knows neither
            await engine.send(Request("GET", url))
    assert [asked.line.split(" ")[1] for asked in proxy.asked] == [
        "http://elsewhere.example.com:5672/",
        "http://alias.example.com:8081/",
    ]
