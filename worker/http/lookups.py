"""Names to addresses, on threads of their own: a slow name holds up neither the loop nor another name."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Final

THREADS: Final = 32
"""Lookups at once. A name occupies one of them however many requests wait for it."""

PATIENCE: Final = 1.0
"""Seconds after which a lookup is given up on, as far as threads go: whoever waits for it goes on waiting."""

GIVEN_UP: Final = 64
"""Threads that may hang in lookups that were given up on, besides the others."""

KNOWN_NAMES: Final = 10_000
"""Names remembered to have resolved: those used least lately are forgotten first."""

FAILURES: Final = 3
"""Failures in a row after which a known name is an unknown one: one of them may be the name server's."""


def lookup(host: str) -> list[str]:
    """All addresses of a name, in the system's order. Blocks for as long as the system's resolver does."""
    answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(slots=True, eq=False)
class _Lookup:
    """One name on its way, how many requests wait for it, and since when a thread is at it (monotonic)."""

    host: str
    known: bool
    answer: Future[list[str]]
    waiters: int = 0
    since: float | None = None
    given_up: bool = False


class LookupThreads:
    """Threads for lookups only. Make them anywhere; use them in one event loop.

    A quarter of them is kept for names that have resolved before, which also go first at the others: any number of
    unknown names that hang leaves those alone. A lookup that takes longer than `patience` (seconds), or that nobody
    waits for any more, is given up on: its name counts as unknown, and another thread takes the place of the one that
    hangs, as long as there are no more than `given_up` of these. Unknown names may use up half of them.

    They are daemons: getaddrinfo cannot be cancelled, and one that hangs must not hold up the end of the process, as
    the threads of `concurrent.futures` would.
    """

    def __init__(
        self,
        run: Callable[[str], list[str]] = lookup,
        *,
        threads: int = THREADS,
        given_up: int = GIVEN_UP,
        patience: float = PATIENCE,
        known_names: int = KNOWN_NAMES,
    ) -> None:
        self._run = run
        self._limit = threads
        self._for_unknown = threads - threads // 4
        self._most_given_up = given_up
        self._patience = patience
        self._most_known = known_names
        self._known: OrderedDict[str, int] = OrderedDict()  # and how often each has failed since
        self._pending: dict[str, _Lookup] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._change = Condition()  # guards all that follows, and the tables above
        self._threads = 0
        self._given_up = 0
        self._running: dict[_Lookup, None] = {}
        self._unknown_running = 0
        self._first: OrderedDict[str, _Lookup] = OrderedDict()
        self._later: OrderedDict[str, _Lookup] = OrderedDict()
        self._closed = False

    async def addresses(self, host: str) -> list[str]:
        """The addresses of `host`; an OSError when it has none. Concurrent calls for one name share one lookup."""
        task = self._joined(host)
        if self._watch is None:
            self._watch_soon()
        try:
            return await asyncio.shield(asyncio.wrap_future(task.answer))
        finally:
            self._left(task)

    def close(self) -> None:
        """Let the threads end when they have done what they were given; later calls are OSErrors."""
        if self._watch is not None:
            self._watch.cancel()
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
            self._start_thread()
        if task.known or self._unknown_running < self._for_unknown:  # else a thread would wake up for nothing
            self._change.notify()
        return task

    def _left(self, task: _Lookup) -> None:
        with self._change:
            task.waiters -= 1
            if not task.waiters and task.answer.cancel():  # nobody waits and no thread has begun
                del self._pending[task.host]
                del (self._first if task.known else self._later)[task.host]

    def _start_thread(self) -> None:
        self._threads += 1
        Thread(target=self._work, name="worker-dns", daemon=True).start()

    # --- in the threads

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
            if task.given_up:  # another thread has this one's place
                return

    def _taken(self) -> _Lookup | None:
        with self._change:
            while (task := self._next()) is None:
                if self._closed:
                    return None
                self._change.wait()
            task.answer.set_running_or_notify_cancel()
            task.since = time.monotonic()
            self._running[task] = None
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
            if task.given_up:
                self._given_up -= 1
                return
            self._remember(task, resolved=resolved)
            self._free(task)

    def _remember(self, task: _Lookup, *, resolved: bool) -> None:
        """Which names are known: those that have resolved while somebody waited, until they fail again and again."""
        host = task.host
        failures = 0 if resolved else self._known.get(host, FAILURES) + 1
        if failures >= FAILURES:
            self._known.pop(host, None)
        elif task.waiters or host in self._known:
            self._known[host] = failures
            self._known.move_to_end(host)
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)

    def _free(self, task: _Lookup) -> None:
        del self._running[task]
        if not task.known:
            self._unknown_running -= 1
            self._change.notify()

    # --- in the loop

    def _watch_soon(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(self._patience / 4, self._look)

    def _look(self) -> None:
        """Give up on what hangs, now and again for as long as anything is on its way."""
        self._watch = None
        with self._change:
            for task in [one for one in self._running if self._hangs(one)]:
                self._give_up(task)
            is_needed = bool(self._running or self._first or self._later)
        if is_needed:
            self._watch_soon()

    def _hangs(self, task: _Lookup) -> bool:
        return not task.waiters or (task.since is not None and time.monotonic() - task.since >= self._patience)

    def _give_up(self, task: _Lookup) -> None:
        if self._given_up >= (self._most_given_up if task.known else self._most_given_up // 2):
            return
        task.given_up = True
        self._given_up += 1
        self._known.pop(task.host, None)
        self._free(task)
        self._threads -= 1
        if self._first or self._later:
            self._start_thread()
