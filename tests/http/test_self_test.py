"""The proof at start-up that the guard is live: it fails when any one of the hooks is taken away."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.http.targets import MakeEngine
from worker.http import guard, proxy, resolver, self_test
from worker.http.engine import Engine
from worker.http.lookups import LookupThreads
from worker.http.proxy import Proxy
from worker.http.self_test import GuardNotLive, GuardNotProven

Take = Callable[[pytest.MonkeyPatch], None]
PROXY = Proxy("127.0.0.1", 9)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to be waited for: its listener answers nobody."""
    monkeypatch.setattr(self_test, "SECONDS", 0.5)


async def test_it_passes_and_sends_nothing(engine: Engine, make_engine: MakeEngine) -> None:
    await engine.self_test()
    await make_engine(proxy=PROXY).self_test()


def no_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard.Guard, "check", lambda *arguments: None)


def no_check_of_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard.Guard, "check_name", lambda *arguments: None)


def no_admission(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resolver.GuardedResolver, "admit", nothing)


def no_admission_to_the_proxy(patch: pytest.MonkeyPatch) -> None:
    async def admit(self: proxy.ProxiedResolver, url: Any) -> None:
        resolver.pin(["127.0.0.1"], url.port)

    patch.setattr(proxy.ProxiedResolver, "admit", admit)


def no_judgement_of_names(patch: pytest.MonkeyPatch) -> None:
    async def resolve(self: resolver.GuardedResolver, host: str, port: int = 0, family: int = 0) -> Any:
        resolver.pin(["127.0.0.1"], port)
        return resolver.results(host, port, ["127.0.0.1"])

    patch.setattr(resolver.GuardedResolver, "resolve", resolve)


def no_look_at_sockets(patch: pytest.MonkeyPatch) -> None:
    for one in (resolver.GuardedResolver, proxy.ProxiedResolver):
        patch.setattr(one, "open_socket", lambda self, info: socket.socket(*info[:3]))


def without(*options: str) -> Take:
    """As if aiohttp no longer knew these options of its connector."""

    def take(patch: pytest.MonkeyPatch) -> None:
        real = aiohttp.TCPConnector.__init__

        def init(self: Any, **given: Any) -> None:
            real(self, **{name: value for name, value in given.items() if name not in options})

        patch.setattr(aiohttp.TCPConnector, "__init__", init)

    return take


async def nothing(*arguments: Any) -> None:
    """A hook that lets all pass."""


DIRECT: list[Take] = [no_check, no_admission, no_judgement_of_names, no_look_at_sockets]
PROXIED: list[Take] = [no_check, no_check_of_names, no_admission_to_the_proxy, no_look_at_sockets]


@pytest.mark.parametrize("take", [*DIRECT, without("resolver"), without("socket_factory")])
async def test_it_fails_when_a_hook_is_gone(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, take: Take
) -> None:
    take(monkeypatch)
    with pytest.raises(GuardNotLive, match="guard is not live"):
        await make_engine().self_test()


@pytest.mark.parametrize("take", [*PROXIED, without("socket_factory")])
async def test_it_fails_when_a_hook_is_gone_before_a_proxy(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, take: Take
) -> None:
    take(monkeypatch)
    with pytest.raises(GuardNotLive, match="guard is not live"):
        await make_engine(proxy=PROXY).self_test()


async def test_a_request_that_fails_otherwise_is_no_passage(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator is not told that his guard is open when, say, there are no more files to be had."""

    async def addresses(self: LookupThreads, host: str) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(LookupThreads, "addresses", addresses)
    with pytest.raises(GuardNotProven, match="names was not asked, for the request failed: the name was not resolved"):
        await make_engine().self_test()
