"""Names that change their address: one lookup per connection, and what was judged is what is dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Request
from worker.http.guard import Blocked, Guard
from worker.http.lookups import LookupThreads
from worker.http.resolver import AddrInfo, GuardedResolver, Undialled, open_pinned, pin


class Names:
    """A name server whose answers come by turns, the last one for ever; `asked` are the questions."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    @property
    def threads(self) -> LookupThreads:
        return LookupThreads(self, threads=1)


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


async def ok_and_close(exchange: Exchange) -> None:
    await exchange.answer(Connection="close")
    exchange.writer.close()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that sockets were made for."""
    seen: list[str] = []
    real = GuardedResolver.open_socket

    def open_socket(self: GuardedResolver, info: AddrInfo) -> socket.socket:
        made = real(self, info)
        seen.append(info[4][0])
        return made

    monkeypatch.setattr(GuardedResolver, "open_socket", open_socket)
    return seen


INTERNAL = [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:10.0.0.1"]]


@pytest.mark.parametrize("second", INTERNAL)
async def test_a_second_connection_is_judged_anew(serve: Serve, make_engine: MakeEngine, second: list[str]) -> None:
    target, names = await serve(ok_and_close), Names(["127.0.0.1"], second)
    engine = make_engine(guard=Guard(["127.0.0.0/8"]), names=names.threads)
    url = f"http://rebind.example:{target.port}/"
    assert (await engine.send(Request("GET", url))).status == 200
    with pytest.raises(Blocked):
        await engine.send(Request("GET", url))
    assert (names.asked, target.connections) == (["rebind.example"] * 2, 1)


async def test_a_kept_connection_asks_for_no_address(serve: Serve, make_engine: MakeEngine) -> None:
    """It stays with the address that was judged, so a changed answer leads nobody astray."""
    target, names = await serve(ok), Names(["127.0.0.1"], ["10.0.0.1"])
    engine = make_engine(names=names.threads)
    for _ in range(3):
        assert (await engine.send(Request("GET", f"http://rebind.example:{target.port}/"))).status == 200
    assert (len(names.asked), target.connections) == (1, 1)


@pytest.mark.parametrize("second", INTERNAL)
async def test_a_redirect_back_to_the_name_is_judged_anew(
    serve: Serve, make_engine: MakeEngine, second: list[str]
) -> None:
    async def back(exchange: Exchange) -> None:
        await exchange.answer(302, Location="/again", Connection="close")
        exchange.writer.close()

    target, names = await serve(back), Names(["127.0.0.1"], second)
    engine = make_engine(guard=Guard(["127.0.0.0/8"]), names=names.threads)
    with pytest.raises(Blocked):
        await engine.send(Request("GET", f"http://rebind.example:{target.port}/", redirects=3))
    assert (len(names.asked), target.connections) == (2, 1)


async def test_what_was_judged_is_dialled(
    serve: Serve, make_engine: MakeEngine, dialled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever anybody else is told about the name meanwhile: nobody asks again between judging and dialling."""
    target, names = await serve(ok), Names(["127.0.0.1"], ["10.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", _nobody_asks(socket.getaddrinfo))
    await make_engine(names=names.threads).send(Request("GET", f"http://rebind.example:{target.port}/"))
    assert (dialled, names.asked) == (["127.0.0.1"], ["rebind.example"])


def _nobody_asks(real: Callable[..., object]) -> Callable[..., object]:
    """Numbers are no questions: asyncio passes them through here."""

    def getaddrinfo(host: object, *arguments: object, **options: object) -> object:
        assert "example" not in str(host)
        return real(host, *arguments, **options)

    return getaddrinfo


async def test_what_one_request_may_dial_another_may_not() -> None:
    address: AddrInfo = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 8080))

    async def admitted() -> None:
        pin(["127.0.0.1"], 8080)
        open_pinned(address).close()

    await asyncio.create_task(admitted())
    with pytest.raises(Undialled):
        open_pinned(address)
    for other in ("127.0.0.1", 8081), ("127.0.0.2", 8080):
        pin(["127.0.0.1"], 8080)
        with pytest.raises(Undialled):
            open_pinned((socket.AF_INET, socket.SOCK_STREAM, 0, "", other))


# --- the broker and the admin listener, by names


async def test_the_broker_is_closed_when_its_name_cannot_be_resolved(serve: Serve, make_engine: MakeEngine) -> None:
    target = await serve(ok)

    def answers(host: str) -> list[str]:
        raise OSError("no such name")

    guard = Guard(["127.0.0.0/8"], forbidden_endpoints=[("rabbit.internal", target.port)])
    with pytest.raises(Blocked):
        await make_engine(guard=guard, names=LookupThreads(answers)).send(Request("GET", target.url))
    assert target.connections == 0


async def test_the_broker_is_closed_by_the_address_of_its_name(serve: Serve, make_engine: MakeEngine) -> None:
    target = await serve(ok)
    guard = Guard(["127.0.0.0/8"], forbidden_endpoints=[("rabbit.internal", target.port)])
    engine = make_engine(guard=guard, names=Names(["127.0.0.1"]).threads)
    for host in ("127.0.0.1", "127.0.0.2", "alias.example", "rabbit.internal"):
        with pytest.raises(Blocked):
            await engine.send(Request("GET", f"http://{host}:{target.port}/"))
    assert target.connections == 0


# --- what a refusal tells


async def test_a_refusal_does_not_tell_whether_anybody_listens(serve: Serve, make_engine: MakeEngine) -> None:
    """One text for all, and no socket: what does not look cannot tell, not even by the time it takes."""
    target = await serve(ok)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        told = {await refusal(make_engine, port) for port in (target.port, unused.getsockname()[1])}
    assert told == {("the address of internal.example is not allowed", "blocked_address")}
    assert target.connections == 0


async def refusal(make_engine: MakeEngine, port: int) -> tuple[str, str]:
    opened: list[object] = []
    engine = make_engine(guard=Guard(), names=Names(["127.0.0.1"]).threads)
    engine._resolver.open_socket = opened.append  # type: ignore[assignment, method-assign]
    with pytest.raises(Blocked) as caught:
        await engine.send(Request("GET", f"http://internal.example:{port}/"))
    assert opened == []
    return caught.value.detail, caught.value.code
