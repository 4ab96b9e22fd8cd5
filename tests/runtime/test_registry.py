"""Registering handlers: what is refused and how it is said, what a payload becomes, and where a handler runs."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from worker import Context, Registry, Reject
from worker.core.copies import CopyRules
from worker.core.job import DecodeRules
from worker.core.policy import RetryPolicy
from worker.core.result import ReplyRules
from worker.core.topology import Topology
from worker.runtime.rules import Rules, TypeOverride
from worker.testing import run_job


async def nothing(payload: Any) -> None:
    return None


def test_an_annotation_that_cannot_be_read_is_said_and_the_fix() -> None:
    async def handler(payload: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        return None

    told = "handler of 'job': the annotation of 'payload' cannot be read, name 'Nowhere' is not defined: define it at"
    with pytest.raises(TypeError, match=told):
        Registry().handler("job")(handler)


def test_only_the_payload_needs_an_annotation_that_can_be_read() -> None:
    async def handler(payload: dict, context: Elsewhere) -> Elsewhere:  # type: ignore[name-defined, type-arg]  # noqa: F821
        return None

    Registry().handler("job")(handler)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": 0}, r"timeout=0: a time above 0"),
        ({"timeout": -1.5}, r"timeout=-1.5: a time above 0"),
        ({"timeout": float("nan")}, r"timeout=nan: a time above 0"),
        ({"timeout": float("inf")}, r"timeout=inf: a time above 0"),
        ({"timeout": "soon"}, r"timeout='soon': .*soon"),
        ({"attempts": 0}, r"attempts=0: 1 or more"),
        ({"concurrency": -1}, r"concurrency=-1: 1 or more"),
        ({"backoff": (10, 5)}, r"backoff=\(10, 5\): the first wait must not be the longer one"),
        ({"backoff": (-1, 5)}, r"backoff=-1: a time of 0 or more"),
        ({"backoff": ("1s", "x")}, r"backoff='x'"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name_and_value(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Registry().handler("job", **options)(nothing)


def test_times_may_be_text() -> None:
    registry = Registry()
    registry.handler("job", timeout="2m", backoff=("500ms", "1h"), attempts=3, concurrency=4)(nothing)
    options = registry.find("job").options
    assert (options.timeout, options.backoff, options.attempts, options.concurrency) == (120, (0.5, 3600), 3, 4)


async def no_parameters() -> None: ...
async def three(a: Any, b: Any, c: Any) -> None: ...
async def async_generator(payload: Any) -> AsyncIterator[int]:
    yield 1


def generator(payload: Any) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (no_parameters, "'job' must take"),
        (three, "not 3 parameters"),
        (async_generator, "'job' must not be a generator"),
        (generator, "'job' must not be a generator"),
        (functools.partial(nothing), "'job' must be a function or a method"),
    ],
)
def test_handlers_that_cannot_be_called_are_refused(handler: Callable[..., Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        Registry().handler("job")(handler)


def test_a_type_needs_a_name() -> None:
    with pytest.raises(ValueError, match="name of its job type"):
        Registry().handler("")(nothing)


def test_the_same_type_twice_is_refused() -> None:
    registry = Registry()
    registry.handler("job")(nothing)
    with pytest.raises(ValueError, match="'job' is registered twice"):
        registry.handler("job")(nothing)


def test_registering_hands_the_function_back() -> None:
    assert Registry().handler("job")(nothing) is nothing


def test_include_takes_the_handlers_over_and_refuses_a_second_of_a_type() -> None:
    one, two = Registry(), Registry()
    one.handler("a")(nothing)
    two.handler("b", timeout=5)(nothing)
    one.include(two)
    assert one.types == {"a", "b"}
    assert one.find("b").options.timeout == 5
    with pytest.raises(ValueError, match="'b' is registered twice"):
        one.include(two)


# The lifespan.


def lifespan(name: str, log: list[str]) -> Callable[[], Any]:
    @asynccontextmanager
    async def span() -> AsyncIterator[dict[str, str]]:
        log.append(f"{name} begins")
        yield {name: "state"}
        log.append(f"{name} ends")

    return span


async def test_the_lifespan_is_around_the_jobs_and_its_state_in_the_context() -> None:
    log: list[str] = []
    registry, other = Registry(lifespan=lifespan("one", log)), Registry(lifespan=lifespan("two", log))

    @registry.handler("job")
    async def job(payload: Any, context: Context) -> None:
        log.append(f"runs with {sorted(context.state)}")

    registry.include(other)
    await run_job(registry, "job")
    assert log == ["one begins", "two begins", "runs with ['one', 'two']", "two ends", "one ends"]


async def test_include_into_a_registry_without_lifespan_brings_the_others() -> None:
    log: list[str] = []
    registry = Registry()
    registry.include(Registry(lifespan=lifespan("other", log)))
    async with registry.running() as state:
        assert state == {"other": "state"}
    assert log == ["other begins", "other ends"]


async def test_without_a_lifespan_the_state_is_empty() -> None:
    async with Registry().running() as state:
        assert state == {}


# Payloads.


class Model(BaseModel):
    id: int


@dataclass
class Data:
    id: int
    name: str = "x"


class Typed(TypedDict):
    id: int


async def given(annotation: Any, payload: Any) -> Any:
    """What a handler with that annotation gets."""
    registry, seen = Registry(), []

    async def job(payload: Any) -> None:
        seen.append(payload)

    job.__annotations__["payload"] = annotation
    registry.handler("job")(job)
    result = await run_job(registry, "job", payload)
    if result.status == "dead":
        raise Reject(result.detail, code=result.reason)  # type: ignore[arg-type]
    return seen[0]


@pytest.mark.parametrize(
    ("annotation", "payload", "value"),
    [
        (Model, {"id": 1}, Model(id=1)),
        (Data, {"id": 1}, Data(1)),
        (Typed, {"id": 1}, {"id": 1}),
        (dict, {"id": 1}, {"id": 1}),
        (dict[str, int], {"id": 1}, {"id": 1}),
        (list[Model], [{"id": 1}], [Model(id=1)]),
        (Any, [1, None], [1, None]),
        (int, 3, 3),
    ],
)
async def test_the_annotation_says_what_the_handler_gets(annotation: Any, payload: Any, value: Any) -> None:
    found = await given(annotation, payload)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("annotation", [Model, Data, Typed, dict[str, int]])
async def test_what_does_not_fit_is_an_invalid_payload(annotation: Any) -> None:
    with pytest.raises(Reject) as caught:
        await given(annotation, {"id": "s3cret"})
    assert caught.value.code == "invalid_payload"
    assert "$.id (got a string)" in caught.value.detail
    assert "s3cret" not in caught.value.detail


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


async def test_a_tag_nobody_knows_is_not_repeated() -> None:
    with pytest.raises(Reject) as caught:
        await given(Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "s3cret"})
    assert caught.value.detail == "'kind' must be one of 'cat', 'dog' at $ (got an object)"


async def test_many_faults_are_told_in_short() -> None:
    with pytest.raises(Reject, match=r"\$\[4\].*; and 15 more$"):
        await given(list[int], ["x"] * 20)


# Where a handler runs.


async def test_a_plain_function_runs_in_a_thread_with_and_without_context() -> None:
    registry, seen = Registry(), []

    @registry.handler("job")
    def job(payload: Any, context: Context) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), context.job.id))

    @registry.handler("short")
    def short(payload: Any) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), payload))

    assert (await run_job(registry, "job")).status == "succeeded"
    assert (await run_job(registry, "short", 5)).status == "succeeded"
    assert seen == [(False, "job-1"), (False, 5)]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
async def test_what_a_plain_function_raises_is_its_end(error: type[BaseException]) -> None:
    registry = Registry()

    @registry.handler("job", attempts=1)
    def job(payload: Any) -> None:
        raise error

    result = await run_job(registry, "job")
    assert result.detail == f"1 attempts, the last: {error.__name__}"


async def test_a_coroutine_behind_a_plain_wrapper_is_run_and_not_taken_for_done() -> None:
    registry, ran = Registry(), []

    def decorated(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def wrapper(*arguments: Any) -> Any:
            return handler(*arguments)

        return wrapper

    @registry.handler("job", attempts=1)
    @decorated
    async def job(payload: Model, context: Context) -> None:
        await asyncio.sleep(0)
        ran.append(payload)

    assert (await run_job(registry, "job", {"id": 1})).status == "succeeded"
    assert ran == [Model(id=1)]


async def test_methods_are_handlers_too() -> None:
    registry, seen = Registry(), []

    class Shop:
        async def sync(self, payload: Model) -> None:
            seen.append(payload)

    registry.handler("job")(Shop().sync)
    assert (await run_job(registry, "job", {"id": 1})).status == "succeeded"
    assert seen == [Model(id=1)]


# Whose word counts: the operator's, then the registration's, then the defaults.


@pytest.mark.parametrize(
    ("own", "operator", "timeout", "attempts", "backoff", "limits"),
    [
        ({}, TypeOverride(), 60, 16, (2, 3600), {}),
        ({"timeout": 5, "attempts": 2, "backoff": (1, 4)}, TypeOverride(), 5, 2, (1, 4), {}),
        ({"timeout": 5, "attempts": 2}, TypeOverride(7, 3, (0, 1), 9), 7, 3, (0, 1), {"type:job": 9}),
        ({"concurrency": 3}, TypeOverride(timeout=7), 7, 16, (2, 3600), {"type:job": 3}),
    ],
)
def test_whose_word_counts(
    own: Mapping[str, Any],
    operator: TypeOverride,
    timeout: float,
    attempts: int,
    backoff: tuple[float, float],
    limits: dict[str, int],
) -> None:
    registry = Registry()
    registry.handler("job", **own)(nothing)
    rules = Rules(
        DecodeRules(frozenset()), CopyRules(Topology("jobs")), ReplyRules(Topology("jobs")), types={"job": operator}
    )
    found = rules.for_type(registry.find("job"))
    assert (found.timeout, found.own_limits) == (timeout, limits)
    assert found.policy == RetryPolicy(attempts, *backoff)
