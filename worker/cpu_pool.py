"""CPU-bound work in child processes: each computes one call at a time, and is ended with a call that is given up.

The loop stays free while they compute. Work on a CPU cannot be interrupted, so its process is killed and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from worker.link import Child, Link, how_it_ended, start_child
from worker.runtime.cpu import CpuAnswer, CpuCall, CpuProcessDied, compute

log = structlog.get_logger("worker.cpu")

IDLE_SECONDS: Final = 60.0
"""A process without work is kept this long: what it has imported need not be imported again."""

BEGAN: Final = "began"


class CpuPool:
    """Fulfils `worker.runtime.cpu.CpuRunner` with at most `processes` children, started when calls come.

    Calls wait for a free process in the order they came. Arguments and results are pickled on the loop: some 10 ms for
    20 MB of bytes, more for many small objects.
    """

    def __init__(self, command: Sequence[str], order: Any, processes: int, *, idle: float = IDLE_SECONDS) -> None:
        self._idle = idle
        self._all = tuple(_Seat(tuple(command), order) for _ in range(processes))
        self._free = list(self._all)
        """Those with a process last, the latest used at the end: it is taken first, so that the others get idle."""
        self._count = asyncio.Semaphore(processes)
        self._clearing: set[asyncio.Task[None]] = set()

    async def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `fn` returns or raises, computed in one of the processes.

        A TypeError, before any process is used, names a function or arguments that cannot travel, and afterwards a
        result. CpuProcessDied when the process ends on the way, whoever ended it. Cancelled, it ends the process.
        """
        call = CpuCall.of(fn, args, kwargs)
        if call.module == "__main__":
            raise TypeError(f"run_cpu({call.name}): __main__ is another program there; move it to a module of its own")
        await self._count.acquire()
        seat = self._free.pop()
        try:
            answer = await seat.answer(call)
        except BaseException:
            self._clear(seat)
            raise
        seat.keep(self._idle)
        self._free.append(seat)
        self._count.release()
        return answer.opened(call.name)

    async def aclose(self) -> None:
        """End all processes and wait for their ends. What they compute, and what waits, gets CpuProcessDied."""
        await asyncio.gather(*(seat.close() for seat in self._all))
        await asyncio.gather(*self._clearing)

    def _clear(self, seat: _Seat) -> None:
        """Free the seat once its process has ended: there are never more of them than allowed."""
        clearing = asyncio.create_task(self._cleared(seat))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)

    async def _cleared(self, seat: _Seat) -> None:
        await seat.clear()
        self._free.insert(0, seat)
        self._count.release()


@dataclass(frozen=True, slots=True)
class _Process:
    """A child, and the task that waits for its end: it hangs up then, even where a copy of the line lives on."""

    child: Child
    ended: asyncio.Task[int]

    def kill(self) -> None:
        """End it with what it has started: it leads a group of its own."""
        if self.child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.process.pid, signal.SIGKILL)


class _Seat:
    """Room for one process: it is started when a call comes, and another one when it has ended."""

    def __init__(self, command: tuple[str, ...], order: Any) -> None:
        self._command = command
        self._order = order
        # What outlives a call must not hold on to its context, where the job is with all it has got.
        self._nobodys = contextvars.Context()
        # A task of its own, so that a call that is cancelled meanwhile does not leave half a process behind.
        self._starting: asyncio.Task[_Process] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_end: asyncio.Task[int] | None = None
        self._closed = False

    async def answer(self, call: CpuCall) -> CpuAnswer:
        """What came of the call. Raises CpuProcessDied."""
        if self._timer is not None:
            self._timer.cancel()
        code = 0
        for _ in range(2):  # one that was idle may have died meanwhile: nobody's doing
            link = (await self._process()).child.link
            link.send(call)
            with contextlib.suppress(EOFError):
                if await link.receive() == BEGAN:
                    return await self._finished(call, link)
            code = await self.clear()
        raise CpuProcessDied(f"the process for {call.name} ended {how_it_ended(code)} before it began")

    def keep(self, seconds: float) -> None:
        """Let the process wait for another call, not longer than this."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_idle, context=self._nobodys)

    async def clear(self) -> int:
        """End the process, if there is one, and wait for its end; its exit code. Once more after a cancellation."""
        starting = self._starting
        if starting is None:
            return 0
        code = await _end(starting)
        if self._starting is starting:
            self._starting = None
        return code

    async def close(self) -> None:
        """As `clear`, for good."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.clear()
        if self._idle_end is not None:
            await self._idle_end

    async def _process(self) -> _Process:
        if self._closed:
            raise CpuProcessDied("the worker stops, and its processes for CPU-bound work have ended")
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), context=self._nobodys)
        try:
            return await asyncio.shield(self._starting)
        except OSError as error:
            raise CpuProcessDied(f"no process can be started: {error.strerror}") from error

    async def _start(self) -> _Process:
        child = await start_child(self._command, self._order)
        return _Process(child, asyncio.create_task(child.ended()))

    async def _finished(self, call: CpuCall, link: Link) -> CpuAnswer:
        try:
            answer: CpuAnswer = await link.receive()
        except EOFError:
            how = how_it_ended(await self.clear())
            if not self._closed:
                log.warning("cpu.process_died", function=call.name, ended=how)
            raise CpuProcessDied(f"the process that computed {call.name} ended {how}") from None
        return answer

    def _end_idle(self) -> None:
        # Taken off the seat at once: a call that comes now gets another process, and not this one's end.
        starting, self._starting = self._starting, None
        if starting is not None:
            self._idle_end = asyncio.create_task(_end(starting))


async def _end(starting: asyncio.Task[_Process]) -> int:
    """End the process that was started there, and wait for its end; its exit code, 0 when it never was one."""
    try:
        process = await asyncio.shield(starting)
    except OSError:
        return 0
    process.kill()
    return await asyncio.shield(process.ended)


def serve_cpu(end: socket.socket, prepare: Callable[[Any], object]) -> None:
    """In the child: compute what is ordered, one call at a time, until the parent hangs up.

    `prepare` gets the parent's order first.
    """
    with asyncio.Runner() as runner, contextlib.suppress(EOFError):
        link = runner.run(Link.over(end))
        prepare(runner.run(link.receive()))
        while True:
            call: CpuCall = runner.run(link.receive())
            runner.run(_sent(link, BEGAN))
            # Between two runs of the loop: the function has the main thread for itself, and may run a loop of its own.
            runner.run(_sent(link, compute(call)))


async def _sent(link: Link, value: Any) -> None:
    link.send(value)
    await link.flush()
