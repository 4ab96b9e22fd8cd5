"""`callback`: the result, sent by a job of its own, done or dead; made of validated parts only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.http.desk import PATIENCE, Answer, Desk, by_path, keys, paths
from tests.http.targets import MakeEngine, Serve
from worker import Reject, Result
from worker.core.result import Value
from worker.core.strict_json import loads
from worker.http.handler import http_registry
from worker.http.jobs.callback import callback_of
from worker.http.jobs.payload import HttpJob
from worker.testing import Harness

URL = "https://a.example/done"


@pytest.fixture
def desk(make_engine: MakeEngine) -> Desk:
    return Desk(make_engine)


def called_back(callback: dict[str, Any], value: Any = None, status: Any = "succeeded", **job: Any) -> dict[str, Any]:
    """The payload of the callback of a job that ended so."""
    payload = {"url": "https://a.example/", "callback": callback, **job}
    result = Result("job-1", "http", status, 1, read_value=lambda: Value(value))
    child = callback_of(TypeAdapter(HttpJob).validate_python(payload), result)
    assert child is not None
    assert (child.name, child.type) == ("callback", "http")
    return dict(child.payload)


async def test_a_callback_is_a_job_of_its_own(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value={"n": 1}), "/done": [Answer(500), Answer()]}))
    payload = {
        "url": f"{target.url}a",
        "callback": {"url": f"{target.url}done", "headers": {"X-A": "1"}, "retry": {"attempts": 1}},
    }
    async with Harness(http_registry(), transport=desk.transport) as harness:
        harness.publish("http", payload, id="job-9")
        await harness.until_quiet(patience=PATIENCE)
        ran = [(report.id, report.attempt, report.disposition) for report in harness.reports.all if report.ran]
    assert ran == [("job-9", 1, "done"), ("job-9/callback", 1, "parked"), ("job-9/callback", 2, "done")]
    assert paths(target) == ["/a", "/done", "/done"]
    assert set(keys(target)[1:]) == {"job-9/callback/request"}
    seen = target.seen[-1]
    assert (seen.line.split()[0], seen.header("x-a")) == ("POST", "1")
    told = json.loads(seen.body)
    assert told["value"]["request"].pop("headers")
    assert told == {
        "id": "job-9",
        "type": "http",
        "status": "succeeded",
        "attempts": 1,
        "value": {"request": {"status": 200, "json": {"n": 1}}},
        "reason": None,
        "detail": None,
    }


async def test_the_dead_are_told_of_too(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(404)}))
    done = await desk.run({"url": f"{target.url}a", "callback": {"url": f"{target.url}done"}})
    assert done.status == "dead"
    (child,) = done.published
    told = child["json"]
    assert (told["status"], told["reason"], told["detail"], told["value"]) == (
        "dead",
        "http_status",
        "status 404",
        None,
    )


async def test_a_job_that_is_refused_has_none(desk: Desk) -> None:
    done = await desk.run({"url": URL, "metod": 1, "callback": {"url": URL}})
    assert (done.reason, done.published) == ("invalid_payload", ())


async def test_its_templates_read_the_results_of_all_steps(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value={"n": 1}), "/b": Answer(value="x/y")}))
    callback = {
        "url": f"{target.url}{{{{ b.json }}}}",
        "query": {"n": "{{ a.json.n }}"},
        "headers": {"X-N": "{{ a.json.n }}"},
    }
    steps = [{"id": one, "url": f"{target.url}{one}"} for one in ("a", "b")]
    (child,) = (await desk.run({"steps": steps, "callback": callback})).published
    assert child["url"] == f"{target.url}x%2Fy?n=1"
    assert child["headers"] == {"X-N": "1"}


@pytest.mark.parametrize(
    "value", [None, {}, {"request": {"truncated": 5}}, {"request": {"json": {"n": None}}}, {"request": {"json": {}}}]
)
def test_what_cannot_be_filled_makes_no_callback(value: Any) -> None:
    with pytest.raises(Reject, match=r"^callback: url: ") as caught:
        called_back({"url": f"{URL}/{{{{ request.json.n }}}}"}, value)
    assert caught.value.code == "template"


def test_what_save_picks_is_a_value_whatever_it_looks_like() -> None:
    for found in (5, None, "x"):
        callback = {"url": f"{URL}?n={{{{ request.truncated || 'none' }}}}"}
        child = called_back(callback, {"request": {"truncated": found}}, save="json")
        assert child["url"] == f"{URL}?n={found or 'none'}"


def test_its_templates_read_a_value_that_is_too_large_to_be_told() -> None:
    child = called_back({"url": f"{URL}/{{{{ request.json.n }}}}"}, {"request": {"json": {"n": 7, "x": "y" * 300_000}}})
    assert child["url"] == f"{URL}/7"
    assert child["json"]["value"].keys() == {"truncated"}


def test_what_was_dropped_is_not_told_as_a_result() -> None:
    with pytest.raises(Reject, match=r"^callback: headers: there is no result of 'request'"):
        called_back({"url": URL, "headers": {"X": "{{ request }}"}}, {"request": {"truncated": 5}})


async def test_no_callback_changes_how_the_job_ends(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer()}))
    callback = {"url": f"{target.url}{{{{ request.json.n }}}}"}
    done = await desk.run({"url": f"{target.url}a", "callback": callback})
    assert (done.status, done.published) == ("succeeded", ())


async def test_text_out_of_a_result_is_not_read_as_a_template(serve: Serve, desk: Desk) -> None:
    hostile = "{{ request.status }} {{"
    target = await serve(by_path({"/a": Answer(value=hostile), "/done": Answer()}))
    payload = {
        "url": f"{target.url}a",
        "callback": {"url": f"{target.url}done", "headers": {"X": "{{ request.json }}"}},
    }
    async with Harness(http_registry(), transport=desk.transport) as harness:
        harness.publish("http", payload)
        await harness.until_quiet(patience=PATIENCE)
        assert not harness.broker.dead
    assert json.loads(target.seen[1].body)["value"]["request"]["json"] == hostile
    assert target.seen[1].header("x") == hostile


def test_it_is_made_of_what_the_callback_says() -> None:
    how = {
        "method": "PUT",
        "timeout": 5.5,
        "expect": {"status": [202, "4xx"]},
        "redirects": 2,
        "retry": {"attempts": 1, "when": "unsent"},
        "auth": "crm",
        "sign": "partner",
    }
    child = called_back({"url": f"{URL}?a=1", "query": {"b": [1, True]}, **how})
    told = child.pop("json")
    assert child == {"url": f"{URL}?a=1&b=1&b=true", "headers": {}, "templates": False, **how}
    assert told["id"] == "job-1"
    plain = called_back({"url": URL})
    assert plain.keys() == {"url", "headers", "method", "expect", "redirects", "retry", "json", "templates"}
    assert plain["method"] == "POST"


@pytest.mark.parametrize("templates", [True, False])
def test_every_callback_is_a_job_that_is_taken(templates: bool) -> None:
    callback = {"url": URL, "query": {"a": "{{" if not templates else "b"}, "timeout": 1, "auth": "crm"}
    child = called_back(callback, {"a": "{{"}, templates=templates)
    taken = TypeAdapter(HttpJob).validate_python(loads(json.dumps(child).encode()))
    assert taken.plan.steps[0].draft.fill({}).body["json"]["value"] == {"a": "{{"}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_its_own_names_count_as_well() -> None:
    """As many as a job may hold, with the twenty that say how the callback is made."""
    most = next(n for n in range(10_000, 9_000, -1) if "k1" in called_back({"url": URL}, names(n))["json"]["value"])
    loads(json.dumps(called_back({"url": URL}, names(most))).encode())
    over = called_back({"url": URL}, names(most + 1))
    assert over["json"]["value"] == {"truncated": len(json.dumps(names(most + 1), separators=(",", ":")))}
    loads(json.dumps(over).encode())


def names(count: int) -> dict[str, int]:
    return {f"k{n}": n for n in range(count)}


@pytest.mark.parametrize("value", [nested(63), [0] * 100_001, {"a": "x" * 300_000}])
def test_a_value_that_a_job_could_not_hold_is_left_out(value: Any) -> None:
    child = called_back({"url": URL}, value)
    assert child["json"]["value"].keys() == {"truncated"}
    loads(json.dumps(child).encode())


def test_a_value_as_deep_as_a_job_may_be_is_told() -> None:
    child = called_back({"url": URL}, nested(62))
    assert child["json"]["value"] == nested(62)
    loads(json.dumps(child).encode())


def test_without_a_callback_there_is_none() -> None:
    job = TypeAdapter(HttpJob).validate_python({"url": URL})
    assert callback_of(job, Result("job-1", "http", "succeeded", 1)) is None
