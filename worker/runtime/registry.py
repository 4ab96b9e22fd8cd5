"""Which handler runs which job type, and under which options."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from pydantic import TypeAdapter, ValidationError

from worker.core.child import ChildJob
from worker.core.outcome import Reason, Reject, Retry
from worker.core.result import Result
from worker.core.units import parse_duration
from worker.runtime.annotations import annotation_of
from worker.runtime.payload import explain_validation
from worker.runtime.threads import in_thread

UNKNOWN_TYPE_ATTEMPTS: Final = 3

Handler = Callable[..., Any]
Key = Callable[[Any], "str | Sequence[str] | None"]
Callback = Callable[[Any, Result], ChildJob | None]
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


class UnknownType(Retry):
    """No handler here knows the type; a newer replica may."""

    spent: ClassVar[Reason] = "unknown_type"


@dataclass(frozen=True, slots=True)
class Options:
    """What a registration may fix. Times in seconds; None leaves it to the configuration."""

    timeout: float | None = None
    attempts: int | None = None
    backoff: tuple[float, float] | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler under its job type."""

    type: str
    handler: Handler
    payload: TypeAdapter[Any]
    annotation: Any
    wants_context: bool
    key: Key | None = None
    callback: Callback | None = None
    options: Options = field(default_factory=Options)

    def validate(self, payload: Any) -> Any:
        """The payload as the handler's annotation wants it; a Reject that names every fault otherwise."""
        try:
            return self.payload.validate_python(payload)
        except ValidationError as error:
            raise Reject(explain_validation(error, self.annotation), code="invalid_payload") from None

    def keys(self, payload: Any) -> tuple[str, ...]:
        """The keys this job counts against, known before it runs."""
        found = self.key(payload) if self.key else None
        if found is None:
            return ()
        names = (found,) if isinstance(found, str) else tuple(found)
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"the key of {self.type!r} must give text, or several texts")
        return names

    async def call(self, payload: Any, context: Any) -> Any:
        """Run the handler; a plain `def` runs in a thread."""
        arguments = (payload, context) if self.wants_context else (payload,)
        if inspect.iscoroutinefunction(self.handler):
            return await self.handler(*arguments)
        value = await in_thread(functools.partial(self.handler, *arguments))
        # A decorator may hide an `async def` behind a plain function; left unawaited it would count as done.
        return await value if inspect.isawaitable(value) else value


class Registry:
    """A set of handlers and the lifespan they share. A value: hand it to `worker run module:registry`."""

    def __init__(self, *, lifespan: Lifespan | None = None) -> None:
        self._registrations: dict[str, Registration] = {}
        self._lifespan = lifespan

    def handler(
        self,
        type: str,
        *,
        timeout: float | str | None = None,
        attempts: int | None = None,
        backoff: tuple[float | str, float | str] | None = None,
        concurrency: int | None = None,
        key: Key | None = None,
        callback: Callback | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register a handler for a job type.

        `timeout` bounds one attempt (seconds, or text such as "2m"), `attempts` and `backoff` (lowest and highest
        wait) rule the retries, `concurrency` bounds how many jobs of the type run at once in one process. `key` gives
        from the validated payload the name, or names, of what the job uses (a host, a tenant): limits of that name
        hold it back before it takes a slot. `callback` gives from the payload and the Result the job to publish once
        this one has ended for good, done or dead, or None; it is published before this one is acknowledged. A callback
        that fails is logged and changes nothing.
        """
        options = Options(
            timeout=None if timeout is None else _seconds(timeout, "timeout", above_zero=True),
            attempts=_positive(attempts, "attempts"),
            backoff=None if backoff is None else _backoff(backoff),
            concurrency=_positive(concurrency, "concurrency"),
        )

        def register(handler: Handler) -> Handler:
            self._add(_registration(type, handler, key, callback, options))
            return handler

        return register

    def include(self, other: Registry) -> None:
        """Take over the handlers of another registry. A type that is already there is a ValueError."""
        for registration in other._registrations.values():
            self._add(registration)
        if other._lifespan is not None:
            self._lifespan = other._lifespan if self._lifespan is None else _both(self._lifespan, other._lifespan)

    @property
    def types(self) -> frozenset[str]:
        return frozenset(self._registrations)

    def find(self, type: str) -> Registration:
        """The registration of `type`, or a stand-in: a newer replica may know the type."""
        return self._registrations.get(type) or _unknown(type)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mapping[str, Any]]:
        """Enter the lifespan; what it yields is `context.state`."""
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(self._lifespan()) if self._lifespan else {}

    def _add(self, registration: Registration) -> None:
        if registration.type in self._registrations:
            raise ValueError(f"job type {registration.type!r} is registered twice")
        self._registrations[registration.type] = registration


def _registration(
    type: str, handler: Handler, key: Key | None, callback: Callback | None, options: Options
) -> Registration:
    if not type:
        raise ValueError("a handler needs the name of its job type")
    if not inspect.isroutine(handler):
        raise TypeError(f"handler of {type!r} must be a function or a method, not {handler!r}")
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise TypeError(f"handler of {type!r} must not be a generator: nothing would run it")
    parameters = list(inspect.signature(handler).parameters.values())
    if not 1 <= len(parameters) <= 2:
        raise TypeError(
            f"handler of {type!r} must take (payload) or (payload, context), not {len(parameters)} parameters"
        )
    annotation = _annotation(type, handler, parameters[0])
    wants_context = len(parameters) == 2
    return Registration(type, handler, TypeAdapter(annotation), annotation, wants_context, key, callback, options)


def _annotation(type: str, handler: Handler, parameter: inspect.Parameter) -> Any:
    try:
        return annotation_of(handler, parameter.name)
    except NameError as error:
        raise TypeError(
            f"handler of {type!r}: the annotation of {parameter.name!r} cannot be read, {error}:"
            " define it at the top of a module, outside of functions and of TYPE_CHECKING"
        ) from None


@functools.lru_cache(maxsize=64)
def _unknown(type: str) -> Registration:
    async def stand_in(_payload: Any) -> None:
        raise UnknownType(f"no handler for type {type[:60]!r}")

    return Registration(type, stand_in, TypeAdapter(Any), Any, False, options=Options(attempts=UNKNOWN_TYPE_ATTEMPTS))


def _both(first: Lifespan, second: Lifespan) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, Any]]:
        async with first() as one, second() as two:
            yield {**(one or {}), **(two or {})}

    return lifespan


def _seconds(value: float | str, name: str, *, above_zero: bool = False) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except ValueError as error:
        raise ValueError(f"{name}={value!r}: {error}") from None
    if not 0 <= seconds < math.inf or (above_zero and seconds == 0):
        raise ValueError(f"{name}={value!r}: a time {'above 0' if above_zero else 'of 0 or more'} is needed")
    return seconds


def _backoff(value: tuple[float | str, float | str]) -> tuple[float, float]:
    low, high = (_seconds(part, "backoff") for part in value)
    if low > high:
        raise ValueError(f"backoff={value!r}: the first wait must not be the longer one")
    return low, high


def _positive(value: int | None, name: str) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"{name}={value!r}: 1 or more is needed")
    return value
