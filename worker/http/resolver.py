"""Names to addresses, and the guard's hooks into aiohttp: what is resolved is judged, what was judged is dialled."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from worker.http.guard import Blocked, Guard
from worker.http.url import Url

THREADS: Final = 32
"""Lookups at once. A name occupies one of them however many requests wait for it."""

KNOWN_NAMES: Final = 10_000
"""Names remembered to have resolved: those used least lately are forgotten first."""

DIALLED: Final = 8
"""Addresses tried of one name; all of its answers are judged, however many."""

AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
_admitted: ContextVar[frozenset[tuple[str, int]]] = ContextVar("worker_http_admitted", default=frozenset())


class Undialled(PermissionError):
    """A socket was asked for an address nobody admitted: the hooks above it were passed by."""


def lookup(host: str) -> list[str]:
    """All addresses of a name, in the system's order. Blocks for as long as the system's resolver does."""
    answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(slots=True, eq=False)
class _Lookup:
    """One name on its way, and how many requests wait for it."""

    host: str
    known: bool
    answer: Future[list[str]]
    waiters: int = 0


class LookupThreads:
    """Threads for lookups only, so that a slow name holds up neither the loop nor anybody else's executor.

    A quarter of them is kept for names that have resolved before, which also go first at the others: any number of
    unknown names that hang leaves those alone. A known name that is given up on counts as unknown again.

    They are daemons: getaddrinfo cannot be cancelled, and one that hangs must not hold up the end of the process, as
    the threads of `concurrent.futures` would.
    """

    def __init__(
        self, run: Callable[[str], list[str]] = lookup, *, threads: int = THREADS, known_names: int = KNOWN_NAMES
    ) -> None:
        self._run = run
        self._limit = threads
        self._for_unknown = threads - threads // 4
        self._most_known = known_names
        self._known: OrderedDict[str, None] = OrderedDict()
        self._pending: dict[str, _Lookup] = {}
        self._change = Condition()  # guards all that follows, and the tables above
        self._threads = 0
        self._unknown_running = 0
        self._first: OrderedDict[str, _Lookup] = OrderedDict()
        self._later: OrderedDict[str, _Lookup] = OrderedDict()
        self._closed = False

    async def addresses(self, host: str) -> list[str]:
        """The addresses of `host`; an OSError when it has none. Concurrent calls for one name share one lookup."""
        task = self._joined(host)
        try:
            return await asyncio.shield(asyncio.wrap_future(task.answer))
        finally:
            self._left(task)

    def close(self) -> None:
        """Let the threads end when they have done what they were given; later calls are OSErrors."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _joined(self, host: str) -> _Lookup:
        with self._change:
            task = self._pending.get(host) or self._begin(host)
            task.waiters += 1
            return task

    def _begin(self, host: str) -> _Lookup:
        if self._closed:
            raise OSError("lookups are closed")
        task = self._pending[host] = _Lookup(host, host in self._known, Future())
        (self._first if task.known else self._later)[host] = task
        if self._threads < min(self._limit, len(self._pending)):
            self._threads += 1
            Thread(target=self._work, name="worker-dns", daemon=True).start()
        if task.known or self._unknown_running < self._for_unknown:  # else a thread would wake up for nothing
            self._change.notify()
        return task

    def _left(self, task: _Lookup) -> None:
        with self._change:
            task.waiters -= 1
            if not task.waiters and task.answer.cancel():  # nobody waits and no thread has begun
                del self._pending[task.host]
                del (self._first if task.known else self._later)[task.host]

    def _work(self) -> None:
        while (task := self._taken()) is not None:
            try:
                found = self._run(task.host)
            except BaseException as error:  # noqa: BLE001 (whatever it is, somebody waits for it)
                self._done(task, resolved=False)
                task.answer.set_exception(error if isinstance(error, OSError) else OSError("the lookup broke"))
            else:
                self._done(task, resolved=True)
                task.answer.set_result(found)

    def _taken(self) -> _Lookup | None:
        with self._change:
            while (task := self._next()) is None:
                if self._closed:
                    return None
                self._change.wait()
            task.answer.set_running_or_notify_cancel()
            return task

    def _next(self) -> _Lookup | None:
        if self._first:
            return self._first.popitem(last=False)[1]
        if self._later and self._unknown_running < self._for_unknown:
            self._unknown_running += 1
            return self._later.popitem(last=False)[1]
        return None

    def _done(self, task: _Lookup, *, resolved: bool) -> None:
        with self._change:
            del self._pending[task.host]
            self._known.pop(task.host, None)
            if resolved and task.waiters:  # not when it came too late for all
                self._known[task.host] = None
            if len(self._known) > self._most_known:
                self._known.popitem(last=False)
            if not task.known:
                self._unknown_running -= 1
                self._change.notify()


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
    return socket.socket(family, kind, protocol)


def results(host: str, port: int, answers: list[str]) -> list[ResolveResult]:
    """What aiohttp wants to know of `answers`, the first few of them."""
    return [_result(host, address, port) for address in answers[:DIALLED]]


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
