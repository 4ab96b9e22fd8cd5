"""What holds between the steps of a job, and what each fault is called; none takes long to find."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from worker.core.strict_json import loads
from worker.http.jobs.fields import ENOUGH_FAULTS
from worker.http.jobs.payload import HttpJob, ManySteps, OneStep
from worker.http.jobs.request import AS_IT_IS
from worker.http.jobs.step import Callback, Step
from worker.http.url import LONGEST_URL
from worker.runtime.payload import explain_validation

URL = "https://api.example.com/ping"
ADAPTER = TypeAdapter[OneStep | ManySteps](HttpJob)


def steps(*several: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A job of steps with the ids a, b, c, ..."""
    named = [{"id": one, "url": URL, **step} for one, step in zip("abcdefghijklmnopqrstuvwxyz", several, strict=False)]
    return {"steps": named, **fields}


SECRET = "s3cr3t-v4lue"

# Values of every kind with the secret in them; names are told, values never.
SECRETS = st.recursive(
    st.sampled_from([SECRET, f"https://{SECRET}@a/", f"{{{{ '{SECRET}' }}}}", f"{{{{ '{SECRET}", 0, 1.5, None, True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["status", "a"]), inner, max_size=2),
    max_leaves=5,
)


def objects(model: type[BaseModel], **known: Any) -> Any:
    """Objects that have fields of `model`, with values that may fit or not."""
    fields = {field.alias or name: SECRETS for name, field in model.model_fields.items()}
    return st.fixed_dictionaries({}, optional={**fields, "url": SECRETS | st.just(URL), **known})


def one_step(**fields: Any) -> OneStep:
    found = ADAPTER.validate_python({"url": URL, **fields})
    assert isinstance(found, OneStep)
    return found


def refusal(payload: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(payload)
    return explain_validation(caught.value, HttpJob)


NOT_BESIDE_STEPS = "belongs into a step: beside 'steps' only callback, limit_key and templates are possible"
NOT_ITEM = "'item' is what templates call the element of a for_each, and no step can have this id"
NOT_IN_A_HOST = "scheme, host and port of a URL cannot hold placeholders, only path and query values can"
NOT_IN_A_KEY = "a limit_key cannot hold a placeholder, since it is needed before anything is there"

NO_LENGTH = (
    f"length() needs text, a list or an object, and got something else (placeholder at character 0) ({AS_IT_IS})"
)
TOO_LONG_A_QUERY = "the URL with its query is above 8192 characters at $.query (got an object)"

# a payload, and all that is said about it
OF_STEPS: list[tuple[dict[str, Any], str]] = [
    # the shape
    ({}, "missing field 'url' at $"),
    ({"stps": []}, "missing field 'url' at $; unknown field 'stps' at $, did you mean 'steps'?"),
    ({"steps": []}, "at least 1 entry is needed at $.steps (got a list)"),
    ({"steps": {}}, "a list is needed at $.steps (got an object)"),
    ({"steps": ["a"]}, "an object is needed at $.steps[0] (got a string)"),
    (steps(*[{}] * 21), "at most 20 entries are possible at $.steps (got a list)"),
    (steps({}, calback={}), "unknown field 'calback' at $, did you mean 'callback'?"),
    (
        steps({}, hedaers={}),
        (
            "unknown field: beside 'steps' only callback, limit_key and templates are possible"
            " at $.hedaers (got an object)"
        ),
    ),
    (steps({}, foo=1), "unknown field 'foo' at $"),
    (steps({}, {}, {"metod": 1}), "unknown field 'metod' at $.steps[2], did you mean 'method'?"),
    (steps({}, {}, {"url": 1}), "a string is needed at $.steps[2].url (got a number)"),
    (steps({}, {"url": "ftp://a/"}), "the URL is not an absolute http or https URL at $.steps[1].url (got a string)"),
    (
        steps({}, {"retry": {"atempts": 1}}),
        "unknown field 'atempts' at $.steps[1].retry, did you mean 'attempts'?",
    ),
    (
        steps({}, url=URL),
        f"'url' {NOT_BESIDE_STEPS} at $.url (got a string)",
    ),
    (steps({"callback": {"url": URL}}), "unknown field 'callback' at $.steps[0]"),
    (steps({}, templates="no"), "true or false is needed at $.templates (got a string)"),
    # ids and needs
    (
        steps({"id": "item"}),
        f"{NOT_ITEM} at $.steps[0].id (got a string)",
    ),
    (steps({}, {"id": "a"}), "the id 'a' is there twice: give every step its own at $.steps[1].id (got a string)"),
    (
        {"steps": [{"url": URL}, {"url": URL}]},
        "missing field 'id' at $.steps[0]; missing field 'id' at $.steps[1]",
    ),
    ({"steps": [{"url": URL}]}, "missing field 'id' at $.steps[0]"),
    (steps({"needs": "b"}, {}), "a list is needed at $.steps[0].needs (got a string)"),
    (steps({"needs": ["b"] * 21}, {}), "at most 20 entries are possible at $.steps[0].needs (got a list)"),
    (steps({"needs": ["a"]}), "a step cannot need itself at $.steps[0].needs[0] (got a string)"),
    (steps({}, {"needs": ["a", "a"]}), "the id 'a' is there twice at $.steps[1].needs[1] (got a string)"),
    (
        steps({"id": "user"}, {"needs": ["usr"]}),
        "no step has the id 'usr', did you mean 'user'? at $.steps[1].needs[0] (got a string)",
    ),
    ({"url": URL, "needs": ["user"]}, "no step has the id 'user' at $.needs[0] (got a string)"),
    (
        steps({"needs": ["c"]}, {"needs": ["a"]}, {"needs": ["b"]}, {}),
        "these steps need each other in a ring: a -> c -> b -> a at $.steps (got a list)",
    ),
    # what templates read
    (
        steps({}, {"url": f"{URL}/{{{{ a.json.id }}}}"}),
        "it reads 'a', which is not among the steps it needs: add \"a\" to needs at $.steps[1].url (got a string)",
    ),
    (
        steps({"id": "user"}, {"json": ["{{ usr }}"], "needs": ["user"]}),
        "it reads 'usr', and no step has this id, did you mean 'user'? at $.steps[1].json (got a list)",
    ),
    (
        steps({"json": "{{ b }}"}, {"needs": ["a"]}),
        "it reads 'b', a step that needs this one at $.steps[0].json (got a string)",
    ),
    (
        steps({"json": "{{ a }}"}),
        "it reads the result of its own step, which is not there yet at $.steps[0].json (got a string)",
    ),
    (
        {"url": URL, "text": "{{ x }}"},
        f"it reads 'x', and no step has this id; there is 'request' ({AS_IT_IS}) at $.text (got a string)",
    ),
    (
        {"url": URL, "form": {"a": ["{{ item }}"]}},
        "it reads 'item', which is there only beside a for_each at $.form (got an object)",
    ),
    (
        {"url": URL, "text": "{{ x"},
        f'"{{{{" at character 0 is not closed by "}}}}" within 512 characters ({AS_IT_IS}) at $.text (got a string)',
    ),
    (
        {"url": URL, "json": {"{{ x }}": 1}},
        f'a name cannot hold a placeholder (["{{{{ x }}}}"]) ({AS_IT_IS}) at $.json (got an object)',
    ),
    (
        steps({}, {"url": "https://{{ a.json }}/", "needs": ["a"]}),
        f"{NOT_IN_A_HOST} ({AS_IT_IS}) at $.steps[1].url (got a string)",
    ),
    (
        steps({}, limit_key="{{ a.json.tenant }}"),
        f"{NOT_IN_A_KEY} ({AS_IT_IS}) at $.limit_key (got a string)",
    ),
    # fan-outs
    (
        {"url": URL, "for_each": 3},
        "a list is needed, or one placeholder that gives a list at $.for_each (got a number)",
    ),
    (
        {"url": URL, "for_each": "x {{ item }}"},
        "a list is needed, or one placeholder that gives a list at $.for_each (got a string)",
    ),
    ({"url": URL, "for_each": [0] * 10_001}, "at most 10000 elements are possible at $.for_each (got a list)"),
    (
        {"url": URL, "for_each": ["{{ item }}"]},
        "it reads 'item', which is what its own elements are called at $.for_each (got a list)",
    ),
    (
        {"url": URL, "for_each": "{{ a }}", "templates": False},
        'a list is needed, since the job has "templates": false at $.for_each (got a string)',
    ),
    (
        {"url": URL, "concurrency": 2},
        "there is no for_each, whose elements this is for at $.concurrency (got a number)",
    ),
    (
        {"url": URL, "for_each": [1], "concurrency": 0},
        "input should be greater than or equal to 1 at $.concurrency (got a number)",
    ),
    (
        {"url": URL, "for_each": [1], "concurrency": 1001},
        "input should be less than or equal to 1000 at $.concurrency (got a number)",
    ),
    # save and credentials
    (
        {"url": URL, "save": "{{ json.id }}"},
        "a JMESPath into the result is needed, without braces at $.save (got a string)",
    ),
    (
        {"url": URL, "save": "jsn.id"},
        "a result has status, headers, json, text, and no 'jsn', did you mean 'json'? at $.save (got a string)",
    ),
    (
        {"url": URL, "save": "[json, text]"},
        "a multiselect list ([a, b]) is not available in expressions at $.save (got a string)",
    ),
    (
        {"url": URL, "auth": "crm", "headers": {"AUTHORIZATION": "x"}},
        "'auth' and an Authorization header are both there: give one of them at $.auth (got a string)",
    ),
    # callbacks
    ({"url": URL, "callback": URL}, "an object is needed at $.callback (got a string)"),
    ({"url": URL, "callback": {}}, "missing field 'url' at $.callback"),
    ({"url": URL, "callback": {"url": URL, "quer": 1}}, "unknown field 'quer' at $.callback, did you mean 'query'?"),
    (
        {"url": URL, "callback": {"url": f"{URL}/{{{{ reqest.status }}}}"}},
        "it reads 'reqest', and no step has this id, did you mean 'request'? at $.callback.url (got a string)",
    ),
    (
        {"url": URL, "callback": {"url": URL, "query": {"a": "{{ item }}"}}},
        (
            "it reads 'item', and no step has this id;"
            f" there is 'request' ({AS_IT_IS}) at $.callback.query (got an object)"
        ),
    ),
    (
        steps(*[{} for _ in "abcdef"], callback={"url": f"{URL}/{{{{ request.json.id }}}}"}),
        (
            "it reads 'request', and no step has this id;"
            f" there are 'a', 'b', 'c', 'd', 'e', ... ({AS_IT_IS}) at $.callback.url (got a string)"
        ),
    ),
    (
        {"url": URL, "id": "x", "callback": {"url": f"{URL}/{{{{ request.json.id }}}}"}},
        f"it reads 'request', and no step has this id; there is 'x' ({AS_IT_IS}) at $.callback.url (got a string)",
    ),
    # what is read of a result
    (
        steps({}, {"needs": ["a"], "json": ["{{ a.jsn.id }}"]}),
        (
            "it reads 'a.jsn', and a result has status, headers, json, text, did you mean 'json'?"
            " at $.steps[1].json (got a list)"
        ),
    ),
    (
        steps({}, {"needs": ["a"], "for_each": "{{ a.body[?a.jsn].id | [0].x }}"}),
        "it reads 'a.body', and a result has status, headers, json, text at $.steps[1].for_each (got a string)",
    ),
    (
        {"url": URL, "callback": {"url": f"{URL}/{{{{ request.jsn }}}}"}},
        (
            "it reads 'request.jsn', and a result has status, headers, json, text, did you mean 'json'?"
            " at $.callback.url (got a string)"
        ),
    ),
    # what is known before anything is sent
    (steps({}, {"needs": ["a"], "json": "{{ length(`3`) }}"}), f"{NO_LENGTH} at $.steps[1].json (got a string)"),
    (
        steps({}, {"needs": ["a"], "base64": "*{{ a.json }}"}),
        "base64 text is needed at $.steps[1].base64 (got a string)",
    ),
    ({"url": URL, "for_each": [1], "query": {"q": ["x" * LONGEST_URL, "{{ item }}"]}}, TOO_LONG_A_QUERY),
    ({"url": "{{ item }}", "for_each": [1], "query": {"q": "ü" * 2000}}, TOO_LONG_A_QUERY),
    ({"url": f"{URL}?q={{{{ item }}}}", "for_each": [1], "query": {"ü" * 2000: ["{{ item }}", "x"]}}, TOO_LONG_A_QUERY),
    (
        {"url": f"{URL}/{'ü' * 1000}/{{{{ item }}}}", "for_each": [1], "query": {"q": f"{'x' * 3000}{{{{ item }}}}"}},
        TOO_LONG_A_QUERY,
    ),
    (
        {"url": f"{URL}/{'ü' * 2000}/{{{{ item }}}}", "for_each": [1]},
        f"the URL is above 8192 characters ({AS_IT_IS}) at $.url (got a string)",
    ),
    ({"url": f"{URL}/{'ü' * 2000}"}, "the URL is above 8192 characters at $.url (got a string)"),
]


@pytest.mark.parametrize(("payload", "text"), OF_STEPS)
def test_refusals_of_steps(payload: dict[str, Any], text: str) -> None:
    assert refusal(payload) == text


NOT_IN_A_CALLBACK = ["id", "json", "form", "text", "base64", "needs", "for_each", "concurrency", "save"]


@pytest.mark.parametrize("name", NOT_IN_A_CALLBACK)
def test_what_makes_no_callback(name: str) -> None:
    text = refusal({"url": URL, "callback": {"url": URL, name: "x"}})
    expected = f"'{name}' is not possible in a callback, whose body is the result at $.callback.{name} (got a string)"
    assert text == expected


def test_templates_may_read_what_is_needed_through_others() -> None:
    payload = steps({}, {"needs": ["a"]}, {"needs": ["b"], "json": "{{ a.json }}"})
    assert ADAPTER.validate_python(payload).plan.steps[2].sources == {"a"}


def test_what_may_be_filled_with_nothing_counts_for_nothing() -> None:
    """An empty list is no parameter at all, and in a URL an empty text is one."""
    one = one_step(for_each=[[]], query={"x" * 9000: "{{ item }}"})
    assert one.plan.steps[0].draft.fill({"item": []}).url == URL
    room = LONGEST_URL - len(f"{URL}?q=")
    whole = f"{URL}?q={'ü' * (room // 6)}{'x' * (room % 6)}"
    one = one_step(url=f"{whole}{{{{ item }}}}{{{{ item }}}}", for_each=[""])
    assert len(one.plan.steps[0].draft.fill({"item": ""}).url) == LONGEST_URL
    assert "above 8192 characters" in refusal({"url": f"{whole}x{{{{ item }}}}", "for_each": [""]})


def test_without_templates_braces_are_text() -> None:
    braces = {"json": {"{{ k }}": "{{ x"}, "query": {"a": "{{ x }}"}, "headers": {"X-A": "{{ x }}"}}
    one = one_step(templates=False, url=f"{URL}/{{{{x}}}}", **braces)
    assert one.plan.steps[0].draft.fill({}).url == f"{URL}/%7B%7Bx%7D%7D?a=%7B%7B%20x%20%7D%7D"
    assert (one.plan.steps[0].draft.fill({}).headers, one.plan.steps[0].draft.fill({}).body) == (
        {"X-A": "{{ x }}"},
        {"json": braces["json"]},
    )


def test_keys_that_are_known_before_a_job_runs() -> None:
    assert one_step(for_each=[1]).keys == []
    assert one_step(for_each=[1], limit_key="a").keys == ["a"]
    assert one_step(for_each=[1], limit_key="api.example.com").keys == []
    assert ADAPTER.validate_python(steps({}, limit_key="a")).keys == ["a"]
    assert ADAPTER.validate_python(steps({}, limit_key="api.example.com")).keys == []
    assert ADAPTER.validate_python(steps({"url": f"{URL}/{{{{ 'x' }}}}"})).plan.steps[0].draft.host == "api.example.com"
    assert one_step(url="{{ 'https://a.example/' }}").keys == []


def test_the_schema_says_both_shapes() -> None:
    schema = ADAPTER.json_schema()
    shapes = [schema["$defs"][one["$ref"].rpartition("/")[2]] for one in schema["anyOf"]]
    assert [shape["required"] for shape in shapes] == [["url"], ["steps"]]
    assert all(shape["additionalProperties"] is False for shape in shapes)
    assert shapes[0]["properties"].keys() - schema["$defs"]["ListedStep"]["properties"].keys() == {
        "callback",
        "limit_key",
        "templates",
    }
    assert "json" in shapes[0]["properties"]
    assert schema["$defs"]["ListedStep"]["required"] == ["url", "id"]
    assert {"type": "null"} in shapes[0]["properties"]["for_each"]["anyOf"]
    assert "json" not in schema["$defs"]["Callback"]["properties"]


@settings(deadline=None, max_examples=200)
@given(
    objects(OneStep, callback=objects(Callback))
    | objects(ManySteps, steps=st.lists(objects(Step), max_size=3), callback=objects(Callback))
)
def test_no_refusal_repeats_a_value(payload: dict[str, Any]) -> None:
    try:
        ADAPTER.validate_python(payload)
    except ValidationError as error:
        text = explain_validation(error, HttpJob)
        assert SECRET not in text
        assert " at $" in text


@pytest.mark.parametrize(
    "payload",
    [
        steps(*[{"json": [f"{{{{a{n}}}}}" for n in range(49)]}] * 20),
        steps(*[{"needs": [f"b{n}" for n in range(20)], "id": f"steps{m}"} for m in range(20)]),
        {"url": URL, "callback": {"url": URL, "headers": {f"a{n}": f"{{{{x{n}}}}}" for n in range(99)}}},
    ],
)
def test_no_more_faults_are_put_into_words_than_anybody_reads(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(payload)
    assert caught.value.error_count() <= 2 * ENOUGH_FAULTS


def test_a_query_that_is_too_long_is_not_even_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def quote(text: str, safe: str) -> str:
        encoded.append(text)
        return text

    encoded: list[str] = []
    monkeypatch.setattr("worker.http.jobs.request.quote", quote)
    text = refusal({"url": URL, "query": {"a": "x" * 1_000_000}})
    assert text == TOO_LONG_A_QUERY
    assert encoded == []


HOSTILE: list[dict[str, Any]] = [
    {"steps": [{}] * 90_000},
    {"steps": [{"needs": [f"s{n}" for n in range(90_000)], "url": URL}]},
    steps(*[{"needs": [*"abcdefghijklmnopqrst"]}] * 20),
    {"url": URL, "for_each": [[1]] * 45_000},
    {"url": URL, "json": ["{{a}}"] * 90_000},
    {"url": URL, "text": "{{" * 500_000},
    {"url": URL, "text": "{{'" * 300_000},
    {"url": "https://a.example/" + "{{item}}/" * 100_000},
    {"url": URL, "for_each": [1], "json": ["{{item" + ".a" * 124 + f"[{n}]" + "}}" for n in range(999)]},
    steps(*[{"save": "json" + ".a" * 120 + "[?a]"} for _ in range(20)]),
    {"url": URL, "save": "[" * 100_000},
    {"url": URL, "callback": {f"a{n}": 1 for n in range(9_000)}},
    steps(*[{"json": [f"{{{{a{n}}}}}" for n in range(49)]}] * 20),
    steps(*[{"needs": [f"step{n}" for n in range(20)], "id": f"steps{m}"} for m in range(20)]),
    {"url": URL, "callback": {"url": URL, "headers": {f"a{n}": f"{{{{x{n}}}}}" for n in range(99)}}},
    {**{f"a{n}": 1 for n in range(9_000)}, "steps": []},
]


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_payloads_are_judged_quickly(payload: dict[str, Any]) -> None:
    body = loads(json.dumps(payload).encode())
    began = time.process_time()
    try:
        ADAPTER.validate_python(body)
    except ValidationError as error:
        explain_validation(error, HttpJob)
    assert time.process_time() - began < 0.25
