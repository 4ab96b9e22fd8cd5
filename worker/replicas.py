"""The parent: starts the worker processes, starts them again when they die, answers probes, hands signals on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from worker.link import Child, how_it_ended, start_child
from worker.ops.admin import Check
from worker.ops.snapshots import Snapshot, exposition, totals
from worker.runtime.pausing import BY_HAND, Paused

log = structlog.get_logger("worker.replicas")

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 30.0
HEALTHY_AFTER: Final = 60.0
"""Seconds a process must have lived for the next restart to be at once again."""

SILENT_AFTER: Final = 20.0
"""Seconds without a word from a process until its loop counts as stuck."""

UNREADY_AFTER: Final = 8.0
"""Seconds without a word from a process until nobody can say that it consumes. It says something every two."""

ORDER_SECONDS: Final = 3.0
"""Longest wait for a process to do what an operator orders; it does so later then."""

KILL_AFTER: Final = 1.0
"""Seconds beyond the grace until a process that does not end is killed."""


# What goes over the line between parent and child.


@dataclass(frozen=True, slots=True)
class Started:
    """The child consumes. `facts` are for the start-up line."""

    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The child cannot start and ends with `code`; `text` says why."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class State:
    """How the child is; sent every few seconds and whenever it changes."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """The parent wants `metrics` or `jobs`."""

    what: str


@dataclass(frozen=True, slots=True)
class Pause:
    """The parent wants exactly this paused. The first word to every child, which answers all but that."""

    paused: Paused


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to the oldest `Ask` or `Pause`."""

    value: Any


@dataclass(slots=True)
class _Replica:
    number: int
    child: Child | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    heard: float = 0.0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    failed: Failed | None = None
    is_up: bool = False
    """Whether this child has said that it consumes."""
    asked: list[asyncio.Future[Any]] = field(default_factory=list)
    metrics: Snapshot = field(default_factory=list)

    async def ask(self, word: Ask | Pause) -> Any:
        """The child's answer; a ConnectionError when there is no child to give one."""
        if self.child is None:
            raise ConnectionError("no process")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        self.child.link.send(word)
        return await answer


class Replicas:
    """`count` child processes of `command`, each given the order `order(number)`.

    Fulfils `worker.ops.admin.AdminSource`: it adds its children up. `grace` is the drain's, in seconds.
    """

    def __init__(self, command: Sequence[str], order: Callable[[int], Any], count: int, grace: float) -> None:
        self._command = tuple(command)
        self._order_for = order
        self._grace = grace
        self._replicas = [_Replica(number) for number in range(count)]
        self._keepers: list[asyncio.Task[int]] = []
        self._stopping = asyncio.Event()
        self._killed = False
        self._gone: Snapshot = []
        self._paused = Paused()

    async def start(self) -> Mapping[str, Any] | Failed:
        """Start all; what the first of them tells of itself, or why one of them cannot."""
        self._keepers = [asyncio.create_task(self._keep(replica)) for replica in self._replicas]
        up = [asyncio.create_task(replica.started.wait()) for replica in self._replicas]
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({asyncio.create_task(_all(up)), stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        failures = [replica.failed for replica in self._replicas if replica.failed is not None]
        return failures[0] if failures else self._replicas[0].state

    @property
    def stopping(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let all drain; a second call ends them at once."""
        again = self._stopping.is_set()
        self._stopping.set()
        self._killed = again
        for replica in self._replicas:
            if replica.child is not None:
                replica.child.signal(signal.SIGKILL if again else signal.SIGTERM)

    async def ended(self) -> int:
        """The exit code once all have ended: 0 when every one of them drained."""
        codes = await asyncio.gather(*self._keepers)
        return 1 if self._killed else max((abs(code) and 1 for code in codes), default=0)

    # What probes and scrapers ask.

    async def live(self) -> Check:
        now = asyncio.get_running_loop().time()
        stuck = [
            replica.number
            for replica in self._replicas
            if replica.child is not None and replica.started.is_set() and now - replica.heard > SILENT_AFTER
        ]
        return Check(not stuck, {"replicas": len(self._replicas), "stuck": stuck})

    async def ready(self) -> Check:
        since = asyncio.get_running_loop().time() - UNREADY_AFTER
        states = [replica.state if replica.child and replica.heard > since else {} for replica in self._replicas]
        consuming = sum(bool(state.get("consuming")) and not state.get("draining") for state in states)
        ok = consuming == len(states) and not self._stopping.is_set()
        detail = {"consuming": consuming, "replicas": len(states), "draining": self._stopping.is_set()}
        held = sum(int(state.get("copies_held", 0)) for state in states)
        blocked = any(state.get("publishing_blocked") for state in states)
        told = [str(state["trouble"]) for state in states if state.get("trouble")]
        trouble = {"trouble": list(dict.fromkeys(told))} if told else {}
        return Check(ok, detail | {"publishing_blocked": blocked, "copies_held": held} | trouble | self._pauses(states))

    async def metrics(self) -> str:
        for replica in self._replicas:
            with contextlib.suppress(ConnectionError):
                replica.metrics = await replica.ask(Ask("metrics"))
        snapshots = [self._gone, *(replica.metrics for replica in self._replicas)]
        return await asyncio.to_thread(exposition, snapshots)

    async def jobs(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for replica in self._replicas:
            with contextlib.suppress(ConnectionError):
                rows += [{"replica": replica.number, **row} for row in await replica.ask(Ask("jobs"))]
        return rows

    # What operators order.

    async def pause(self, key: str | None) -> dict[str, Any]:
        """Stop consuming on every process, or hold a key back; whoever is started later does so, too."""
        return await self._order(self._paused.pausing(key), "worker.paused", key)

    async def resume(self, key: str | None) -> dict[str, Any]:
        """Consume again, or let go of a key."""
        return await self._order(self._paused.resuming(key), "worker.resumed", key)

    async def _order(self, paused: Paused, event: str, key: str | None) -> dict[str, Any]:
        changed, self._paused = paused != self._paused, paused
        if changed:
            log.info(event, **({} if key is None else {"key": key}))
        done = await asyncio.gather(*(self._obeyed(replica) for replica in self._replicas))
        return {
            "changed": changed,
            "paused": paused.everything,
            "paused_keys": sorted(paused.keys),
            "replicas": len(done),
            "done": sum(done),
        }

    async def _obeyed(self, replica: _Replica) -> bool:
        try:
            async with asyncio.timeout(ORDER_SECONDS):
                await replica.ask(Pause(self._paused))
        except (ConnectionError, TimeoutError):  # one that is being started, or is busy: it does so in time
            return False
        return True

    def _pauses(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        why = (
            BY_HAND
            if self._paused.everything
            else next((state["paused"] for state in states if state.get("paused")), "")
        )
        keys = {"paused_keys": sorted(self._paused.keys)} if self._paused.keys else {}
        return ({"paused": why} if why else {}) | keys

    # One replica's life.

    async def _keep(self, replica: _Replica) -> int:
        """Start it, again and again, until all stop or it cannot start at all; its last exit code."""
        pause, loop = FIRST_PAUSE, asyncio.get_running_loop()
        while True:
            since = loop.time()
            try:
                code = await self._live_once(replica)
            except OSError as error:  # no memory, no descriptors, no processes: perhaps later
                log.error("replica.not_started", replica=replica.number, reason=error.strerror)  # noqa: TRY400
                code = 1
            if self._stopping.is_set() or replica.failed is not None:
                replica.started.set()
                return code
            log.error("replica.died", replica=replica.number, ended=how_it_ended(code), again_in=round(pause, 1))
            pause = FIRST_PAUSE if loop.time() - since > HEALTHY_AFTER else min(pause * 2, LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * (0.5 + random.random() / 2)):  # noqa: S311 - jitter
                    await self._stopping.wait()
                    return 0

    async def _live_once(self, replica: _Replica) -> int:
        replica.is_up = False
        child = replica.child = await start_child(self._command, self._order_for(replica.number))
        child.link.send(Pause(self._paused))
        if self._stopping.is_set():
            child.signal(signal.SIGTERM)
        watching = asyncio.create_task(self._end_in_time(child))
        with contextlib.suppress(EOFError):
            while True:
                self._hear(replica, await child.link.receive())
        code = await child.ended()
        watching.cancel()
        if code == -signal.SIGTERM and self._stopping.is_set() and not replica.is_up:
            code = 0  # it was told to stop before it could listen, and had nothing to drain
        self._forget(replica)
        return code

    def _hear(self, replica: _Replica, word: Any) -> None:
        replica.heard = asyncio.get_running_loop().time()
        match word:
            case Started(facts):
                replica.state = {**replica.state, **facts}
                replica.is_up = True
                replica.started.set()
            case State(values):
                replica.state = values
            case Failed() if not replica.started.is_set():
                replica.failed = word
            case Failed(_, text):
                log.error("replica.cannot_start", replica=replica.number, reason=text)
            case Told(value):
                if not (answer := replica.asked.pop(0)).done():  # whoever asked may not have waited
                    answer.set_result(value)

    def _forget(self, replica: _Replica) -> None:
        replica.child, replica.state = None, {}
        self._gone, replica.metrics = totals([self._gone, replica.metrics]), []
        for answer in replica.asked:
            if not answer.done():
                answer.set_exception(ConnectionError("the process died"))
        replica.asked.clear()

    async def _end_in_time(self, child: Child) -> None:
        """A child that does not drain within its grace (its loop is blocked, say) must not hold up the end."""
        await self._stopping.wait()
        await asyncio.sleep(self._grace + KILL_AFTER)
        log.error("replica.killed", reason="it did not end within its grace")
        child.signal(signal.SIGKILL)


async def _all(waiting: Sequence[Awaitable[Any]]) -> None:
    await asyncio.gather(*waiting)
