"""`for_each`: one request for each element, in call order, remembered one by one, never more at once than asked for."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any, Self

import pytest

from tests.http.desk import Answer, Crowd, Desk, by_path, keys, path_of, paths
from tests.http.targets import Exchange, MakeEngine, Serve
from tests.http.test_pace import Worktime
from worker.http.jobs.json_pieces import json_pieces
from worker.http.jobs.pace import HELPING, Pace


@pytest.fixture
def desk(make_engine: MakeEngine) -> Desk:
    return Desk(make_engine)


def over(items: Any, url: str, **more: Any) -> dict[str, Any]:
    """A job of one step, over `items`."""
    return {"url": f"{url}{{{{ item }}}}", "for_each": items, "retry": {"attempts": 1}, **more}


async def test_results_are_in_call_order_whatever_comes_back_first(serve: Serve, desk: Desk) -> None:
    """The answers come last one first: each waits for those after it."""

    async def script(exchange: Exchange) -> None:
        number = int(path_of(exchange)[1:])
        await answered[number + 1].wait()
        await Answer(value=number * 10).give(exchange)
        answered[number].set()

    answered = [asyncio.Event() for _ in range(6)]
    answered[5].set()
    target = await serve(script)
    done = await desk.run(over([0, 1, 2, 3, 4], target.url, save="json"))
    assert done.value == {"request": [0, 10, 20, 30, 40]}
    assert keys(target) == [f"job-1/request/{number}" for number in range(5)]


async def test_without_save_only_the_status_is_kept(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(200, {"big": 1}), "/b": Answer(201)}))
    assert (await desk.run(over(["a", "b"], target.url))).value == {"request": [{"status": 200}, {"status": 201}]}


@pytest.mark.parametrize("items", [[], "{{ a.json }}"])
async def test_an_empty_list_is_done_at_once(serve: Serve, desk: Desk, items: Any) -> None:
    target = await serve(by_path({"/a": Answer(value=[])}))
    step = {"id": "b", "needs": ["a"], **over(items, target.url)}
    done = await desk.run({"steps": [{"id": "a", "url": f"{target.url}a"}, step]})
    assert (done.status, done.value["b"], len(target.seen)) == ("succeeded", [], 1)


async def test_elements_come_from_a_result_and_fill_every_part(serve: Serve, desk: Desk) -> None:
    orders = [{"id": 1, "to": "a/b"}, {"id": 2, "to": "c"}]
    target = await serve(
        by_path({"/orders": Answer(value={"by": "me", "items": orders}), "/a%2Fb": Answer(), "/c": Answer()})
    )
    push = {
        "id": "push",
        "needs": ["orders"],
        "for_each": "{{ orders.json.items }}",
        "url": f"{target.url}{{{{ item.to }}}}",
        "method": "PUT",
        "headers": {"X-By": "{{ orders.json.by }}", "Idempotency-Key": "order-{{ item.id }}"},
        "json": {"order": "{{ item }}"},
        "concurrency": 1,
    }
    done = await desk.run({"steps": [{"id": "orders", "url": f"{target.url}orders"}, push]})
    assert done.status == "succeeded"
    assert paths(target) == ["/orders", "/a%2Fb", "/c"]
    assert [json.loads(seen.body) for seen in target.seen[1:]] == [{"order": one} for one in orders]
    assert keys(target)[1:] == ["order-1", "order-2"]
    assert target.seen[1].header("x-by") == "me"


async def test_elements_may_be_urls(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer()}))
    job = {"url": "{{ item }}", "for_each": [f"{target.url}a", f"{target.url}b"], "concurrency": 1}
    assert (await desk.run(job)).status == "succeeded"
    assert paths(target) == ["/a", "/b"]


async def test_no_more_at_once_than_asked_for(serve: Serve, desk: Desk) -> None:
    crowd = Crowd(asyncio.Barrier(3))
    target = await serve(crowd)
    done = await desk.run(over(list(range(9)), target.url, concurrency=3))
    assert (done.status, crowd.most) == ("succeeded", 3)


@pytest.mark.parametrize("hurdle", [Answer(500), Answer(429), Answer(503, None, {"Retry_After": "60"})])
async def test_finished_elements_are_remembered_over_a_failure_and_a_wait(
    serve: Serve, desk: Desk, hurdle: Answer
) -> None:
    target = await serve(by_path({"/0": Answer(), "/1": Answer(), "/2": [hurdle, Answer()], "/3": Answer()}))
    done = await desk.run(over([0, 1, 2, 3], target.url, concurrency=1))
    assert (done.status, done.attempts) == ("succeeded", 2 if hurdle.status == 500 else 1)
    assert paths(target) == ["/0", "/1", "/2", "/2", "/3"]
    assert keys(target)[2:4] == ["job-1/request/2"] * 2
    assert done.value == {"request": [{"status": 200}] * 4}


async def test_quick_tries_are_each_elements_own(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/0": [Answer(500), Answer()], "/1": Answer()}))
    done = await desk.run(over([0, 1], target.url, concurrency=1, retry={"attempts": 2}))
    assert (done.status, done.attempts, paths(target)) == ("succeeded", 1, ["/0", "/0", "/1"])


async def test_an_element_that_may_not_be_repeated_ends_the_job(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/0": Answer(), "/1": Answer(500), "/2": Answer()}))
    done = await desk.run(over([0, 1, 2], target.url, concurrency=1, retry={"when": "unsent"}))
    assert (done.reason, paths(target)) == ("not_repeated", ["/0", "/1"])


async def test_when_another_step_fails_no_further_element_starts(serve: Serve, desk: Desk) -> None:
    async def script(exchange: Exchange) -> None:
        if path_of(exchange) == "/bad":
            await first.wait()
            await exchange.answer(404)
            failed.set()
            return
        first.set()
        await failed.wait()
        await asyncio.sleep(0.02)  # for the 404 to get there
        await exchange.answer()

    first, failed = asyncio.Event(), asyncio.Event()
    target = await serve(script)
    fan = {"id": "fan", **over([0, 1, 2], target.url, concurrency=1)}
    done = await desk.run({"steps": [fan, {"id": "bad", "url": f"{target.url}bad"}]})
    assert (done.reason, done.detail) == ("http_status", "step 'bad': status 404")
    assert sorted(paths(target)) == ["/0", "/bad"]


async def test_more_elements_than_requests_are_refused_before_the_first(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({}))
    done = await desk.run(over([0, 1, 2], target.url), max_requests=2)
    assert (done.reason, target.seen) == ("rejected", [])
    assert done.detail == "for_each: 3 elements, and one job may make 2 requests (WORKER_MAX_REQUESTS)"


async def test_elements_that_waited_for_their_place_do_not_start_when_one_has_failed(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({}))
    done = await desk.run(over(list(range(30)), target.url, concurrency=10), limits={"127.0.0.1": 1})
    assert (done.reason, paths(target)) == ("http_status", ["/0"])


async def test_of_many_at_once_no_more_start_than_have_a_place(serve: Serve, desk: Desk) -> None:
    target = await serve(Crowd(asyncio.Barrier(5)))
    job = over(list(range(50)), target.url, concurrency=50, expect={"status": [204]})
    done = await desk.run(job, steps=5)
    assert (done.reason, len(target.seen)) == ("http_status", 5)


async def test_a_quick_try_beyond_the_allowance_does_not_kill_the_job(serve: Serve, desk: Desk) -> None:
    """Three elements and three requests: the one more that /0 takes is made by the next attempt."""
    target = await serve(by_path({"/0": [Answer(500), Answer()], "/1": Answer(), "/2": Answer()}))
    done = await desk.run(over([0, 1, 2], target.url, concurrency=1, retry={"attempts": 2}), max_requests=3)
    assert (done.status, done.attempts, paths(target)) == ("succeeded", 2, ["/0", "/0", "/1", "/2"])


async def test_elements_need_what_other_steps_have_left(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({path: Answer() for path in ("/a", "/0", "/1")}))
    fan = {"id": "b", "needs": ["a"], **over([0, 1], target.url)}
    done = await desk.run({"steps": [{"id": "a", "url": f"{target.url}a"}, fan]}, max_requests=2, attempts=1)
    assert paths(target) == ["/a"]
    assert done.detail == (
        "1 attempts, the last: step 'b': for_each: 2 elements, and 1 requests are left (WORKER_MAX_REQUESTS)"
    )
    # In the next attempt the first step is done, and all of them are left.
    done = await desk.run({"steps": [{"id": "a", "url": f"{target.url}a"}, fan]}, max_requests=2)
    assert (done.status, done.attempts) == ("succeeded", 2)


@pytest.mark.parametrize("more", [{}, {"limit_key": "127.0.0.1"}])
async def test_each_element_counts_against_its_host(serve: Serve, desk: Desk, more: dict[str, Any]) -> None:
    crowd = Crowd()
    target = await serve(crowd)
    done = await desk.run(over([0, 1, 2, 3], target.url, **more), limits={"127.0.0.1": 1})
    assert (done.status, done.snoozes, crowd.most) == ("succeeded", 0, 1)


async def test_the_host_of_an_element_is_not_sought_for_long(serve: Serve, desk: Desk) -> None:
    """All that run at once are sought in one turn of the loop."""
    target = await serve(by_path({"/a": Answer(value=[0] * 1000)}))
    fan = {"id": "b", "needs": ["a"], "url": "{{ a[?@ == item] | [0] }}", "for_each": [1]}
    done = await desk.run({"steps": [{"id": "a", "url": f"{target.url}a", "save": "json"}, fan]})
    text = "step 'b': url: the templates of one step may look at 2000 values in all, these need more"
    assert (done.reason, done.detail) == ("template", text)


async def test_each_element_counts_against_the_host_it_names(serve: Serve, desk: Desk) -> None:
    crowd = Crowd()
    target = await serve(crowd)
    job = {"url": "{{ item }}", "for_each": [f"{target.url}{number}" for number in range(4)]}
    done = await desk.run(job, limits={"127.0.0.1": 1})
    assert (done.status, done.snoozes, crowd.most) == ("succeeded", 0, 1)
    # Where the job holds that name itself, it must not wait for itself.
    named = await desk.run({**job, "limit_key": "127.0.0.1"}, limits={"127.0.0.1": 1})
    assert (named.status, named.snoozes) == ("succeeded", 0)


async def test_a_bad_element_is_named_by_its_place_only(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/0": Answer()}))
    done = await desk.run(over([0, ".."], target.url, concurrency=1))
    assert (done.reason, paths(target)) == ("template", ["/0"])
    assert done.detail == """url: 'item' would make "." or ".." of a path segment"""


async def test_an_element_that_is_no_url_is_named_too(serve: Serve, desk: Desk) -> None:
    done = await desk.run({"url": "{{ item }}", "for_each": ["ftp://s3cr3t/"]})
    assert (done.reason, done.detail) == ("template", "url: the URL is not an absolute http or https URL")


async def test_requests_are_filled_one_by_one(serve: Serve, desk: Desk) -> None:
    """A body of 100 kB for each of 200 elements never is there 200 times."""

    async def ok(exchange: Exchange) -> None:
        target.seen.clear()
        await exchange.answer()

    target = await serve(ok)
    job = over(list(range(200)), target.url, method="POST", json={"big": "x" * 100_000, "n": "{{ item }}"})
    tracemalloc.start()
    try:
        done = await desk.run(job)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.status == "succeeded"
    assert peak < 10_000_000


async def test_a_literal_body_is_encoded_once_for_all(
    serve: Serve, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces(value: Any) -> Iterator[str]:
        encoded.append(value)
        return json_pieces(value)

    encoded: list[Any] = []
    monkeypatch.setattr("worker.http.jobs.filling.json_pieces", pieces)
    target = await serve(by_path({f"/{number}": Answer() for number in range(9)}))
    body = {"rows": list(range(5000))}
    done = await desk.run(over(list(range(9)), target.url, method="POST", json=body))
    assert (done.status, encoded) == ("succeeded", [body])
    assert [json.loads(seen.body) for seen in target.seen] == [body] * 9
    assert {seen.header("content-type") for seen in target.seen} == {"application/json"}


async def test_elements_are_filled_one_at_a_time_over_many_turns(
    serve: Serve, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All begin in one turn; each of them takes more than a helping."""

    class Watched(Pace):
        async def __aenter__(self) -> Self:
            begun = await super().__aenter__()
            clock.now += 2 * HELPING
            fills.append(len(turns))
            return begun

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(1)

    clock, fills, turns = Worktime(), list[int](), list[int]()
    watched = Watched(clock)
    monkeypatch.setattr("worker.http.jobs.filling.pace", lambda: watched)
    target = await serve(by_path({"/a": Answer(value=[1]), **{f"/{number}": Answer() for number in range(20)}}))
    fan = {"id": "b", "needs": ["a"], "method": "POST", **over(list(range(20)), target.url, concurrency=20)}
    job = {"steps": [{"id": "a", "url": f"{target.url}a"}, {**fan, "json": "{{ a.json }}"}]}
    counting = asyncio.create_task(count())
    done = await desk.run(job)
    counting.cancel()
    assert done.status == "succeeded"
    assert len(set(fills)) == len(fills) == 20


async def test_what_failed_elements_were_filled_with_is_not_kept(serve: Serve, desk: Desk) -> None:
    """A hundred at once with two megabytes each, of which four have a place, and none is answered."""

    async def script(exchange: Exchange) -> None:
        target.seen.clear()
        exchange.body = b""
        if path_of(exchange) == "/a":
            await Answer(value="x" * 500_000).give(exchange)
        else:
            exchange.reset()

    target = await serve(script)
    fan = {"id": "b", "needs": ["a"], "method": "POST", **over(list(range(100)), target.url, concurrency=100)}
    job = {"steps": [{"id": "a", "url": f"{target.url}a", "save": "json"}, {**fan, "json": ["{{ a }}"] * 4}]}
    tracemalloc.start()
    try:
        done = await desk.run(job, steps=4, attempts=3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.reason == "attempts_exhausted"
    assert peak < 30_000_000
