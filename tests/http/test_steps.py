"""Jobs of several steps: in which order they run, what they read, what is not run again, and which end counts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.http.desk import Answer, Crowd, Desk, by_path, chain, keys, path_of, paths
from tests.http.targets import Exchange, MakeEngine, Serve
from worker.http.jobs.pace import pace


@pytest.fixture
def desk(make_engine: MakeEngine) -> Desk:
    return Desk(make_engine)


async def test_a_step_reads_what_it_needs(serve: Serve, desk: Desk) -> None:
    target = await serve(
        by_path(
            {
                "/users/7": Answer(value={"id": "a/b", "email": "x@example.com", "tags": ["a", "b"], "age": 7}),
                "/invoices/a%2Fb": Answer(201, {"number": 1}, {"ETag": '"1"'}),
            }
        )
    )
    job = {
        "steps": [
            {"id": "user", "url": f"{target.url}users/7"},
            {
                "id": "invoice",
                "method": "POST",
                "url": f"{target.url}invoices/{{{{ user.json.id }}}}",
                "query": {"tag": "{{ user.json.tags }}", "to": "<{{ user.json.email }}>", "n": 1},
                "headers": {"X-Age": "{{ user.json.age }}"},
                "json": {"age": "{{ user.json.age }}", "text": "is {{ user.json.age }}", "all": "{{ user.json.tags }}"},
                "needs": ["user"],
            },
        ]
    }
    done = await desk.run(job)
    assert done.status == "succeeded"
    assert paths(target) == ["/users/7", "/invoices/a%2Fb?tag=a&tag=b&to=%3Cx%40example.com%3E&n=1"]
    assert json.loads(target.seen[1].body) == {"age": 7, "text": "is 7", "all": ["a", "b"]}
    assert target.seen[1].header("x-age") == "7"
    assert keys(target) == ["job-1/user", "job-1/invoice"]
    assert list(done.value) == ["user", "invoice"]
    assert done.value["invoice"]["headers"]["etag"] == '"1"'


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [
        ({"text": "{{ a.json }}"}, "text/plain; charset=utf-8", b'{"n":1,"t":"x\xc3\xbc"}'),
        ({"text": "{{ a.json.n }}"}, "text/plain; charset=utf-8", b"1"),
        ({"form": {"n": "{{ a.json.n }}", "t": ["{{ a.json.t }}", True]}}, "application/x-www-form-urlencoded", None),
        ({"base64": "{{ a.json.b }}"}, None, b"hello"),
        ({"json": "{{ a.json.n }}"}, "application/json", b"1"),
        ({"json": "{{ a.json.none }}"}, "application/json", b"null"),
    ],
)
async def test_bodies_are_filled(
    serve: Serve, desk: Desk, body: dict[str, Any], content_type: str, sent: bytes | None
) -> None:
    value = {"n": 1, "t": "xü"} | ({"b": "aGVsbG8="} if "base64" in body else {})
    target = await serve(by_path({"/a": Answer(value=value), "/b": Answer()}))
    job = chain(target.url, "a", "b")
    job["steps"][1] |= {"method": "POST", **body}
    assert (await desk.run(job)).status == "succeeded"
    assert target.seen[1].body == (b"n=1&t=x%C3%BC&t=true" if sent is None else sent)
    assert target.seen[1].header("content-type") == content_type


async def test_steps_run_as_soon_as_what_they_need_is_there(serve: Serve, desk: Desk) -> None:
    """A diamond: b and c are both on their way before either is answered, d comes after both."""

    async def script(exchange: Exchange) -> None:
        arrived.append(path_of(exchange))
        if path_of(exchange) in ("/b", "/c"):
            await together.wait()
        await exchange.answer()

    together, arrived = asyncio.Barrier(2), list[str]()
    target = await serve(script)
    job = chain(target.url, "a", "b", "c", "d")
    job["steps"][2]["needs"] = ["a"]
    job["steps"][3]["needs"] = ["b", "c"]
    job["steps"].reverse()  # the order in the list is of no account
    done = await desk.run(job)
    assert (done.status, list(done.value)) == ("succeeded", ["d", "c", "b", "a"])
    assert (arrived[0], set(arrived[1:3]), arrived[3]) == ("/a", {"/b", "/c"}, "/d")


async def test_a_finished_step_is_not_run_again(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value={"n": 1}), "/b": [Answer(500), Answer(429), Answer()]}))
    job = chain(target.url, "a", "b")
    job["steps"][1]["url"] += "?n={{ a.json.n }}"
    done = await desk.run(job)
    assert (done.status, done.attempts, done.snoozes) == ("succeeded", 2, 1)
    assert paths(target) == ["/a", "/b?n=1", "/b?n=1", "/b?n=1"]
    assert done.value["a"]["json"] == {"n": 1}


async def test_when_one_fails_nothing_new_starts_and_what_is_in_flight_finishes(serve: Serve, desk: Desk) -> None:
    """`slow` is answered only after `bad` was; `after` needs `slow`, which does finish, and must not start."""

    async def script(exchange: Exchange) -> None:
        if path_of(exchange) == "/slow":
            await failed.wait()
            await asyncio.sleep(0.02)  # for the answer of the other one to get there
            await exchange.answer()
        elif path_of(exchange) == "/bad":
            await exchange.answer(500 if not failed.is_set() else 200)
            failed.set()
        else:
            await exchange.answer()

    failed = asyncio.Event()
    target = await serve(script)
    job = chain(target.url, "slow", "after")
    job["steps"].append({"id": "bad", "url": f"{target.url}bad", "retry": {"attempts": 1}})
    done = await desk.run(job)
    assert (done.status, done.attempts) == ("succeeded", 2)
    assert done.runs[0].requests == 2
    assert sorted(paths(target)[:2]) == ["/bad", "/slow"]
    assert sorted(paths(target)[2:]) == ["/after", "/bad"]


async def test_a_step_that_waited_for_its_place_does_not_start_when_one_has_failed(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/b": Answer(), "/c": Answer()}))
    steps = [{"id": one, "url": f"{target.url}{one}", "method": "POST"} for one in "abc"]
    done = await desk.run({"steps": steps}, limits={"127.0.0.1": 1})
    assert (done.reason, done.detail, paths(target)) == ("http_status", "step 'a': status 404", ["/a"])


async def test_quick_tries_stop_when_another_step_has_failed(serve: Serve, desk: Desk) -> None:
    async def script(exchange: Exchange) -> None:
        if path_of(exchange) == "/bad":
            await tried.wait()
            await exchange.answer(404)
        else:
            await exchange.answer(500)
            tried.set()

    tried = asyncio.Event()
    target = await serve(script)
    b = {"id": "b", "url": f"{target.url}b", "retry": {"attempts": 10}}
    done = await desk.run({"steps": [{"id": "bad", "url": f"{target.url}bad"}, b]})
    assert (done.reason, done.detail) == ("http_status", "step 'bad': status 404")
    assert paths(target).count("/b") <= 2  # the 404 may come after a try that followed at once


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ({"a": Answer(429), "b": Answer(500), "c": Answer(404)}, "rejected"),
        ({"a": Answer(500), "b": Answer(404), "c": Answer(429)}, "rejected"),
        ({"a": Answer(429), "b": Answer(500), "c": Answer()}, "failed"),
        ({"a": Answer(429), "b": Answer(), "c": Answer()}, "snoozed"),
    ],
)
async def test_of_several_ends_the_heaviest_counts(
    serve: Serve, desk: Desk, answers: dict[str, Answer], end: str
) -> None:
    async def script(exchange: Exchange) -> None:
        await together.wait()  # all three fail, whatever the others do
        await answers[path_of(exchange)[1:]].give(exchange)

    together = asyncio.Barrier(3)
    target = await serve(script)
    steps = [{"id": one, "url": f"{target.url}{one}", "retry": {"attempts": 1}} for one in answers]
    done = await desk.run({"steps": steps}, max_age=0.001)
    assert done.runs[0].outcome == end
    assert len(target.seen) == 3


# what the second step holds, what the first one gave, and how the job ends
FAULTS: list[tuple[dict[str, Any], Any, str]] = [
    ({"url": "/x/{{ a.json.n }}"}, {}, "url: 'a.json.n' is null, which cannot be put into text"),
    ({"url": "/x/{{ a.json.n }}"}, {"n": ".."}, """url: 'a.json.n' would make "." or ".." of a path segment"""),
    ({"query": {"q": "{{ a.json.n }}"}}, {}, "query: parameter 'q' must be text, a number, a boolean, or a list"),
    ({"query": {"q": "x{{ a.json.n }}"}}, {}, "query: 'a.json.n' is null, which cannot be put into text (in .q)"),
    ({"query": {"q": "{{ a.json.n }}"}}, {"n": "x" * 8192}, "query: the URL with its query is above 8192 characters"),
    ({"query": {"q": "{{ a.json.n }}"}}, {"n": "ü" * 3000}, "query: the URL with its query is above 8192 characters"),
    ({"headers": {"X-A": "{{ a.json.n }}"}}, {"n": "x" * 32_768}, "headers: the headers are above 32768 bytes in all"),
    ({"headers": {"X-A": "{{ a.json.n }}"}}, {"n": "ü" * 16_384}, "headers: the headers are above 32768 bytes in all"),
    ({"form": {"q": ["{{ a.json.n }}"] * 2}}, {"n": "x" * 600_000}, "form: the form is above 1048576 characters"),
    (
        {"headers": {"X-A": "{{ a.json.n }}"}},
        {"n": "s3cr3t\r\nX: y"},
        "headers: header 'X-A' has a value with a control",
    ),
    ({"headers": {"X-A": "{{ a.json.n }}"}}, {}, "headers: header 'X-A' is null, and text is needed"),
    ({"text": "{{ a.json.n }}"}, {}, "text: it is null, and text is needed"),
    ({"form": {"a": "{{ a.json }}"}}, {"n": 1}, "form: parameter 'a' must be text, a number, a boolean, or a list"),
    ({"base64": "{{ a.json.n }}"}, {"n": "s3cr3t!"}, "base64: base64 text is needed"),
    ({"url": "{{ a.json.n }}"}, {"n": "ftp://s3cr3t/"}, "url: the URL is not an absolute http or https URL"),
    ({"url": "{{ a.json.n }}"}, {"n": 7}, "url: 'a.json.n' must be text, it is the whole URL"),
    ({"url": "{{ a.json.n }}"}, {"n": "http://s3cr3t@b/"}, "url: the URL holds a user name or password"),
    (
        {"for_each": "{{ a.json.n }}"},
        {"n": {"s3cr3t": 1}},
        "for_each: a list is needed, and the placeholder gives",
    ),
    ({"for_each": "{{ a.json.n }}"}, {"n": [0] * 10_001}, "for_each: at most 10000 elements are possible, these are"),
    ({"json": "{{ length(a.json.n) }}"}, {"n": 1}, "json: length() needs text, a list or an object, and got something"),
]


@pytest.mark.parametrize(("fields", "value", "text"), FAULTS)
async def test_what_cannot_be_filled_is_named_without_its_value(
    serve: Serve, desk: Desk, fields: dict[str, Any], value: Any, text: str
) -> None:
    target = await serve(by_path({"/a": Answer(value=value)}))
    job = chain(target.url, "a", "b")
    job["steps"][1] |= fields
    if job["steps"][1]["url"].startswith("/"):
        job["steps"][1]["url"] = f"{target.url}{job['steps'][1]['url'][1:]}"
    done = await desk.run(job)
    assert (done.status, done.reason, done.attempts) == ("dead", "template", 1)
    assert done.detail.startswith(f"step 'b': {text}")
    assert "s3cr3t" not in done.detail
    assert paths(target) == ["/a"]


async def test_a_url_out_of_a_result_is_judged_like_any(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value=["http://169.254.169.254/s3cr3t"])}))
    job = chain(target.url, "a", "b")
    job["steps"][1]["url"] = "{{ a.json[0] }}"
    done = await desk.run(job)
    assert (done.reason, "s3cr3t" in done.detail) == ("blocked_address", False)
    assert done.detail.startswith("step 'b': ")


async def test_what_comes_out_of_a_result_is_never_read_as_a_template(serve: Serve, desk: Desk) -> None:
    target = await serve(
        by_path({"/a": Answer(value={"x": "{{ a.status }}"}), "/b": Answer(value="{{ a }}"), "/c": Answer()})
    )
    job = chain(target.url, "a", "b", "c")
    job["steps"][1] |= {"method": "POST", "json": "{{ a.json.x }}"}
    job["steps"][2] |= {"method": "POST", "text": "{{ b.json }}"}
    assert (await desk.run(job)).status == "succeeded"
    assert [seen.body for seen in target.seen[1:]] == [b'"{{ a.status }}"', b"{{ a }}"]


async def test_without_templates_braces_are_text(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer()}))
    job = chain(target.url, "a", "b", templates=False)
    job["steps"][1] |= {"method": "POST", "json": {"{{ k }}": "{{ a.status"}, "query": {"{{": "{{ a }}"}}
    assert (await desk.run(job)).status == "succeeded"
    assert json.loads(target.seen[1].body) == {"{{ k }}": "{{ a.status"}
    assert paths(target)[1] == "/b?%7B%7B=%7B%7B%20a%20%7D%7D"


@pytest.mark.parametrize(
    ("save", "kept"),
    [("json.items[?ok].id", [1, 3]), ("status", 200), ("json.nothing", None), ("headers.etag", '"1"'), ("@", None)],
)
async def test_save_keeps_only_what_it_picks(serve: Serve, desk: Desk, save: str, kept: Any) -> None:
    items = [{"id": 1, "ok": True}, {"id": 2}, {"id": 3, "ok": 1}]
    target = await serve(by_path({"/a": Answer(200, {"items": items}, {"ETag": '"1"'}), "/b": [Answer(500), Answer()]}))
    job = chain(target.url, "a", "b")
    job["steps"][0]["save"] = save
    job["steps"][1] |= {"method": "POST", "json": "{{ a }}"}
    done = await desk.run(job)
    assert done.status == "succeeded"
    if save != "@":
        assert done.value["a"] == kept
    assert json.loads(target.seen[2].body) == done.value["a"]


async def test_a_save_that_cannot_be_taken_is_named(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(value=1), "/b": Answer()}))
    job = chain(target.url, "a", "b")
    job["steps"][0]["save"] = "length(json)"
    done = await desk.run(job)
    assert (done.reason, len(target.seen)) == ("template", 1)
    assert done.detail == "step 'a': save: length() needs text, a list or an object, and got something else"


@pytest.mark.parametrize(("field", "place"), [("auth", "step"), ("sign", "step"), ("auth", "callback")])
async def test_credentials_nobody_configured_are_named_before_anything_is_sent(
    serve: Serve, desk: Desk, field: str, place: str
) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer()}))
    job = chain(target.url, "a", "b")
    if place == "step":
        job["steps"][1][field] = "crm"
    else:
        job["callback"] = {"url": target.url, field: "crm"}
    done = await desk.run(job)
    where = "step 'b'" if place == "step" else "callback"
    assert (done.reason, done.detail) == ("credential", f"{where}: no credential named 'crm' is configured")
    assert not target.seen


async def test_the_smallest_job_names_no_step(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({}))
    assert (await desk.run({"url": target.url})).detail == "status 404"
    assert (await desk.run({"url": target.url, "auth": "crm"})).detail == "no credential named 'crm' is configured"


async def test_a_step_beyond_the_allowance_is_named(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer(500)}))
    done = await desk.run(chain(target.url, "a", "b"), max_requests=1, attempts=1)
    text = "1 attempts, the last: step 'b': more than 1 requests in one attempt (WORKER_MAX_REQUESTS)"
    assert (done.reason, done.detail) == ("attempts_exhausted", text)


async def test_what_had_no_turn_in_its_time_was_not_sent(serve: Serve, desk: Desk) -> None:
    """Another job's megabytes are filled first, and take longer than a try of this one may."""
    target = await serve(by_path({"/a": Answer(), "/b": Answer()}))
    job = chain(target.url, "a", "b")
    job["steps"][1] |= {"method": "POST", "json": "{{ a.status }}", "timeout": 0.05, "retry": {"when": "unsent"}}
    async with pace():
        done = await desk.run(job, attempts=1)
    assert (done.reason, done.detail) == ("attempts_exhausted", "1 attempts, the last: step 'b': not sent in time")
    assert paths(target) == ["/a"]


@pytest.mark.parametrize(("status", "reason"), [(404, "http_status"), (500, "not_repeated")])
async def test_ends_name_their_step(serve: Serve, desk: Desk, status: int, reason: str) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer(status)}))
    job = chain(target.url, "a", "b")
    job["steps"][1]["retry"] = {"when": "unsent"}
    done = await desk.run(job)
    assert (done.reason, done.detail.partition(";")[0]) == (reason, f"step 'b': status {status}")


@pytest.mark.parametrize("more", [{}, {"limit_key": "127.0.0.1"}])
async def test_each_step_counts_against_its_host(serve: Serve, desk: Desk, more: dict[str, Any]) -> None:
    """Under a limit of one they go one after the other, also where the job itself names the host."""
    crowd = Crowd()
    target = await serve(crowd)
    steps = [{"id": f"s{number}", "url": f"{target.url}{number}"} for number in range(3)]
    done = await desk.run({"steps": steps, **more}, limits={"127.0.0.1": 1})
    assert (done.status, done.snoozes, crowd.most, len(target.seen)) == ("succeeded", 0, 1, 3)


async def test_a_job_with_its_limit_key_waits_before_it_takes_a_slot(serve: Serve, desk: Desk) -> None:
    target = await serve(by_path({"/a": Answer(), "/b": Answer()}))
    done = await desk.run({**chain(target.url, "a", "b"), "limit_key": "tenant-7"}, limits={"tenant-7": 1})
    assert (done.status, done.snoozes) == ("succeeded", 0)
