"""What a job remembers over its attempts: elements of a fan-out, released results, what it published, and how much."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from tests.runtime.toys import headers, one, run
from worker import Context, Reject, Retry, Snooze
from worker.core.finished import MOST_ELEMENTS, Elements, decode_steps
from worker.core.job import decode
from worker.runtime.steps import KEPT_LIMIT
from worker.testing import Harness, run_job
from worker.testing.clock import let_run


class Pushed:
    """A step that counts how often each item was pushed, and fails for some the first time."""

    def __init__(self, *fails: Any, error: BaseException | None = None) -> None:
        self.items: list[Any] = []
        self._fails = set(fails)
        self._error = error or Retry("not now", after=10)

    async def __call__(self, item: Any) -> str:
        self.items.append(item)
        if item in self._fails:
            self._fails.remove(item)
            raise self._error
        return f"pushed {item}"


async def test_a_retry_runs_only_the_elements_that_are_not_finished() -> None:
    pushed, results = Pushed("b"), []

    async def body(context: Context) -> None:
        results.append(await context.map("push", pushed, ["a", "b", "c"], concurrency=3))

    assert (await run(body)).status == "succeeded"
    assert sorted(pushed.items) == ["a", "b", "b", "c"]
    assert results == [["pushed a", "pushed b", "pushed c"]]


async def test_an_element_whose_item_is_another_one_by_now_runs_again() -> None:
    pushed = Pushed("x")
    lists = [["a", "b", "x"], ["a", "B", "x"]]

    async def body(context: Context) -> None:
        await context.map("push", pushed, lists[context.job.attempt - 1], concurrency=1)

    assert (await run(body)).status == "succeeded"
    assert pushed.items == ["a", "b", "x", "B", "x"]


class Order(BaseModel):
    id: int


@pytest.mark.parametrize(
    "make",
    [
        lambda: Order(id=7),
        lambda: {"id": 7},
        lambda: (object(), 7),
        lambda: float("nan"),
        lambda: b"\xff\x00",
        lambda: "\ud800",
    ],
)
async def test_an_item_is_the_same_by_what_it_says(make: Any) -> None:
    calls = []

    async def push(item: Any) -> None:
        calls.append(item)

    async def body(context: Context) -> None:
        await context.map("push", push, [make()])
        if context.job.attempt == 1:
            raise Retry(after=10)

    assert (await run(body)).status == "succeeded"
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("first", "second"), [([b"\xff", b"\xfe"], [b"\xfe", b"\xfd"]), ([(object, 1)], [(object, 2)])]
)
async def test_other_items_run_again_whatever_they_are(first: list[Any], second: list[Any]) -> None:
    calls: list[Any] = []

    async def push(item: Any) -> None:
        calls.append(item)

    async def body(context: Context) -> None:
        await context.map("push", push, first if context.job.attempt == 1 else second, concurrency=1)
        if context.job.attempt == 1:
            raise Retry(after=10)

    assert (await run(body)).status == "succeeded"
    assert calls == [*first, *second]


async def test_an_item_that_its_function_changes_is_still_the_same_one() -> None:
    calls: list[int] = []

    async def push(item: dict[str, Any]) -> None:
        calls.append(item["id"])
        item["pushed"] = True

    async def body(context: Context) -> None:
        await context.map("push", push, [{"id": 1}, {"id": 2}])
        if context.job.attempt == 1:
            raise Retry(after=10)

    assert (await run(body)).status == "succeeded"
    assert sorted(calls) == [1, 2]


async def test_items_that_nothing_tells_apart_are_refused() -> None:
    async def body(context: Context) -> None:
        with pytest.raises(
            TypeError, match="an item of map 'push' is object, which is no JSON: give what tells it apart"
        ):
            await context.map("push", Pushed(), [object()])

    assert (await run(body)).status == "succeeded"


async def test_an_empty_map_and_one_with_no_element_done_leave_what_else_is_done() -> None:
    charged: list[int] = []

    async def charge() -> str:
        charged.append(1)
        return "ch_1"

    async def body(context: Context) -> None:
        await context.step("charge", charge)
        assert await context.map("none", Pushed(), []) == []
        await context.map("some", Pushed(*([0] * (context.job.attempt < 3))), [0])

    assert (await run(body)).status == "succeeded"
    assert charged == [1]


async def test_snoozing_beside_an_empty_map_costs_nothing() -> None:
    async def body(context: Context) -> None:
        await context.map("none", Pushed(), [])
        await context.step("one", Pushed(), 1)
        if context.job.snoozes < 5:
            raise Snooze(10)

    result = await run(body)
    assert (result.status, result.attempts, result.snoozes) == ("succeeded", 1, 5)


async def test_nothing_done_is_given_back_as_it_is() -> None:
    stuck = asyncio.Event()

    async def body(context: Context) -> None:
        await context.map("none", Pushed(), [])
        stuck.set()
        await asyncio.Event().wait()

    async with Harness(one(body)) as harness:
        harness.publish("job", id="a")
        await let_run()
        assert stuck.is_set()
        assert harness.pipeline.running == 1
        harness.pipeline.stop_starting()
        harness.pipeline.give_back()
        await harness.broker.stop_consuming()
        harness.pipeline.interrupt()
        await let_run()
        (given_back,) = harness.broker.messages("jobs")
        assert "x-worker-id" not in headers(given_back), "no copy: the message itself"


@pytest.mark.parametrize("use", ["step", "map"])
async def test_the_name_of_a_step_is_text(use: str) -> None:
    async def body(context: Context) -> None:
        with pytest.raises(TypeError, match="the name of a step must be text, not 17"):
            await (context.step(17, Pushed(), 1) if use == "step" else context.map(17, Pushed(), [1]))  # type: ignore[arg-type]

    assert (await run(body)).status == "succeeded"


@pytest.mark.parametrize("places", [1, 5])
async def test_after_a_failure_no_element_starts_that_waited_for_its_place(places: int) -> None:
    pushed = Pushed(*range(20), error=Reject("no"))

    async def body(context: Context) -> None:
        await context.map("push", pushed, range(20), concurrency=20)

    result = await run_job(one(body), "job", steps=places)
    assert result.reason == "rejected"
    assert pushed.items == [0]


async def test_elements_survive_a_snooze_and_a_drain() -> None:
    pushed = Pushed(2, error=Snooze(30))
    stuck = asyncio.Event()

    async def push(item: int) -> str:
        done = await pushed(item)
        if item == 3 and not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()
        return done

    async def body(context: Context) -> None:
        await context.map("push", push, [1, 2, 3], concurrency=1)

    async with Harness(one(body)) as harness:
        harness.publish("job", id="a")
        await let_run()
        await harness.clock.advance(31)  # snoozed, and back; now element 3 hangs
        assert stuck.is_set()
        harness.pipeline.interrupt()
        await let_run()
        await harness.until_quiet()
        assert not harness.broker.dead
    assert pushed.items == [1, 2, 2, 3, 3]


async def run_wide(body: Any) -> None:
    async with Harness(one(body)) as harness:
        harness.publish("job")
        await harness.until_quiet(patience=30)  # that work takes real time, in which the clock must not move on
        assert not harness.broker.dead


async def test_ten_thousand_elements_travel_with_their_job() -> None:
    pushed = Pushed(MOST_ELEMENTS - 1)

    async def push(item: int) -> None:
        await pushed(item)

    async def body(context: Context) -> None:
        await context.map("push", push, range(MOST_ELEMENTS), concurrency=100)

    await run_wide(body)
    assert len(pushed.items) == MOST_ELEMENTS + 1


async def test_more_elements_than_that_are_refused_before_the_first_one_runs() -> None:
    pushed = Pushed()

    async def body(context: Context) -> None:
        with pytest.raises(ValueError, match="map 'push' has more than 10000 items"):
            await context.map("push", pushed, iter(range(10**12)))

    assert (await run(body)).status == "succeeded"
    assert not pushed.items


async def test_the_loop_turns_while_finished_elements_are_passed_over() -> None:
    turns: list[int] = []

    async def push(item: int) -> None:
        return None

    async def body(context: Context) -> None:
        if context.job.attempt == 1:
            await context.map("push", push, range(MOST_ELEMENTS), concurrency=50)
            raise Retry(after=10)
        beat = asyncio.create_task(count())
        await context.map("push", push, range(MOST_ELEMENTS), concurrency=1)
        beat.cancel()

    async def count() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    await run_wide(body)
    assert len(turns) >= MOST_ELEMENTS // 100


@pytest.mark.parametrize("first", ["step", "map"])
async def test_a_step_and_a_map_cannot_share_a_name(first: str) -> None:
    async def nothing(_item: Any = None) -> None:
        return None

    async def body(context: Context) -> None:
        async def use(what: str) -> None:
            await (context.step("push", nothing) if what == "step" else context.map("push", nothing, [1]))

        await use(first)
        with pytest.raises(ValueError, match="give "):
            await use("map" if first == "step" else "step")

    assert (await run(body)).status == "succeeded"


async def test_elements_count_against_the_key_of_their_item() -> None:
    keys: list[Any] = []

    async def push(item: str) -> None:
        return None

    async def body(context: Context) -> None:
        await context.map("push", push, ["a", "b"], key=key_of)

    def key_of(item: str) -> str:
        keys.append(item)
        return f"tenant-{item}"

    assert (await run(body)).status == "succeeded"
    assert sorted(keys) == ["a", "b"]


# Released results.

LARGE = "x" * 70_000


def big(runs: list[str]) -> Any:
    async def fetch() -> str:
        runs.append("fetch")
        return LARGE

    return fetch


async def test_a_released_result_that_does_not_fit_leaves_its_mark_and_the_step_does_not_run_again() -> None:
    runs: list[str] = []
    seen: list[Any] = []

    async def body(context: Context) -> None:
        seen.append(await context.step("fetch", big(runs)))
        seen.append(context.dropped("fetch"))
        context.release("fetch")
        if context.job.attempt == 1:
            raise Snooze(10) if not context.job.snoozes else Retry(after=10)

    result = await run(body)
    assert (result.status, result.attempts, result.snoozes) == ("succeeded", 2, 1)
    assert runs == ["fetch"]
    assert seen == [LARGE, None, None, 70_002, None, 70_002]


async def test_one_that_is_needed_and_does_not_fit_runs_again_and_costs_an_attempt() -> None:
    runs: list[str] = []

    async def body(context: Context) -> None:
        await context.step("fetch", big(runs))
        if context.job.attempt == 1:
            raise Snooze(10)

    result = await run(body)
    assert (result.status, result.attempts) == ("succeeded", 2)
    assert runs == ["fetch", "fetch"]


async def test_released_elements_leave_their_marks() -> None:
    calls: list[int] = []
    seen: list[Any] = []

    async def push(item: int) -> str:
        calls.append(item)
        return f"{item}" * 1000

    async def body(context: Context) -> None:
        results = await context.map("push", push, range(100))
        seen.append(results[7])
        context.release("push")
        if context.job.attempt == 1:
            raise Retry(after=10)

    assert (await run(body)).status == "succeeded"
    assert len(calls) == 100
    assert seen == ["7" * 1000, None]


async def test_all_results_together_are_bounded() -> None:
    async def large(_item: int) -> str:
        return "x" * (KEPT_LIMIT // 4)

    async def body(context: Context) -> None:
        await context.map("large", large, range(3))
        await context.step("small", large, 0)

    result = await run(body)
    assert (result.status, result.reason) == ("dead", "result_too_large")
    assert result.detail == f"the results of the job are above {KEPT_LIMIT} bytes"


async def test_a_dead_letter_keeps_the_elements() -> None:
    async def push(item: int) -> str:
        if item == 2:
            raise Reject("no")
        return f"{item}"

    async def body(context: Context) -> None:
        await context.map("push", push, [0, 1, 2, 3], concurrency=1)

    result = await run(body)
    assert result.dead_letter is not None
    (kept,) = decode_steps(headers(result.dead_letter)["x-worker-steps"]).values()
    assert isinstance(kept, Elements)
    assert {number: element.value for number, element in kept.done.items()} == {0: "0", 1: "1"}


# Child jobs.


async def test_a_published_child_runs_once_however_often_its_parent_is_tried() -> None:
    ran: list[tuple[str, Any]] = []
    ids: list[str] = []

    async def body(context: Context) -> None:
        ids.append(await context.publish("mail", "child", {"to": "a"}, delay=60, headers={"tenant": "7"}))
        if context.job.attempt == 1:
            raise Retry(after=10)

    registry = one(body)

    @registry.handler("child")
    async def child(payload: Any, context: Context) -> None:
        ran.append((context.job.id, payload))
        assert context.job.headers["tenant"] == "7"
        assert context.job.headers["traceparent"].startswith("00-" + "5" * 32)

    parent = {"traceparent": "00-" + "5" * 32 + "-" + "6" * 16 + "-01"}
    async with Harness(registry) as harness:
        harness.publish("job", id="order-7", headers=parent)
        await harness.until_quiet()
        assert not harness.broker.dead
    assert ids == ["order-7/mail", "order-7/mail"]
    assert ran == [("order-7/mail", {"to": "a"})]


async def test_what_cannot_be_published_is_said() -> None:
    async def body(context: Context) -> None:
        with pytest.raises(TypeError, match="the payload of child job 'mail' cannot travel as JSON"):
            await context.publish("mail", "child", {1, 2})
        with pytest.raises(TypeError, match="cannot travel as JSON: a lone surrogate"):
            await context.publish("mail", "child", "\ud800")
        with pytest.raises(ValueError, match="x-worker"):
            await context.publish("mail", "child", headers={"x-worker-id": "x"})
        await context.publish("mail", "child", queue="nowhere")

    async with Harness(one(body, attempts=1)) as harness:
        harness.publish("job")
        await harness.until_quiet()
        (letter,) = harness.broker.dead
        assert headers(letter)["x-worker-reason"] == "attempts_exhausted"
        assert "Unroutable" in headers(letter)["x-worker-detail"]


async def test_two_children_cannot_share_a_name_nor_a_child_and_a_step() -> None:
    async def body(context: Context) -> None:
        await context.publish("mail", "child")
        with pytest.raises(ValueError, match="'mail' names a step or a child of this job already"):
            await context.publish("mail", "child")
        await context.step("step", Pushed(), 1)
        with pytest.raises(ValueError, match="'step' names a step or a child"):
            await context.publish("step", "child")

    result = await run(body)
    assert (result.status, len(result.published)) == ("succeeded", 1)


async def test_the_body_is_what_any_publisher_would_send() -> None:
    async def body(context: Context) -> None:
        await context.publish("mail", "child", {"to": "ü", "n": [1, None]}, queue="other")

    async with Harness(one(body)) as harness:
        harness.broker.declare("other")
        harness.publish("job", id="a")
        await harness.until_quiet()
        (message,) = harness.broker.messages("other")
        job = decode(message, harness._rules.decode, now=harness.clock.now(), fresh_id="fresh")
        assert (job.id, getattr(job, "payload", None)) == ("a/mail", {"to": "ü", "n": [1, None]})
