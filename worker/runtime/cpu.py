"""CPU-bound work off the loop: what a context asks for, and how a call and its answer travel.

A function travels by the name of its module, everything else by value: both as pickle, between our own processes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from worker.runtime.ends import error_name
from worker.runtime.places import Elsewhere, places_of
from worker.runtime.threads import in_thread

_FIX: Final = "it must be a plain function at the top of a module that both sides can import"
_PLAIN: Final = (str, int, float, bool)


class CpuProcessDied(Exception):
    """The process that computed a function ended before it could answer. An error like any other: a failed attempt."""


class CpuRunner(Protocol):
    """Where `context.run_cpu` computes."""

    async def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `fn` returns or raises.

        A TypeError when `fn`, its arguments or its result cannot travel; CpuProcessDied when its process ends.
        """

    async def aclose(self) -> None:
        """Return when nothing is computed any more."""


@dataclass(frozen=True, slots=True)
class CpuCall:
    """A call on its way. `bound` is what the caller's log lines carry."""

    name: str
    module: str
    fn: bytes
    arguments: bytes
    bound: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CpuCall:
        """The call; a TypeError that names `fn` when it or its arguments cannot travel."""
        innermost = _innermost(fn)
        name, module = _name(innermost), str(getattr(innermost, "__module__", ""))
        if inspect.iscoroutinefunction(innermost):
            raise TypeError(f"run_cpu({name}): it is an async def, and what it awaits is here; {_FIX}")
        return cls(
            name,
            module,
            _pickled(fn, f"run_cpu({name}): it cannot be called in another process; {_FIX}"),
            _pickled((args, dict(kwargs)), f"run_cpu({name}): its arguments cannot travel to another process"),
            {key: value for key, value in structlog.contextvars.get_contextvars().items() if isinstance(value, _PLAIN)},
        )


@dataclass(frozen=True, slots=True)
class CpuAnswer:
    """What came of a call: a value, or an error with its traceback as text and as places."""

    content: bytes
    error: str = ""
    trace: str = ""
    places: str = ""

    def opened(self, name: str) -> Any:
        """The value of the call of `name`, or its error, raised."""
        if self.error:
            raise self._error() from Elsewhere(self.trace, self.places)
        try:
            return pickle.loads(self.content)  # noqa: S301 - from a process of ours
        except Exception as error:
            raise TypeError(f"run_cpu({name}): its result cannot be read here: {_told(error)}") from error

    def _error(self) -> BaseException:
        try:
            return _read(self.content)
        except Exception:  # noqa: BLE001 - what reading it raises is up to its class
            return RuntimeError(self.error)


def compute(call: CpuCall) -> CpuAnswer:
    """Call it here. Never raises."""
    try:
        try:
            fn, (args, kwargs) = pickle.loads(call.fn), pickle.loads(call.arguments)  # noqa: S301 - from our parent
        except BaseException as error:
            raise TypeError(f"run_cpu({call.name}): it cannot be called there: {_told(error)}; {_FIX}") from error
        with structlog.contextvars.bound_contextvars(**call.bound):
            value = fn(*args, **kwargs)
        return CpuAnswer(_pickled(value, f"run_cpu({call.name}): its result cannot travel back"))
    except BaseException as error:  # noqa: BLE001 - raised again where the call came from, whatever it is
        return _answer_of(error)


class ThreadCpu:
    """Fulfils CpuRunner with a thread for each call, for tests: what could not travel is refused all the same.

    A call that is cancelled goes on by itself: a thread cannot be ended.
    """

    async def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        call = CpuCall.of(fn, args, kwargs)
        answer = await in_thread(functools.partial(compute, call))
        return answer.opened(call.name)

    async def aclose(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Bare:
    """An error that is made again without its __init__: many want other arguments there than they hand on."""

    type: type[BaseException]
    args: tuple[Any, ...]
    state: Mapping[str, Any]

    def made(self) -> BaseException:
        error = self.type.__new__(self.type, *self.args)
        vars(error).update(self.state)
        return error


def _answer_of(error: BaseException) -> CpuAnswer:
    trace = "".join(traceback.format_exception(error))
    return CpuAnswer(_written(error), _told(error), trace, places_of(error))


def _written(error: BaseException) -> bytes:
    """The error as `_read` takes it, empty when it cannot travel."""
    for form in (error, _Bare(type(error), error.args, vars(error))):
        with contextlib.suppress(Exception):  # what writing and reading it raises is up to its class
            content = pickle.dumps(form)
            if type(_read(content)) is type(error):
                return content
    return b""


def _read(content: bytes) -> BaseException:
    found = pickle.loads(content)  # noqa: S301 - from a process of ours
    error = found.made() if isinstance(found, _Bare) else found
    if not isinstance(error, BaseException):
        raise TypeError("not an error")
    return error


def _pickled(value: Any, complaint: str) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(f"{complaint}: {_told(error)}") from error


def _innermost(fn: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _name(fn: Callable[..., Any]) -> str:
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}.{named.__qualname__}"


def _told(error: BaseException) -> str:
    try:
        return f"{error_name(error)}: {error}"
    except Exception:  # noqa: BLE001 - a __str__ of its own
        return error_name(error)
