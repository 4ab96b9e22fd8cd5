"""Proof, at every start, that the address guard is live: each hook is asked for what it must refuse."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import aiohttp

from worker import Reject, Request, RequestError, Response
from worker.http.guard import Blocked
from worker.http.lookups import LookupThreads
from worker.http.proxy import Proxy, ProxyFailed
from worker.http.resolver import Undialled

SECONDS: Final = 2.0
_LOOPBACK: Final = "127.0.0.1"


class GuardNotLive(RuntimeError):
    """The HTTP engine could reach an address nobody allowed: the worker must not start."""

    def __init__(self, hook: str) -> None:
        super().__init__(f"the address guard is not live: {hook} lets pass what nobody allowed")


class GuardNotProven(RuntimeError):
    """A request failed before a hook of the guard was asked, so nobody knows whether it holds."""

    def __init__(self, hook: str, error: Exception) -> None:
        super().__init__(f"the address guard is not proven: {hook} was not asked, for the request failed: {error}")


class Sends(Protocol):
    """As much of an engine as is tested."""

    async def send(self, request: Request) -> Response: ...
    async def aclose(self) -> None: ...


Shut = Callable[[LookupThreads, Proxy | None], Sends]
"""Makes an engine that allows nothing, with these names and this proxy."""


async def prove_guard(shut: Shut, session: aiohttp.ClientSession, *, proxied: bool) -> None:
    """GuardNotLive when a hook does not hold, GuardNotProven when that could not be found out.

    What is dialled, if one does not hold, is a listener of this function's own.
    """
    with socket.create_server((_LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        port: int = listener.getsockname()[1]
        proxy = Proxy(_LOOPBACK, port) if proxied else None
        hooks = {
            "the check of addresses in URLs": partial(_blocks, shut, f"http://{_LOOPBACK}:{port}/", proxy, _LOOPBACK),
            "the check of names": partial(_blocks, shut, f"http://localhost:{port}/", proxy, "localhost"),
            "the check of what is dialled": partial(_dials_nothing, session, f"http://{_LOOPBACK}:{port}/"),
        }
        for hook, holds in hooks.items():
            try:
                is_live = await holds()
            except (RequestError, Reject, aiohttp.ClientError, TimeoutError) as error:
                if not _was_reached(listener):
                    raise GuardNotProven(hook, error) from None
                is_live = False
            if not is_live or _was_reached(listener):
                raise GuardNotLive(hook)


async def _blocks(shut: Shut, url: str, proxy: Proxy | None, host: str) -> bool:
    """Whether it is the guard that refuses, and knows what: the last hook alone knows no host."""
    engine = shut(LookupThreads(lambda _: [_LOOPBACK], threads=1), proxy)
    try:
        await engine.send(Request("GET", url, timeout=SECONDS))
    except Blocked as blocked:
        return blocked.host == host
    finally:
        await engine.aclose()
    return False


async def _dials_nothing(session: aiohttp.ClientSession, url: str) -> bool:
    """Past the first hooks, as if somebody had removed them: the last one must hold, whatever is allowed."""
    bound = aiohttp.ClientTimeout(total=SECONDS)
    try:
        async with session.get(url, timeout=bound):
            return False
    except ProxyFailed:
        return False
    except aiohttp.ClientConnectorError as error:
        return isinstance(error.__cause__, Undialled)


def _was_reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True
