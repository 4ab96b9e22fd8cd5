"""What travels with a job over a wait is bounded: which results go, and that no step goes without what it needs."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import TypeAdapter

from tests.http.desk import PATIENCE, Answer, Desk, by_path, chain, keys, path_of, paths
from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Context
from worker.core.finished import Element, Elements, Finished, Step, decode_steps, fit_steps
from worker.http.handler import http_registry
from worker.http.jobs.payload import HttpJob
from worker.runtime.steps import item_digest
from worker.testing import Harness, replay_letter, run_job
from worker.testing.memory_broker import WORKER_USER

LONG = "x" * 40_000


@pytest.fixture
def desk(make_engine: MakeEngine) -> Desk:
    return Desk(make_engine)


async def test_a_result_that_nobody_reads_is_dropped_and_its_step_is_not_run_again(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value=LONG), "/b": Answer(value=LONG), "/c": [Answer(500), Answer()]}))
    job = chain(target.url, "a", "b", "c")
    job["steps"][2] |= {"method": "POST", "json": "{{ b.status }}"}
    done = await desk.run(job)
    assert (done.status, done.attempts) == ("succeeded", 2)
    assert paths(target) == ["/a", "/b", "/c", "/c"]
    assert done.value["a"].keys() == {"truncated"}
    assert done.value["a"]["truncated"] > 40_000
    assert done.value["b"]["json"] == LONG


async def test_what_a_forgotten_step_was_made_of_is_there_when_it_runs_again(serve: Serve, desk: Desk) -> None:
    """`b` takes more than a job may carry along, and `c` still needs it: what `b` reads must not have been dropped."""
    target = await serve(by_path({"/a": Answer(value=7), "/b": Answer(value=LONG * 2), "/c": [Answer(500), Answer()]}))
    job = chain(target.url, "a", "b", "c")
    job["steps"][1]["query"] = {"a": "{{ a.json }}"}
    job["steps"][2] |= {"method": "POST", "json": "{{ b.status }}"}
    done = await desk.run(job)
    assert (done.status, done.attempts) == ("succeeded", 2)
    assert paths(target) == ["/a", "/b?a=7", "/c", "/b?a=7", "/c"]


async def test_what_a_fan_out_goes_over_is_there_in_a_later_attempt(serve: Serve, desk: Desk) -> None:
    answers = {"/a": Answer(value={"items": [0, 1], "rest": LONG}), "/long": Answer(value=LONG)}
    target = await serve(by_path({**answers, "/0": Answer(), "/1": Answer(), "/c": [Answer(500), Answer()]}))
    job = chain(target.url, "a", "b", "long", "c")
    job["steps"][1] |= {"for_each": "{{ a.json.items }}", "url": f"{target.url}{{{{ item }}}}", "concurrency": 1}
    done = await desk.run(job)
    assert (done.status, done.attempts) == ("succeeded", 2)
    assert paths(target) == ["/a", "/0", "/1", "/long", "/c", "/c"]
    assert (done.value["b"], done.value["long"].keys()) == ([{"status": 200}] * 2, {"truncated"})


async def test_what_the_callback_reads_is_kept_for_it(serve: Serve, desk: Desk) -> None:
    lasting = {"/a": Answer(value=LONG), "/b": Answer(value={"id": 7, "rest": LONG})}
    target = await serve(by_path({**lasting, "/c": [Answer(500), Answer()]}))
    callback = {"url": f"{target.url}done/{{{{ b.json.id }}}}"}
    done = await desk.run(chain(target.url, "a", "b", "c", callback=callback))
    assert (done.status, done.attempts, done.value["a"].keys()) == ("succeeded", 2, {"truncated"})
    assert done.published[0]["url"] == f"{target.url}done/7"


async def test_a_finished_step_needs_nothing_of_what_it_was_made_of(serve: Serve, desk: Desk) -> None:
    """Its URL came whole out of a result that is gone by now, and with it the host it would count against."""
    target = await serve(by_path({"/b": Answer(), "/long": Answer(value=LONG), "/c": [Answer(500), Answer()]}))
    away = await serve(by_path({"/a": Answer(value={"url": f"{target.url}b", "rest": LONG})}))
    job = chain(target.url, "a", "b", "long", "c")
    job["steps"][0]["url"] = f"{away.url}a"
    job["steps"][1]["url"] = "{{ a.json.url }}"
    job["steps"][3] |= {"method": "POST", "json": "{{ long.status }}"}
    done = await desk.run(job)
    assert (done.status, done.attempts, done.value["a"].keys()) == ("succeeded", 2, {"truncated"})
    assert paths(target) == ["/b", "/long", "/c", "/c"]


async def test_a_result_that_is_gone_is_not_read_as_null(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer()}))
    job = chain(target.url, "a", "b")
    job["steps"][1] |= {"method": "POST", "json": "{{ a.json }}"}
    async with Harness(http_registry(), transport=desk.transport) as harness:
        harness.publish("http", job, user_id=WORKER_USER, headers={"x-worker-steps": '{"a":{"d":9}}'})
        await harness.until_quiet(patience=PATIENCE)
        (report,) = harness.reports.all
    assert (report.reason, report.detail) == (
        "template",
        "step 'b': json: there is no result of 'a', which 'a.json' needs",
    )
    assert not target.seen


async def test_elements_are_known_again_when_what_they_came_from_was_forgotten(serve: Serve, desk: Desk) -> None:
    answers = {"/a": Answer(value={"items": [0, 1], "rest": LONG * 2}), "/0": Answer(), "/1": Answer()}
    target = await serve(by_path({**answers, "/c": [Answer(500), Answer()]}))
    job = chain(target.url, "a", "b", "c")
    job["steps"][1] |= {"for_each": "{{ a.json.items }}", "url": f"{target.url}{{{{ item }}}}", "concurrency": 1}
    done = await desk.run(job)
    assert (done.status, done.attempts) == ("succeeded", 2)
    assert paths(target) == ["/a", "/0", "/1", "/c", "/a", "/c"]


async def test_all_results_of_a_job_together_are_bounded(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({f"/{number}": Answer(value="x" * 1_000_000) for number in range(9)}))
    steps = [{"id": f"s{number}", "url": f"{target.url}{number}"} for number in range(9)]
    done = await desk.run({"steps": steps})
    assert done.reason == "result_too_large"
    assert done.detail.endswith("the results of the job are above 8388608 bytes")


async def test_a_replay_goes_on_where_the_job_had_died(serve: Serve, desk: Desk) -> None:
    """What was finished is not run again, of a fan-out neither."""
    target = await serve(
        by_path({"/a": Answer(value=[0, 1]), "/0": Answer(), "/1": [Answer(404), Answer(), Answer(404)]})
    )
    job = chain(target.url, "a", "b")
    job["steps"][1] |= {"for_each": "{{ a.json }}", "url": f"{target.url}{{{{ item }}}}", "concurrency": 1}
    died = await run_job(http_registry(), "http", job, transport=desk.transport)
    assert died.dead_letter is not None
    replayed = await replay_letter(http_registry(), died.dead_letter, transport=desk.transport)
    assert (replayed.status, replayed.value["b"]) == ("succeeded", [{"status": 200}] * 2)
    assert paths(target) == ["/a", "/0", "/1", "/1"]
    assert keys(target)[2:] == ["job-1/b/1"] * 2


async def test_a_drain_takes_along_what_is_finished(serve: Serve, desk: Desk) -> None:
    """Interrupted while `b` has one of its two elements: that one and `a` are not asked for again."""

    async def script(exchange: Exchange) -> None:
        if path_of(exchange) == "/1" and not interrupted.is_set():
            reached.set()
            await asyncio.Event().wait()
        await Answer(value=[0, 1]).give(exchange)

    reached, interrupted = asyncio.Event(), asyncio.Event()
    target = await serve(script)
    job = chain(target.url, "a", "b")
    job["steps"][1] |= {"for_each": "{{ a.json }}", "url": f"{target.url}{{{{ item }}}}", "concurrency": 1}
    async with Harness(http_registry(), transport=desk.transport) as harness:
        harness.publish("http", job, id="job-1")
        await reached.wait()
        interrupted.set()
        harness.pipeline.interrupt()
        await harness.until_quiet(patience=PATIENCE)
        outcomes = [report.outcome for report in harness.reports.all]
    assert outcomes == ["interrupted", "succeeded"]
    assert paths(target) == ["/a", "/0", "/1", "/1"]
    assert keys(target)[2:] == ["job-1/b/1"] * 2


async def test_what_a_fan_out_reads_is_not_released(serve: Serve, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(context: Context, name: str) -> None:
        released.append(name)
        release(context, name)

    released, release = list[str](), Context.release
    monkeypatch.setattr(Context, "release", noted)
    target = await serve(by_path({"/a": Answer(value=7), "/b": Answer(), "/c": Answer()}))
    job = chain(target.url, "a", "b", "c")
    job["steps"][1] |= {"for_each": [0, 1], "method": "POST", "json": "{{ a.json }}"}
    assert (await desk.run(job)).status == "succeeded"
    assert set(released) == {"b", "c"}


async def test_elements_whose_marks_found_no_room_read_their_sources_again(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value="x" * 100), "/b": Answer(), "/c": Answer()}))
    job = chain(target.url, "a", "b", "c")
    job["steps"][1] |= {"for_each": [0, 1], "method": "POST", "json": "{{ a.json }}"}
    readers = TypeAdapter(HttpJob).validate_python(job).plan.readers()
    steps: dict[str, Step] = {
        "a": Finished({"status": 200, "json": "x" * 100}, needed=bool(readers["a"] - {"b"})),  # when `b` is done
        "b": Elements({n: Element(item_digest("b", n), {"status": 200}) for n in range(2)}, needed=False),
    }
    text = fit_steps(steps, wanted=40, limit=40)
    assert "b" not in decode_steps(text)
    async with Harness(http_registry(), transport=desk.transport) as harness:
        harness.publish("http", job, user_id=WORKER_USER, headers={"x-worker-steps": text})
        await harness.until_quiet(patience=PATIENCE)
        last = harness.reports.all[-1]
    assert (last.disposition, last.detail) == ("done", "")
    assert [json.loads(seen.body) for seen in target.seen if path_of(seen) == "/b"] == ["x" * 100] * 2
