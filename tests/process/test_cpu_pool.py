"""CPU-bound work in real processes: what comes back, what is to blame, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import types
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import pytest
import structlog
import uvloop

from tests.process import cpu_work
from tests.process.cpu_work import Point
from tests.process.kit import eventually, is_alive
from worker.cli.order import CpuOrder, cpu_command
from worker.cpu_pool import CpuPool
from worker.runtime.cpu import CpuProcessDied

SECONDS = 30.0

held: ContextVar[Any] = ContextVar("held")
MakePool = Callable[..., CpuPool]


EARLIER: set[int] = set()
"""Processes of other tests in this run of pytest: broker nodes, targets."""


@pytest.fixture(autouse=True)
def earlier() -> None:
    EARLIER.clear()
    EARLIER.update(child.pid for child in psutil.Process().children(recursive=True))


@pytest.fixture
async def pool_of() -> AsyncIterator[MakePool]:
    made: list[CpuPool] = []

    def make(processes: int = 1, **options: Any) -> CpuPool:
        command = options.pop("command", cpu_command())
        made.append(CpuPool(command, CpuOrder("info", json_logs=True), processes, **options))
        return made[-1]

    yield make
    for pool in made:
        await pool.aclose()
    assert descendants() == [], "a pool that is closed leaves no process behind"


def descendants() -> list[psutil.Process]:
    """The processes that a test has started and that still run."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.pid not in EARLIER and one.status() != psutil.STATUS_ZOMBIE]


async def run(pool: CpuPool, fn: Any, *args: Any, **kwargs: Any) -> Any:
    async with asyncio.timeout(SECONDS):
        return await pool.run(fn, args, kwargs)


async def seen(path: Path) -> int:
    """The number a process has left in a file."""
    return int(await asyncio.to_thread(eventually, lambda: path.exists() and path.read_text(), str(path)))


async def gone(pid: int) -> None:
    async with asyncio.timeout(SECONDS):
        while is_alive(pid):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


# --- what comes back


async def test_a_value_from_a_process_that_is_kept_and_imports_once(pool_of: MakePool) -> None:
    pool = pool_of()
    assert await run(pool, cpu_work.add, Point(1, 2), more=3) == 6
    pids = {await run(pool, cpu_work.pid) for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert [await run(pool, cpu_work.times_called) for _ in range(3)] == [1, 2, 3]


async def test_an_error_has_its_type_and_costs_no_process(pool_of: MakePool) -> None:
    pool = pool_of()
    before = await run(pool, cpu_work.pid)
    with pytest.raises(KeyError) as raised:
        await run(pool, cpu_work.fail, KeyError("x"))
    assert raised.value.args == ("x",)
    with pytest.raises(SystemExit):
        await run(pool, cpu_work.fail, SystemExit(3))
    with pytest.raises(cpu_work.Awkward, match="7 seven"):
        await run(pool, cpu_work.fail_awkwardly)
    with pytest.raises(RuntimeError, match="Locked: locked"):
        await run(pool, cpu_work.fail_locked)
    with pytest.raises(TypeError, match=r"cpu_work.give_lock\): its result cannot travel back"):
        await run(pool, cpu_work.give_lock)
    assert await run(pool, cpu_work.pid) == before


async def test_twenty_megabytes_each_way(pool_of: MakePool) -> None:
    content = os.urandom(20 << 20)
    assert await run(pool_of(), cpu_work.doubled, content) == content * 2


async def test_it_may_run_a_loop_of_its_own(pool_of: MakePool) -> None:
    pool = pool_of()
    assert [await run(pool, cpu_work.with_a_loop_of_its_own) for _ in range(2)] == ["ran", "ran"]


async def test_it_connects_to_nothing(pool_of: MakePool) -> None:
    assert await run(pool_of(), cpu_work.sockets) == []


async def test_what_it_logs_and_prints_comes_out(pool_of: MakePool, capfd: pytest.CaptureFixture[str]) -> None:
    await run(pool_of(), cpu_work.log_both_ways)
    text = ""

    def all_there() -> bool:
        nonlocal text
        text += capfd.readouterr().out
        return all(part in text for part in ('"by structlog"', '"by logging"', "by print"))

    await asyncio.to_thread(eventually, all_there, "the lines")


# --- what is refused before any process is used


async def test_what_cannot_travel_starts_no_process(pool_of: MakePool) -> None:
    pool = pool_of()
    for fn, args in [(lambda: 1, ()), (cpu_work.pid, (Lock(),)), (cpu_work.pid, (sys._getframe(),))]:
        with pytest.raises(TypeError, match="run_cpu"):
            await run(pool, fn, *args)
    assert descendants() == []


async def test_a_function_of_main_is_refused(pool_of: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None: ...

    work.__module__, work.__qualname__ = "__main__", "work"
    main = types.ModuleType("__main__")
    main.work = work  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(TypeError, match=r"run_cpu\(__main__.work\): .* move it to a module of its own"):
        await run(pool_of(), work)
    assert descendants() == []


class Heavy:
    """What a job has got, as its context holds it."""


async def test_a_process_that_is_kept_does_not_keep_the_job(pool_of: MakePool) -> None:
    pool = pool_of()

    async def job() -> weakref.ref[Heavy]:
        heavy = Heavy()
        held.set(heavy)
        await pool.run(cpu_work.pid, (), {})  # not run(): its timeout holds on to the context, too
        return weakref.ref(heavy)

    found = await asyncio.create_task(job())
    await asyncio.sleep(0)  # until then the loop holds the task that it has just told us of
    gc.collect()
    assert found() is None


# --- who dies


@pytest.mark.parametrize(
    ("how", "told"), [("exit", "with exit code 3"), ("kill", "by SIGKILL"), ("segfault", "by SIGSEGV")]
)
async def test_a_process_that_dies_fails_its_call_alone(pool_of: MakePool, tmp_path: Path, how: str, told: str) -> None:
    pool = pool_of(2)
    other = asyncio.create_task(run(pool, cpu_work.meet, str(tmp_path), 1, 2))
    with (
        structlog.testing.capture_logs() as events,
        pytest.raises(CpuProcessDied, match=f"computed tests.process.cpu_work.end_by ended {told}"),
    ):
        await run(pool, cpu_work.end_by, how)
    [event] = events
    assert (event["event"], event["log_level"]) == ("cpu.process_died", "warning")
    assert (event["function"], event["ended"]) == ("tests.process.cpu_work.end_by", told)
    assert not other.done()
    (tmp_path / "2").touch()
    assert await other
    assert await run(pool, cpu_work.add, Point(1, 1)) == 2


async def test_a_death_is_noticed_where_a_copy_of_its_line_lives_on(pool_of: MakePool) -> None:
    pool = pool_of()
    with pytest.raises(CpuProcessDied, match="with exit code 3"):
        await run(pool, cpu_work.die_and_leave_a_copy_of_the_line)


async def test_a_process_that_died_while_idle_is_nobodys_fault(pool_of: MakePool) -> None:
    pool = pool_of()
    first = await run(pool, cpu_work.pid)
    os.kill(first, signal.SIGKILL)
    assert await run(pool, cpu_work.pid) != first


async def test_processes_that_do_not_come_up_fail_the_call(pool_of: MakePool) -> None:
    with pytest.raises(CpuProcessDied, match="ended with exit code 7 before it began"):
        await run(pool_of(command=(sys.executable, "-c", "raise SystemExit(7)")), cpu_work.pid)
    with pytest.raises(CpuProcessDied, match="no process can be started: No such file"):
        await run(pool_of(command=("/nowhere/python",)), cpu_work.pid)


async def test_a_call_that_is_given_up_ends_its_process_and_what_that_started(
    pool_of: MakePool, tmp_path: Path
) -> None:
    pool, note = pool_of(), tmp_path / "note"
    call = asyncio.create_task(pool.run(cpu_work.spin_with_child, (str(note),), {}))
    pid, child = await seen(note), int((tmp_path / "note.child").read_text())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await gone(pid)
    await gone(child)
    assert await run(pool, cpu_work.pid) != pid


async def test_a_timeout_ends_it_too(pool_of: MakePool, tmp_path: Path) -> None:
    pool, note = pool_of(), tmp_path / "note"

    async def bounded() -> None:
        async with asyncio.timeout(None) as bound:
            call = asyncio.ensure_future(seen(note))
            call.add_done_callback(lambda _: bound.reschedule(asyncio.get_running_loop().time()))
            await pool.run(cpu_work.spin, (str(note),), {})

    with pytest.raises(TimeoutError):
        await bounded()
    await gone(await seen(note))
    assert await run(pool, cpu_work.add, Point(2)) == 2


async def test_a_call_that_is_given_up_while_its_process_starts_leaves_none_behind(pool_of: MakePool) -> None:
    pool = pool_of()
    for _ in range(3):
        call = asyncio.create_task(pool.run(cpu_work.pid, (), {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await run(pool, cpu_work.add, Point(2)) == 2
    assert len(descendants()) == 1


# --- how many


async def test_calls_really_run_at_the_same_time(pool_of: MakePool, tmp_path: Path) -> None:
    pool = pool_of(3)
    pids = await asyncio.gather(*(run(pool, cpu_work.meet, str(tmp_path), number, 3) for number in range(3)))
    assert len(set(pids)) == 3


async def test_more_calls_than_processes_wait(pool_of: MakePool) -> None:
    pool = pool_of(2)
    pids = await asyncio.gather(*(run(pool, cpu_work.pid) for _ in range(20)))
    assert len(set(pids)) <= 2


async def test_first_come_first_served(pool_of: MakePool) -> None:
    pool = pool_of()
    order: list[int] = []

    async def call(number: int) -> None:
        await run(pool, cpu_work.pid)
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(10)))
    assert order == list(range(10))


async def test_one_after_another_needs_one_process(pool_of: MakePool) -> None:
    pool = pool_of(4)
    assert len({await run(pool, cpu_work.pid) for _ in range(8)}) == 1


async def test_a_waiting_call_that_is_given_up_holds_nothing_up(pool_of: MakePool, tmp_path: Path) -> None:
    pool, note = pool_of(), tmp_path / "note"
    first = asyncio.create_task(pool.run(cpu_work.spin, (str(note),), {}))
    await seen(note)
    second, third = (asyncio.create_task(run(pool, cpu_work.pid)) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    assert await third
    for one in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await one


# --- how it ends


async def test_an_idle_process_is_ended_and_replaced(pool_of: MakePool) -> None:
    pool = pool_of(idle=0.05)
    first = await run(pool, cpu_work.pid)
    await gone(first)
    assert await run(pool, cpu_work.pid) != first


async def test_closing_ends_all_and_tells_who_waits(pool_of: MakePool, tmp_path: Path) -> None:
    pool, note = pool_of(), tmp_path / "note"
    computing = asyncio.create_task(pool.run(cpu_work.spin, (str(note),), {}))
    pid = await seen(note)
    waiting = asyncio.create_task(pool.run(cpu_work.pid, (), {}))
    await asyncio.sleep(0)
    await pool.aclose()
    assert not is_alive(pid)
    for one in (computing, waiting):
        with pytest.raises(CpuProcessDied):
            await one
    with pytest.raises(CpuProcessDied, match="the worker stops"):
        await run(pool, cpu_work.pid)
    assert descendants() == []


async def test_sigterm_to_all_of_a_container_does_not_end_what_is_computed(pool_of: MakePool, tmp_path: Path) -> None:
    pool = pool_of()
    call = asyncio.create_task(run(pool, cpu_work.meet, str(tmp_path), 1, 2))
    await asyncio.to_thread(eventually, (tmp_path / "1").exists, "it computes")
    [process] = descendants()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    (tmp_path / "2").touch()
    assert await call == process.pid


def test_the_loop_of_the_service_sees_the_same_ends(tmp_path: Path) -> None:
    """What is known of a child's end is the loop's own doing, and the service runs on uvloop."""

    async def main() -> None:
        pool = CpuPool(cpu_command(), CpuOrder("info", json_logs=True), 2)
        with pytest.raises(CpuProcessDied, match="ended by SIGSEGV"):
            await run(pool, cpu_work.end_by, "segfault")
        with pytest.raises(CpuProcessDied, match="with exit code 3"):
            await run(pool, cpu_work.die_and_leave_a_copy_of_the_line)
        idle = await run(pool, cpu_work.pid)
        os.kill(idle, signal.SIGKILL)
        assert await run(pool, cpu_work.pid) != idle
        call = asyncio.create_task(pool.run(cpu_work.spin_with_child, (str(tmp_path / "note"),), {}))
        pids = await seen(tmp_path / "note"), await seen(tmp_path / "note.child")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        for pid in pids:
            await gone(pid)
        content = os.urandom(1 << 20)
        assert await run(pool, cpu_work.doubled, content) == content * 2
        last = asyncio.create_task(pool.run(cpu_work.spin, (str(tmp_path / "last"),), {}))
        await seen(tmp_path / "last")
        await pool.aclose()
        with pytest.raises(CpuProcessDied):
            await last

    uvloop.run(main())
    assert descendants() == []


PARENT = """
    import asyncio, sys
    from tests.process import cpu_work
    from worker.cli.order import CpuOrder, cpu_command
    from worker.cpu_pool import CpuPool

    async def main():
        pool = CpuPool(cpu_command(), CpuOrder("info", json_logs=True), 2)
        assert await pool.run(cpu_work.pid, (), {})
        await asyncio.gather(*(pool.run(cpu_work.spin, (note,), {}) for note in sys.argv[1:]))

    asyncio.run(main())
"""


def test_a_parent_that_is_killed_takes_them_along(tmp_path: Path) -> None:
    notes = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PARENT), *map(str, notes)])
    pids: list[int] = []
    try:
        eventually(lambda: all(note.exists() for note in notes), "both compute")
        pids = [int(note.read_text()) for note in notes]
        parent.kill()
        parent.wait()
        eventually(lambda: not any(map(is_alive, pids)), "both have ended")
    finally:
        parent.kill()
        for pid in pids:
            if is_alive(pid):  # only when the test fails
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
