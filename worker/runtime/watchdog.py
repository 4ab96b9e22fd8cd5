"""Names the handler that blocks the event loop, while it does."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Final

import structlog

from worker.core.job import Job
from worker.runtime.context import Context
from worker.runtime.places import shown

log = structlog.get_logger("worker.watchdog")

EVERY: Final = 0.25
"""Seconds between two beats of the loop, and between two looks at it."""

LONGEST: Final = 1.0
"""Seconds one callback may take before it is named: long before probes and heartbeats fail."""

_LATE: Final = 2 * EVERY
_SHARE: Final = 0.25
"""What the loop's thread has had of a CPU, at least, when it was the one that let no other thread run."""

_TASK: Final = "job "
"""What the names of the tasks of a job begin with; its id follows."""


@dataclass(slots=True)
class _Blockage:
    """What has been running since a moment on the monotonic clock, and was `seen` first at another.

    `told` is what there is to say of it, once it has taken too long; `named` once that was said.
    """

    frame: FrameType
    since: float
    seen: float
    told: dict[str, str] | None = None
    named: bool = False


class Watchdog:
    """Warns of what keeps a loop from turning for LONGEST.

    Once while it does, `handler.blocks_loop`, and once when it is over, `handler.blocked_loop`.
    """

    # A thread, because nothing on the loop can look while the loop is stuck. It costs a beat and a comparison of times
    # four times a second: only when a beat is missing it takes a stack.

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._loop_thread = 0
        self._timer: asyncio.Handle | None = None
        self._beat = 0.0
        self._cpu = 0.0
        self._late_beat = (0.0, 0.0)
        """When the last beat came that was much too late, and the CPU time that its thread had used meanwhile."""
        self._looked = 0.0
        """When it last looked closer."""
        self._machinery: tuple[CodeType, ...] = ()
        self._blockage: _Blockage | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch `loop`. Called once, from its thread."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._beat, self._cpu = time.monotonic(), time.thread_time()
        self._timer = loop.call_soon(self._on_beat)
        threading.Thread(target=self._watch, name="worker-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no longer. Nothing happens when it was never started."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _on_beat(self) -> None:
        # What calls this calls every callback: the frames of the loop itself, of which uvloop shows fewer than asyncio.
        self._machinery = tuple(frame.f_code for frame in _stack(inspect.currentframe())[:-1])
        now, cpu = time.monotonic(), time.thread_time()
        if now - self._beat >= LONGEST:
            self._late_beat = (now, cpu - self._cpu)
        self._beat, self._cpu = now, cpu
        self._timer = self._loop.call_later(EVERY, self._on_beat)

    def _watch(self) -> None:
        while not self._stopped.wait(EVERY) and not self._loop.is_closed():
            self._look()
        self._over(time.monotonic())

    def _look(self) -> None:
        beat, now = self._beat, time.monotonic()
        late = now - beat >= _LATE
        frames = self._running() if late else []
        if self._blockage is not None and (not frames or frames[0] is not self._blockage.frame):
            self._over(now)
        if frames:
            # Since the last beat, unless something else ran at a look after it: then they are many, and each is short.
            blockage = self._blockage = self._blockage or _Blockage(frames[0], max(beat, self._looked), now)
            if now - blockage.since >= LONGEST:
                self._judge(blockage, frames, now)
        if late:
            self._looked = now

    def _judge(self, blockage: _Blockage, frames: list[FrameType], now: float) -> None:
        if blockage.told is None:
            blockage.told = {**self._job(frames), "at": shown((frame, frame.f_lineno or 0) for frame in frames)}
        # Seen twice. Once is no proof: when no thread could look in between, another may have had the interpreter.
        if not blockage.named and now > blockage.seen:
            self._name(blockage, now)

    def _name(self, blockage: _Blockage, now: float) -> None:
        blockage.named = True
        log.warning("handler.blocks_loop", seconds=round(now - blockage.since, 1), **blockage.told or {})

    def _over(self, now: float) -> None:
        blockage, self._blockage = self._blockage, None
        if blockage is None or blockage.told is None:
            return
        came, busy = self._late_beat
        end = came if came > blockage.since else now
        if not blockage.named:
            if came <= blockage.since or busy < (end - blockage.since) * _SHARE:
                return
            self._name(blockage, end)
        log.warning("handler.blocked_loop", seconds=round(end - blockage.since, 1), **blockage.told)

    def _running(self) -> list[FrameType]:
        """The callback that the loop runs, outermost first; nothing when it runs none, but waits or sorts its own."""
        stack = _stack(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 - there is no other way
        depth = len(self._machinery)
        if tuple(frame.f_code for frame in stack[:depth]) != self._machinery:
            return []
        return stack[depth:]

    def _job(self, frames: list[FrameType]) -> dict[str, str]:
        """Whose frames they are. Those of a job hold it somewhere, or those of its handler, whose task has its name."""
        if found := _job_in(frames):
            return found
        task = asyncio.current_task(self._loop)
        if task is None or not task.get_name().startswith(_TASK):
            return {}
        for one in asyncio.all_tasks(self._loop):
            if one.get_name() == task.get_name() and (found := _job_in(_waiting(one))):
                return found
        return {"id": task.get_name().removeprefix(_TASK)}


def _job_in(frames: Iterable[FrameType]) -> dict[str, str]:
    """The job that one of the frames holds."""
    for frame in frames:
        for value in list(frame.f_locals.values()):
            # By the type alone: whatever else is asked of a value could run a handler's code, on this thread.
            job = value.job if issubclass(type(value), Context) else value
            if issubclass(type(job), Job):
                return {"type": job.type, "id": job.id}
    return {}


def _waiting(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """The frames of a task that does not run, outermost first."""
    inner: Any = task.get_coro()
    while (frame := getattr(inner, "cr_frame", None)) is not None:
        yield frame
        inner = inner.cr_await


def _stack(innermost: FrameType | None) -> list[FrameType]:
    """All frames of a thread, outermost first."""
    found: list[FrameType] = []
    while innermost is not None:
        found.append(innermost)
        innermost = innermost.f_back
    return found[::-1]
