"""Names to addresses, and the guard's hooks into aiohttp: what is resolved is judged, what was judged is dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from worker.http.guard import Blocked, Guard
from worker.http.url import Url

THREADS: Final = 32
"""Lookups at once. A name occupies one of them however many requests wait for it."""

DIALLED: Final = 8
"""Addresses tried of one name; all of its answers are judged, however many."""

_AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
_admitted: ContextVar[frozenset[tuple[str, int]]] = ContextVar("worker_http_admitted", default=frozenset())


class Undialled(PermissionError):
    """A socket was asked for an address nobody admitted: the hooks above it were passed by."""


def lookup(host: str) -> list[str]:
    """All addresses of a name, in the system's order. Blocks for as long as the system's resolver does."""
    answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(slots=True)
class _Lookup:
    """One name on its way, and how many requests wait for it."""

    host: str
    answer: Future[list[str]]
    waiters: int = 0


class LookupThreads:
    """Threads for lookups only, so that a slow name holds up neither the loop nor anybody else's executor.

    They are daemons: getaddrinfo cannot be cancelled, and one that hangs must not hold up the end of the process, as
    the threads of `concurrent.futures` would.
    """

    def __init__(self, run: Callable[[str], list[str]] = lookup, *, threads: int = THREADS) -> None:
        self._run = run
        self._limit = threads
        self._threads = 0
        self._queue: SimpleQueue[_Lookup | None] = SimpleQueue()
        self._pending: dict[str, _Lookup] = {}

    async def addresses(self, host: str) -> list[str]:
        """The addresses of `host`; an OSError when it has none. Concurrent calls for one name share one lookup."""
        task = self._pending.get(host) or self._begin(host)
        task.waiters += 1
        try:
            return await asyncio.shield(asyncio.wrap_future(task.answer))
        finally:
            task.waiters -= 1
            if not task.waiters and task.answer.cancel():  # nobody waits and no thread has begun
                self._forget(task)

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0

    def _begin(self, host: str) -> _Lookup:
        task = self._pending[host] = _Lookup(host, Future())
        self._queue.put(task)
        if self._threads < min(self._limit, len(self._pending)):
            self._threads += 1
            Thread(target=self._work, name="worker-dns", daemon=True).start()
        return task

    def _forget(self, task: _Lookup) -> None:
        if self._pending.get(task.host) is task:
            del self._pending[task.host]

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if not task.answer.set_running_or_notify_cancel():
                continue
            try:
                found = self._run(task.host)
            except BaseException as error:  # noqa: BLE001 (whatever it is, somebody waits for it)
                self._forget(task)
                task.answer.set_exception(error)
            else:
                self._forget(task)
                task.answer.set_result(found)


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
        return [_result(host, address, port) for address in answers[:DIALLED]]

    async def close(self) -> None:
        """For aiohttp; the threads belong to whoever made them."""

    def open_socket(self, info: _AddrInfo) -> socket.socket:
        """For aiohttp: a socket for an admitted address, an Undialled for any other."""
        family, kind, protocol, _, address = info
        if (address[0], address[1]) not in _admitted.get():
            raise Undialled("an address was dialled that nobody admitted")
        return socket.socket(family, kind, protocol)

    async def _judge(self, host: str, port: int, answers: list[str]) -> None:
        _admitted.set(frozenset())
        self._guard.check(host, port, answers, await self._endpoints(host, port))
        _admitted.set(frozenset((address, port) for address in answers))

    async def _endpoints(self, host: str, port: int) -> list[str]:
        found: list[str] = []
        for name in self._guard.endpoint_names(port):
            try:
                found += await self._names.addresses(name)
            except OSError:  # then nobody can tell whether this is the broker: closed
                raise Blocked(host) from None
        return found


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
