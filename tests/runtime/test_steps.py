"""Steps: run once over retries and parks, with results that travel, within their budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field

from tests.runtime.toys import Ran, headers, one, run
from worker import Context, Reject, Retry, Snooze
from worker.core.copies import STEPS_LIMIT
from worker.runtime.limiter import Places
from worker.runtime.result_form import plain_json
from worker.testing import run_job

# Run once.


@pytest.mark.parametrize("end", [Retry(after=10), Snooze(30), ValueError()], ids=["retry", "snooze", "error"])
async def test_a_finished_step_is_not_run_again(end: Exception) -> None:
    ran, values = Ran(), []

    async def body(context: Context) -> None:
        values.append(await context.step("a", ran.step, "a"))
        if len(values) < 3:
            raise end
        await context.step("b", ran.step, "b")

    result = await run(body)
    assert result.status == "succeeded"
    assert values == ["A", "A", "A"]
    assert ran.names == ["a", "b"]


async def test_a_finished_step_survives_a_timeout_and_what_was_unfinished_runs_again() -> None:
    ran, tries = Ran(), []

    async def hangs_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.Event().wait()

    async def body(context: Context) -> None:
        await context.gather(context.step("a", ran.step, "a"), context.step("b", hangs_once, timeout=100))

    result = await run(body, timeout=30)
    assert (result.status, result.attempts) == ("succeeded", 2)
    assert ran.names == ["a"]
    assert len(tries) == 2


async def test_a_failed_step_runs_again_and_its_siblings_do_not() -> None:
    ran, tries = Ran(), []

    async def fails_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError

    async def body(context: Context) -> None:
        await context.gather(context.step("bad", fails_once), context.step("good", ran.step, "good"))

    result = await run(body)
    assert (result.status, result.attempts) == ("succeeded", 2)
    assert ran.names == ["good"]


async def test_a_step_that_found_nothing_counts_as_run() -> None:
    ran = []

    async def nothing() -> None:
        ran.append(1)

    async def body(context: Context) -> None:
        found: object = await context.step("a", nothing)
        assert found is None
        if len(ran) < 2 and context.job.attempt == 1:
            raise Retry(after=1)

    assert (await run(body)).status == "succeeded"
    assert ran == [1]


async def test_the_dead_letter_carries_the_finished_steps() -> None:
    ran = Ran()

    async def body(context: Context) -> None:
        await context.step("a", ran.step, "a")
        raise Reject("no")

    result = await run(body)
    assert result.dead_letter is not None
    assert headers(result.dead_letter)["x-worker-steps"] == '{"a":["A"]}'


# Results.


class User(BaseModel):
    id: int
    since: datetime


@dataclass
class Point:
    x: int
    y: float = 0.0


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def user() -> User:
    return User(id=1, since=NOON)


async def users() -> list[User]:
    return [User(id=1, since=NOON)]


async def point() -> Point:
    return Point(1, 2.5)


async def when() -> datetime:
    return NOON


async def maybe() -> timedelta | None:
    return timedelta(seconds=90)


async def untyped():  # type: ignore[no-untyped-def]
    return {1: (2, 3)}


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (user, User(id=1, since=NOON)),
        (users, [User(id=1, since=NOON)]),
        (point, Point(1, 2.5)),
        (when, NOON),
        (maybe, timedelta(seconds=90)),
        (untyped, {"1": [2, 3]}),
    ],
)
async def test_a_result_is_the_same_on_the_first_run_and_after_its_travels(
    fn: Callable[[], Awaitable[Any]], value: Any
) -> None:
    seen: list[Any] = []

    async def body(context: Context) -> None:
        seen.append(await context.step("s", fn))
        if len(seen) == 1:
            raise Retry(after=10)

    assert (await run(body)).status == "succeeded"
    assert seen == [value, value]
    assert [type(one) for one in seen] == [type(value)] * 2


async def an_object():  # type: ignore[no-untyped-def]
    return object()


async def a_nan() -> float:
    return float("nan")


async def a_loop() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize("fn", [an_object, a_nan, a_loop])
async def test_what_cannot_be_json_is_a_type_error_that_names_the_step(fn: Callable[[], Awaitable[Any]]) -> None:
    told: list[str] = []

    async def body(context: Context) -> None:
        try:
            await context.step("odd one", fn)
        except TypeError as error:
            told.append(str(error))
            assert "odd one" not in context.steps.finished
            raise

    result = await run(body, attempts=1)
    assert result.detail == "1 attempts, the last: TypeError"
    assert "step 'odd one'" in told[0]


async def test_a_result_that_does_not_fit_its_annotation_is_not_remembered() -> None:
    tries = []

    async def lies() -> User:
        tries.append(1)
        answer: Any = {"id": 1, "since": NOON} if len(tries) > 1 else {"error": "try later"}
        return answer  # type: ignore[no-any-return]

    async def body(context: Context) -> None:
        assert await context.step("s", lies) == User(id=1, since=NOON)

    result = await run(body)
    assert (result.status, result.attempts) == ("succeeded", 2)


# Names and nesting.


async def test_nested_steps_run_under_their_parents_place() -> None:
    ran = Ran()

    async def outer(context: Context) -> list[str]:
        return list(await context.gather(*(context.step(name, ran.step, name) for name in "abc")))

    async def body(context: Context) -> None:
        assert await context.step("outer", outer, context) == ["A", "B", "C"]

    assert (await run_job(one(body), "job", places=Places(steps=1))).status == "succeeded"


async def test_a_name_that_runs_already_is_refused() -> None:
    told = []

    async def body(context: Context) -> None:
        try:
            await context.gather(*(context.step("same", asyncio.sleep, 0) for _ in range(2)))
        except ValueError as error:
            told.append(str(error))

    assert (await run(body)).status == "succeeded"
    assert told == ["step 'same' is running already: give every step of a job its own name"]


async def test_a_name_that_has_run_gives_its_result_again() -> None:
    ran = Ran()

    async def body(context: Context) -> None:
        assert [await context.step("same", ran.step, "a") for _ in range(2)] == ["A", "A"]

    assert (await run(body)).status == "succeeded"
    assert ran.names == ["a"]


# The budget.


async def big(size: int) -> str:
    return "x" * size


async def test_steps_that_do_not_fit_make_a_free_wait_cost_an_attempt() -> None:
    runs = []

    async def body(context: Context) -> None:
        runs.append(context.job.attempt)
        await context.step("big", big, STEPS_LIMIT)
        raise Snooze(10)

    result = await run(body, attempts=3)
    assert runs == [1, 2, 3]
    assert (result.reason, result.attempts) == ("attempts_exhausted", 3)
    assert "finished steps too large to travel" in result.detail


async def test_steps_that_fit_leave_a_free_wait_free() -> None:
    runs = []

    async def body(context: Context) -> None:
        runs.append(context.job.attempt)
        await context.step("fits", big, STEPS_LIMIT // 2)
        if len(runs) < 5:
            raise Snooze(10)

    assert (await run(body, attempts=3)).status == "succeeded"
    assert runs == [1] * 5


async def test_of_several_steps_only_what_does_not_fit_runs_again() -> None:
    ran: list[str] = []

    async def make(name: str, size: int) -> str:
        ran.append(name)
        return "x" * size

    async def body(context: Context) -> None:
        await context.step("small", make, "small", 10)
        await context.step("big", make, "big", STEPS_LIMIT)
        if context.job.attempt == 1:
            raise Retry(after=10)

    assert (await run(body)).status == "succeeded"
    assert ran == ["small", "big", "big"]


# The form of results.


if TYPE_CHECKING:
    from somewhere import Client  # type: ignore[import-not-found]


class Named(BaseModel):
    id: int


async def typed_though_another_annotation_cannot_be_read(client: Client | None = None) -> Named:
    return Named(id=7)


async def bounded() -> Annotated[int, Field(gt=0)]:
    return -5


async def test_only_the_return_annotation_counts() -> None:
    async def body(context: Context) -> None:
        assert await context.step("user", typed_though_another_annotation_cannot_be_read) == Named(id=7)
        with pytest.raises(ValueError, match="greater than 0"):
            await context.step("bounded", bounded)

    assert (await run(body)).status == "succeeded"


@pytest.mark.parametrize(
    "value", [b"bytes", {1, 2}, datetime(2026, 1, 1, tzinfo=UTC), Named(id=1), float("nan"), [b"x"], {"a": {1}}]
)
def test_what_is_no_json_is_none_without_an_annotation_that_says_how(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain_json(value)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "ü", "\ud800", [1, [2]], {"a": {"b": None}}, 2**70, []])
def test_plain_json_stays_what_it_is(value: Any) -> None:
    plain, size = plain_json(value)
    assert (plain, type(plain)) == (value, type(value))
    assert size > 0


def test_tuples_and_numbers_as_names_are_taken_as_json_does() -> None:
    assert plain_json((1, {2: 3}))[0] == [1, {"2": 3}]
