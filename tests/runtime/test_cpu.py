"""What run_cpu refuses and what it hands on, without a process: in the thread that tests get."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import pytest
import structlog

from tests.process import cpu_work
from tests.process.cpu_work import Point
from worker import Reject, Retry, Snooze
from worker.runtime.cpu import CpuCall, ThreadCpu, compute
from worker.runtime.ends import trouble_of


async def run(fn: Any, *args: Any, **kwargs: Any) -> Any:
    return await ThreadCpu().run(fn, args, kwargs)


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def work(self) -> None: ...


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("fn", "args", "value"),
    [
        (cpu_work.add, (Point(1, 2),), 3),
        (functools.partial(cpu_work.add, Point(1), more=5), (), 6),
        (Point(1, 2).mirrored, (), Point(2, 1)),
        (math.factorial, (5,), 120),
        (Point, (4,), Point(4)),
    ],
)
async def test_what_can_be_imported_is_called(fn: Any, args: tuple[Any, ...], value: Any) -> None:
    assert await run(fn, *args) == value


async def test_arguments_by_name_and_the_values_are_copies() -> None:
    point = Point(1, 2)
    assert await run(cpu_work.add, point, more=3) == 6
    content = [1]
    assert await run(cpu_work.result_of, functools.partial(list, content)) is not content


def local_function() -> Any:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (lambda: 1, "<lambda>"),
        (local_function(), "local_function.<locals>.inner"),
        (Holder().work, "Holder.work"),
        (functools.partial(local_function()), "local_function.<locals>.inner"),
        (coroutine, "coroutine"),
        (functools.partial(coroutine), "coroutine"),
    ],
)
async def test_what_cannot_be_imported_is_refused_with_its_name_and_the_fix(fn: Any, named: str) -> None:
    with pytest.raises(TypeError) as raised:
        await run(fn)
    assert named in str(raised.value)
    assert "a plain function at the top of a module" in str(raised.value)


async def test_arguments_and_results_that_cannot_travel_name_the_function() -> None:
    with pytest.raises(TypeError, match=r"run_cpu\(.*cpu_work.pid\): its arguments cannot travel"):
        await run(cpu_work.pid, threading.Lock())
    with pytest.raises(TypeError, match=r"run_cpu\(.*cpu_work.give_lock\): its result cannot travel back"):
        await run(cpu_work.give_lock)


def test_a_module_that_is_not_there_names_the_function_and_the_fix() -> None:
    there = CpuCall("shop.gone.work", "shop.gone", b"cshop.gone\nwork\n.", b"N.")
    with pytest.raises(TypeError, match=r"run_cpu\(shop.gone.work\): it cannot be called there: ModuleNotFoundError"):
        compute(there).opened("shop.gone.work")


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError(1), SystemExit(3), Retry("later", after=7), Reject("no", code="tls")]
)
async def test_what_it_raises_is_raised_with_its_type(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        await run(cpu_work.fail, error)
    assert raised.value.args == error.args
    assert vars(raised.value) == vars(error)


async def test_a_snooze_in_there_is_a_snooze() -> None:
    with pytest.raises(Snooze) as raised:
        await run(cpu_work.snooze)
    assert (raised.value.delay, raised.value.reason) == (5.0, "not yet")


async def test_an_error_whose_class_wants_other_arguments_keeps_its_type() -> None:
    with pytest.raises(cpu_work.Awkward, match="7 seven") as raised:
        await run(cpu_work.fail_awkwardly)
    assert raised.value.code == 7
    broken = b"\xff"
    with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
        await run(broken.decode)


async def test_an_error_that_cannot_travel_keeps_its_name_and_text() -> None:
    with pytest.raises(RuntimeError, match=r"^tests.process.cpu_work.Locked: locked$"):
        await run(cpu_work.fail_locked)


async def test_the_log_is_told_where_there_it_failed_without_values() -> None:
    with pytest.raises(ValueError, match="secret") as raised:
        await run(cpu_work.fail, ValueError("secret"))
    trouble = trouble_of(raised.value)
    assert trouble["at"].startswith(f"{__file__}:")
    assert "cpu_work.py" in trouble["at"]
    assert trouble["at"].endswith(" fail")
    assert "secret" not in str(trouble)
    assert "cpu_work.py" in str(raised.value.__cause__)


async def test_log_lines_in_there_carry_the_job() -> None:
    with structlog.contextvars.bound_contextvars(id="job-7", other=object()):
        call = CpuCall.of(cpu_work.pid, (), {})
    assert dict(call.bound) == {"id": "job-7"}
    with structlog.contextvars.bound_contextvars(id="job-7"):
        assert await run(structlog.contextvars.get_contextvars) == {"id": "job-7"}
