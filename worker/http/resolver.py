"""The guard's hooks into aiohttp: what is resolved is judged, what was judged is dialled."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from worker.http.guard import Blocked, Guard
from worker.http.lookups import LookupThreads
from worker.http.url import Url

DIALLED: Final = 8
"""Addresses tried of one name; all of its answers are judged, however many."""

AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
_admitted: ContextVar[frozenset[tuple[str, int]]] = ContextVar("worker_http_admitted", default=frozenset())


class Undialled(PermissionError):
    """A socket was asked for an address nobody admitted: the hooks above it were passed by."""


class _Dialled(socket.socket):
    """Closes nothing that is no longer its own.

    When the peer resets before the ClientHello is out, uvloop (0.23) has closed the number before it takes this object
    for it, and tells it nothing of that. Whatever connection has the number by now would be closed with this object.
    """

    def __del__(self) -> None:
        if self._io_refs:  # type: ignore[attr-defined] # held by a transport: all that is collected with it is this
            self.detach()
        else:
            super().__del__()  # type: ignore[misc] # the C class has it


class GuardedResolver(AbstractResolver):
    """Resolves, asks the guard, and pins: the sockets of this request may only dial what was admitted here.

    aiohttp asks no resolver about IP literals, so the engine calls `admit` for every request, and `open_socket` has
    the last word on every address that is dialled.
    """

    def __init__(self, guard: Guard, names: LookupThreads) -> None:
        self._guard = guard
        self._names = names

    async def admit(self, url: Url) -> None:
        """Judge an IP literal; a name is judged when it is resolved. Blocked when it may not be reached."""
        pin((), 0)
        if url.literal is not None:
            await self._judge(url.host, url.port, [url.host])

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 (aiohttp names it; both are asked for)
    ) -> list[ResolveResult]:
        """For aiohttp. Blocked when any answer may not be reached, an OSError when there is none."""
        answers = await self._names.addresses(host)
        await self._judge(host, port, answers)
        return results(host, port, answers)

    async def close(self) -> None:
        """For aiohttp; the threads belong to whoever made them."""

    def open_socket(self, info: AddrInfo) -> socket.socket:
        """For aiohttp: a socket for an admitted address, an Undialled for any other."""
        return open_pinned(info)

    async def _judge(self, host: str, port: int, answers: list[str]) -> None:
        pin((), 0)
        self._guard.check(host, port, answers, await endpoints(self._guard, self._names, host, port))
        pin(answers, port)


async def endpoints(guard: Guard, names: LookupThreads, host: str, port: int) -> list[str]:
    """The addresses of the forbidden endpoints on this port that are known by name; Blocked when they have none."""
    found: list[str] = []
    for name in guard.endpoint_names(port):
        try:
            found += await names.addresses(name)
        except OSError:  # then nobody can tell whether this is the broker: closed
            raise Blocked(host) from None
    return found


def pin(addresses: Iterable[str], port: int) -> None:
    """From now on this task may dial these and nothing else."""
    _admitted.set(frozenset((address, port) for address in addresses))


def is_pinned(host: str, port: int) -> bool:
    """Whether this task may dial it."""
    return (host, port) in _admitted.get()


def open_pinned(info: AddrInfo) -> socket.socket:
    """A socket for an address this task may dial; an Undialled for any other."""
    family, kind, protocol, _, address = info
    if not is_pinned(address[0], address[1]):
        raise Undialled("an address was dialled that nobody admitted")
    return _Dialled(family, kind, protocol)


def results(host: str, port: int, answers: list[str]) -> list[ResolveResult]:
    """What aiohttp wants to know of `answers`, the first few of them."""
    return [_result(host, address, port) for address in answers[:DIALLED]]


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
