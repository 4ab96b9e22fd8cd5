"""The JSON of an `http` job: what it means, and what each fault is called."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from worker.http.jobs.payload import HttpJob, ManySteps, OneStep
from worker.http.jobs.request import Filled
from worker.http.templates.budget import Budget
from worker.runtime.payload import LOOKED_AT, explain_validation

URL = "https://api.example.com/ping"
SECRET = "s3cr3t-v4lue"


ADAPTER = TypeAdapter[OneStep | ManySteps](HttpJob)


def job(**fields: Any) -> OneStep:
    found = ADAPTER.validate_python({"url": URL, **fields})
    assert isinstance(found, OneStep)
    return found


def test_a_host_has_one_name_whatever_it_ends_with() -> None:
    for host in ("api.example.com", "api.example.com.", "API.example.com."):
        assert job(url=f"https://{host}/x").keys == ["api.example.com"]
        assert filled(job(url=f"https://{host}/x")).url == f"https://{host.lower()}/x"
        (step,) = job(url=f"https://{host}/{{{{ 'x' }}}}").plan.steps
        assert step.draft.host == "api.example.com"
        (step,) = job(url=f"{{{{ 'https://{host}/' }}}}").plan.steps
        assert step.draft.filled_host({}, Budget()) == "api.example.com"


def test_what_is_null_is_not_there() -> None:
    one = job(for_each=None, timeout=None, save=None)
    assert (one.for_each, one.plan.steps[0].for_each, one.keys) == (None, None, ["api.example.com"])


@pytest.mark.parametrize("value", ["x" * 32_768, "ü" * 16_384])
def test_headers_are_bounded_in_all(value: str) -> None:
    text = "the headers are above 32768 bytes in all at $.headers (got an object)"
    assert refusal({"url": URL, "headers": {"X-A": value}}) == text
    assert refusal({"url": URL, "headers": {f"X-{n}": value[:8192] for n in range(4)}}) == text
    assert job(headers={f"X-{n}": "x" * 8000 for n in range(4)}).headers["X-3"] == "x" * 8000


def filled(one: OneStep) -> Filled:
    return one.plan.steps[0].draft.fill({})


def refusal(payload: Any, annotation: Any = HttpJob) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(annotation).validate_python(payload)
    return explain_validation(caught.value, annotation)


def test_the_smallest_job() -> None:
    smallest = job()
    assert filled(smallest) == Filled(URL, {}, {})
    assert (smallest.method, smallest.id) == ("GET", "request")
    assert (smallest.timeout, smallest.redirects, smallest.keys) == (None, 0, ["api.example.com"])
    assert (smallest.retry.attempts, smallest.retry.when) == (3, "any")
    assert [smallest.expect.holds(status) for status in (199, 200, 299, 300, 404)] == [False, True, True, False, False]


# url, query, and the target they make
TARGETS = [
    (URL, {"a": "b c"}, f"{URL}?a=b%20c"),
    (URL, {"a": [1, 2.5, True, False, "x"]}, f"{URL}?a=1&a=2.5&a=true&a=false&a=x"),
    (f"{URL}?z=%7e", {"ü&=": "/?#"}, f"{URL}?z=%7e&%C3%BC%26%3D=%2F%3F%23"),
    (f"{URL}#fragment", {"a": "1"}, f"{URL}?a=1"),
    (URL, {"a": []}, URL),
    (URL, {}, URL),
    ("HTTPS://API.Example.com:443/ping", {}, URL),
    ("http://127.1/", {}, "http://127.0.0.1/"),
    ("http://bücher.example/ü", {}, "http://xn--bcher-kva.example/%C3%BC"),
]


@pytest.mark.parametrize(("url", "query", "target"), TARGETS)
def test_targets(url: str, query: dict[str, Any], target: str) -> None:
    assert filled(job(url=url, query=query)).url == target


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"json": {"a": [1, None]}}, {"json": {"a": [1, None]}}),
        ({"json": None}, {"json": None}),
        ({"json": ""}, {"json": ""}),
        ({"form": {"a": 1, "b": [True, "x y"]}}, {"form": {"a": ["1"], "b": ["true", "x y"]}}),
        ({"text": ""}, {"text": ""}),
        ({"base64": "aGVsbG8="}, {"body": b"hello"}),
        ({"text": None, "form": None, "base64": None}, {}),
    ],
)
def test_bodies(fields: dict[str, Any], body: dict[str, Any]) -> None:
    assert filled(job(**fields)).body == body


def test_other_fields() -> None:
    full = job(
        method="post",
        headers={"X-A": "1"},
        timeout=10,
        expect={"status": ["2xx", 404]},
        redirects=3,
        retry={"attempts": 10, "when": "unsent"},
        id="invoice_2",
        limit_key="tenant-7",
    )
    assert (full.method, full.timeout, full.redirects, full.id) == ("POST", 10, 3, "invoice_2")
    assert full.keys == ["api.example.com", "tenant-7"]
    assert (full.expect.holds(404), full.expect.holds(403)) == (True, False)


# (fields, what the refusal says)
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"metod": "GET"}, "unknown field 'metod' at $, did you mean 'method'?"),
    ({"Headers": {}}, "unknown field 'Headers' at $, did you mean 'headers'?"),
    ({"retry": {"atempts": 2}}, "unknown field 'atempts' at $.retry, did you mean 'attempts'?"),
    ({"expect": {"statuses": []}}, "unknown field 'statuses' at $.expect, did you mean 'status'?"),
    ({"json_": 1}, "unknown field 'json_' at $, did you mean 'json'?"),
    ({"zzz": 1}, "unknown field 'zzz' at $"),
    ({"a\r\nb\x1b": 1}, "unknown field 'a\\r\\nb\\u001b' at $"),
    ({"url": None}, "a string is needed at $.url (got null)"),
    ({"url": 5}, "a string is needed at $.url (got a number)"),
    ({"url": ""}, "the URL is not an absolute http or https URL at $.url (got a string)"),
    ({"url": "ftp://a/"}, "the URL is not an absolute http or https URL at $.url (got a string)"),
    ({"url": "http://u:p@a/"}, "the URL holds a user name or password; use a header instead at $.url (got a string)"),
    ({"url": "http://a b/"}, "the URL has a host that cannot be read at $.url (got a string)"),
    ({"url": "http://a:65536/"}, "the URL has a port above 65535 at $.url (got a string)"),
    ({"url": "http://a/\r\nX: y"}, "the URL holds a control character or half a character at $.url (got a string)"),
    ({"url": "http://a/" + "x" * 8192}, "the URL is above 8192 characters at $.url (got a string)"),
    ({"query": {"a": "x" * 8192}}, "the URL with its query is above 8192 characters at $.query (got an object)"),
    ({"query": {"a": None}}, "parameter 'a' must be text, a number, a boolean, or a list of them at $.query"),
    ({"query": {"a": [{}]}}, "parameter 'a' must be text, a number, a boolean, or a list of them at $.query"),
    ({"query": [1]}, "an object is needed at $.query (got a list)"),
    ({"method": "FETCH"}, "the method must be one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT at $.method"),
    ({"method": "GET\r\n"}, "the method must be one of"),
    ({"method": "CONNECT"}, "the method must be one of"),
    ({"headers": {"X-A": 1}}, 'a string is needed at $.headers["X-A"] (got a number)'),
    ({"headers": {"X-A": "a\r\nB: c"}}, "header 'X-A' has a value with a control character at $.headers"),
    ({"headers": {"X A": "a"}}, "header 'X A' is not a header name at $.headers"),
    ({"headers": {"x-a": "1", "X-A": "2"}}, "header 'X-A' is there twice at $.headers"),
    ({"headers": []}, "an object is needed at $.headers (got a list)"),
    ({"json": 1, "text": "x"}, "at most one body is possible, and 'json' is there too at $.text"),
    ({"json": None, "form": {}}, "at most one body is possible, and 'json' is there too at $.form"),
    ({"text": "x", "base64": "eA=="}, "at most one body is possible, and 'text' is there too at $.base64"),
    ({"base64": "no!"}, "base64 text is needed at $.base64 (got a string)"),
    ({"text": {}}, "a string is needed at $.text (got an object)"),
    ({"timeout": 0}, "input should be greater than 0 at $.timeout (got a number)"),
    ({"timeout": "10"}, "a number is needed at $.timeout (got a string)"),
    ({"timeout": True}, "a number is needed at $.timeout (got a boolean)"),
    ({"timeout": 3601}, "input should be less than or equal to 3600 at $.timeout"),
    ({"expect": {"status": []}}, "at $.expect.status (got a list)"),
    (
        {"expect": {"status": [99]}},
        'a status is a number from 100 to 599, or a class such as "2xx" at $.expect.status[0]',
    ),
    ({"expect": {"status": ["2xx", "6xx"]}}, "at $.expect.status[1] (got a string)"),
    ({"expect": {"status": [True]}}, "at $.expect.status[0] (got a boolean)"),
    ({"expect": {"status": 200}}, "a list is needed at $.expect.status (got a number)"),
    ({"expect": {"status": [200] * 51}}, "at most 50 entries are possible at $.expect.status (got a list)"),
    ({"headers": {f"X-{n}": "" for n in range(101)}}, "at most 100 headers are possible at $.headers (got an object)"),
    ({"query": {f"{n}": 1 for n in range(1001)}}, "at most 1000 parameters are possible, each value of a list counted"),
    ({"form": {"a": [1] * 500, "b": [1] * 500, "c": []}}, "at most 1000 parameters are possible, each value of a list"),
    ({"redirects": 4}, "input should be less than or equal to 3 at $.redirects"),
    ({"redirects": -1}, "input should be greater than or equal to 0 at $.redirects"),
    ({"redirects": 1.5}, "a whole number is needed at $.redirects (got a number)"),
    ({"retry": {"attempts": 11}}, "input should be less than or equal to 10 at $.retry.attempts"),
    ({"retry": {"when": "never"}}, "input should be 'any' or 'unsent' at $.retry.when (got a string)"),
    ({"retry": 3}, "an object is needed at $.retry (got a number)"),
    ({"id": "1a"}, "at $.id (got a string)"),
    ({"id": "a/b"}, "at $.id (got a string)"),
    ({"id": ""}, "at $.id (got a string)"),
    ({"limit_key": ""}, "at $.limit_key (got a string)"),
]


@pytest.mark.parametrize(("fields", "text"), REFUSALS)
def test_refusals(fields: dict[str, Any], text: str) -> None:
    assert text in refusal({"url": URL, **fields})


FORBIDDEN = "Host Content-Length Transfer-Encoding Connection Keep-Alive TE Trailer Upgrade Expect Proxy-Authorization"


@pytest.mark.parametrize("name", [*FORBIDDEN.split(), "hOsT", "PROXY-x"])
def test_framing_headers_are_the_workers(name: str) -> None:
    text = refusal({"url": URL, "headers": {name: SECRET}})
    assert text.startswith(f"header '{name}' is set by the worker and cannot be set by a job at $.headers")


@pytest.mark.parametrize(
    "fields",
    [
        {"expect": {"status": [1] * 350_000}},
        {"headers": {f"{number}": 1 for number in range(10_000)}},
        {"query": {f"{number}": None for number in range(10_000)}},
        {"form": {"a": [None] * 100_000}},
    ],
)
def test_what_is_too_long_is_one_fault_and_not_one_for_each_of_its_elements(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(HttpJob).validate_python({"url": URL, **fields})
    assert caught.value.error_count() == 1


def test_as_much_as_there_may_be() -> None:
    headers = {f"X-{number}": "" for number in range(100)}
    full = job(expect={"status": [200] * 50}, headers=headers, form={"a": [1] * 999, "b": []})
    assert (len(full.expect.status), len(full.headers), len(filled(full).body["form"]["a"])) == (50, 100, 999)


def test_ten_thousand_faults_are_counted_and_not_each_put_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def sought(name: str, known: list[str], n: int) -> list[str]:
        names.append(name)
        return seek(name, known, n)

    names, seek = list[str](), difflib.get_close_matches
    monkeypatch.setattr(difflib, "get_close_matches", sought)
    text = refusal({"url": URL, **{f"methods_{number}": 1 for number in range(10_000)}})
    assert text.startswith("unknown field 'methods_0' at $, did you mean 'method'?")
    assert text.endswith("; and 9995 more")
    assert len(names) == LOOKED_AT


def test_several_faults_are_told_at_once_and_five_at_most() -> None:
    text = refusal({"metod": 1, "timeout": "1", "redirects": 9})
    assert text.count(";") == 3
    many = refusal({"url": URL, **{f"x{number}": 1 for number in range(9)}})
    assert many.endswith("; and 4 more")
    assert many.count("unknown field") == 5


def test_no_refusal_repeats_a_value() -> None:
    payload = {
        "url": f"ftp://{SECRET}/",
        "method": SECRET,
        "headers": {"X-A": f"{SECRET}\n"},
        "base64": f"{SECRET}!",
        "timeout": SECRET,
        "id": f"{SECRET} ",
        "query": {"a": {"b": SECRET}},
        "expect": {"status": [SECRET]},
        "retry": {"when": SECRET},
        "needs": [SECRET],
        "for_each": SECRET,
        "concurrency": SECRET,
        "auth": f"{SECRET} ",
        "save": f"'{SECRET}",
        "text": f"{{{{ {SECRET} }}}}",
        "json": [f"{{{{ '{SECRET}"],
        "callback": {"url": SECRET, "headers": {"X": f"{SECRET}\n"}},
        "steps": [{"url": SECRET, "save": f"{{{{ {SECRET} }}}}"}],
        "templates": SECRET,
    }
    for field, value in payload.items():
        assert SECRET not in refusal({"url": URL, field: value})


# --- the same words for every handler's payload


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    article: str
    count: int = Field(alias="number")


@dataclasses.dataclass
class Address:
    street: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lines: list[Line]
    by_name: dict[str, Annotated[Line, "x"] | None] = {}
    address: Address | None = None


class Typed(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    name: str


@pytest.mark.parametrize(
    ("annotation", "payload", "text"),
    [
        (Order, {}, "missing field 'lines' at $"),
        (Order, [], "an object is needed at $ (got a list)"),
        (Order, {"line": []}, "missing field 'lines' at $; unknown field 'line' at $, did you mean 'lines'?"),
        (
            Order,
            {"lines": [{"article": "a", "nummber": 1, "number": 2}]},
            "unknown field 'nummber' at $.lines[0], did you mean 'number'?",
        ),
        (
            Order,
            {"lines": [], "by_name": {"x y": {"article": "a", "number": 2, "artikel": 1}}},
            "unknown field 'artikel' at $.by_name[\"x y\"], did you mean 'article'?",
        ),
        (Order, {"lines": [], "address": {}}, "missing field 'street' at $.address"),
        (Typed, {"name": "a", "nam": "b"}, "unknown field 'nam' at $, did you mean 'name'?"),
        (
            list[int],
            ["x"],
            "input should be a valid integer, unable to parse string as an integer at $[0] (got a string)",
        ),
        (dict[str, Any], "x", "an object is needed at $ (got a string)"),
    ],
)
def test_explanations(annotation: Any, payload: Any, text: str) -> None:
    assert refusal(payload, annotation) == text
