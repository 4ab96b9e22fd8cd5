"""Placeholders in values and URLs: filled once, with their types, within a budget, and never anywhere else."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given, settings, target
from hypothesis import strategies as st

from worker.http.templates.budget import MAX_TEXT, MAX_VISITS, Budget
from worker.http.templates.placeholder import MAX_CHARACTERS, MAX_PLACEHOLDERS
from worker.http.templates.template import Allowance, TemplateFault, parse_template, parse_url_template
from worker.http.url import LONGEST_URL

RESULTS: dict[str, Any] = {
    "a": {
        "text": "t",
        "number": 7,
        "half": 0.5,
        "yes": True,
        "null": None,
        "list": [1, "x"],
        "object": {"k": "é"},
        "empty": "",
        "slash": "x/y z&=?#%",
        "dots": "..",
        "template": "{{ a.text }}",
        "braces": "}} {{",
    },
    "b": [{"n": 1}, {"n": 2}],
}


def filled(value: Any) -> Any:
    return parse_template(value).fill(RESULTS, Budget())


def url(text: str) -> str:
    return parse_url_template(text).fill(RESULTS, Budget())


@pytest.mark.parametrize(
    ("value", "made"),
    [
        ("plain", "plain"),
        ("{{ a.text }}", "t"),
        ("{{a.number}}", 7),
        ("{{ a.null }}", None),
        ("{{\n a.list \t}}", [1, "x"]),
        ({"k": ["{{ a.object }}", 1, None]}, {"k": [{"k": "é"}, 1, None]}),
        ("{{ b[*].n }}", [1, 2]),
        (" {{ a.text }}", " t"),
        ("{{ a.text }}{{ a.number }}", "t7"),
        ("{{ a.half }}, {{ a.yes }}, {{ a.list }}, {{ a.object }}", '0.5, true, [1,"x"], {"k":"é"}'),
        ("-{{ a.empty }}-", "--"),
        ('{"x": {"y": "{{ a.text }}"}}', '{"x": {"y": "t"}}'),
        ('{"x": {"y": {{ a.number }}}}', '{"x": {"y": 7}}'),
        ("}} stays {{ a.text }} }}", "}} stays t }}"),
        ("{ { a } } {", "{ { a } } {"),
        ("{{ '{{' }} and {{ '}}' }}", "{{ and }}"),
        ("{{ '{{ a.text }}' }}", "{{ a.text }}"),
        ('{{ a."te\\"}}xt" || \'no\' }}', "no"),
        ('{{ `"}}"` }}', "}}"),
        ("{{ a.nothing || 'otherwise' }}", "otherwise"),
    ],
)
def test_what_is_filled_in(value: Any, made: Any) -> None:
    before = json.dumps(value)
    assert filled(value) == made
    assert json.dumps(value) == before


@pytest.mark.parametrize("value", ["x", "}}", 1, None, True, [], {}, {"a": ["b", {"c": "{ {"}]}])
def test_plain_values_are_handed_through(value: Any) -> None:
    template = parse_template(value)
    assert template.is_plain
    assert template.names == frozenset()
    assert template.fill({}, Budget()) is value


def test_what_has_no_placeholder_is_shared_and_what_has_one_is_not() -> None:
    value = {"kept": {"k": 1}, "made": {"text": "{{ a.text }}"}}
    made = filled(value)
    assert made == {"kept": {"k": 1}, "made": {"text": "t"}}
    assert made["kept"] is value["kept"]
    assert value["made"] == {"text": "{{ a.text }}"}
    assert list(made) == ["kept", "made"]


def test_names_and_the_one_expression() -> None:
    template = parse_template({"x": ["{{ one.id }} {{ two }}", "{{ item }}"]})
    assert template.names == {"one", "two", "item"}
    assert template.expression is None
    assert not template.is_plain
    whole = parse_template("{{ orders.json.items }}").expression
    assert whole is not None
    assert whole.value({"orders": {"json": {"items": [1]}}}) == [1]
    assert parse_template(["{{ one }}"]).expression is None


@pytest.mark.parametrize("name", ["template", "braces"])
@pytest.mark.parametrize("value", ["{{{{ a.{} }}}}", "-{{{{ a.{} }}}}-", "{{{{ a.{0} }}}}{{{{ a.{0} }}}}"])
def test_what_comes_out_of_a_result_is_never_read_again(name: str, value: str) -> None:
    made = filled([value.format(name)])[0]
    assert made.replace("-", "") in (RESULTS["a"][name], RESULTS["a"][name] * 2)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("ab {{ a", '"{{" at character 3 is not closed'),
        ("{{ a }} {{", '"{{" at character 8 is not closed'),
        ("{{ 'a }}", "a quote in the placeholder at character 0 is not closed"),
        ("{{" + " " * 600 + "a }}", 'is not closed by "}}" within 512 characters'),
        ("x {{ }}", "an expression is empty (placeholder at character 2)"),
        ("{{ @ }}", "not read all results at once"),
        ("{{{ a }}}", "not JMESPath"),
        ({"k": [1, {"l": "{{ a. }}"}]}, "(in .k[1].l)"),
        ({"a b": {"x": "{{ a. }}"}}, '(in ["a b"].x)'),
        ({"k": {"{{ a }}": 1}}, 'a name cannot hold a placeholder (.k["{{ a }}"])'),
    ],
)
def test_what_is_refused_when_it_is_read(value: Any, told: str) -> None:
    with pytest.raises(TemplateFault) as caught:
        parse_template(value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("-{{ a.null }}", "'a.null' is null, which cannot be put into text"),
        ({"x": ["-{{ a.nothing }}"]}, "(in .x[0])"),
        ("{{ c.text }}", "there is no result of 'c'"),
        ("{{ length(a.number) }}", "length()"),
    ],
)
def test_what_cannot_be_filled(value: Any, told: str) -> None:
    with pytest.raises(TemplateFault) as caught:
        filled(value)
    assert told in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [10**5000], {1, 2}])
def test_what_is_no_json_is_a_fault_and_nothing_else(value: Any) -> None:
    with pytest.raises(TemplateFault, match="is no JSON value"):
        parse_template("-{{ a }}").fill({"a": value}, Budget())


def test_deep_values_are_a_fault() -> None:
    value: Any = "{{ a }}"
    for _ in range(5000):
        value = [value]
    with pytest.raises(TemplateFault, match="at most 100 levels"):
        parse_template(value)


def test_many_placeholders_are_refused_quickly() -> None:
    many = ["{{ a.text }}"] * MAX_PLACEHOLDERS
    assert filled(many) == ["t"] * MAX_PLACEHOLDERS
    with pytest.raises(TemplateFault, match=f"at most {MAX_PLACEHOLDERS} placeholders"):
        parse_template([*many, "{{ a }}"])


def test_many_different_expressions_are_refused() -> None:
    with pytest.raises(TemplateFault, match=f"may have {MAX_CHARACTERS} characters in all"):
        parse_template([f"{{{{ a{n}.{'x' * 200} }}}}" for n in range(100)])


def test_an_allowance_is_shared() -> None:
    allowance = Allowance()
    parse_template(["{{ a }}"] * (MAX_PLACEHOLDERS - 1), allowance)
    parse_url_template("https://h/{{ a }}", allowance)
    with pytest.raises(TemplateFault, match="placeholders are possible"):
        parse_template("{{ a }}", allowance)


# --- what it may cost ---


@pytest.mark.parametrize("value", ["{{ a }}", "-{{ a }}", ["{{ a }}", "-{{ a }}"], {"k": "{{ a.k || a }}"}])
@pytest.mark.parametrize(
    "big", ["x" * (MAX_TEXT + 1), "\x01" * (MAX_TEXT // 6 + 1), "é" * (MAX_TEXT // 6 + 1), ["x" * 4096] * 1024]
)
def test_text_is_refused_before_it_is_made(value: Any, big: Any) -> None:
    budget = Budget()
    with pytest.raises(TemplateFault, match=f"may produce {MAX_TEXT} bytes in all"):
        parse_template(value).fill({"a": big}, budget)
    assert budget.text == MAX_TEXT


def test_a_value_is_looked_at_once_and_paid_for_each_time() -> None:
    """Each time it will be written, however often it is the same one."""

    class Watched(list[Any]):
        def __iter__(self) -> Any:
            looks.append(1)
            return super().__iter__()

    looks: list[int] = []
    rows = Watched({"n": n} for n in range(1000))
    costs = []
    for times in (1, 2, 3):
        looks.clear()
        budget = Budget()
        parse_template(["{{ a }}"] * times).fill({"a": rows}, budget)
        assert looks == [1]
        costs.append((MAX_VISITS - budget.visits, MAX_TEXT - budget.text))
    (one, size), two, three = costs
    assert one > 3000
    assert two == (2 * one - 1, 2 * size)  # but for the list that is copied once
    assert three == (3 * one - 2, 3 * size)


def test_a_thousand_times_a_big_value_is_refused() -> None:
    big = {"rows": [{"n": n} for n in range(5000)]}
    with pytest.raises(TemplateFault, match="may look at"):
        parse_template(["{{ a.rows }}"] * 1000).fill({"a": big}, Budget())


def test_a_whole_value_costs_what_it_weighs() -> None:
    for value in ("x" * 1000, ["x" * 10] * 100, {"k" * 500: "v" * 500}, "é" * 200):
        budget = Budget()
        parse_template("{{ a }}").fill({"a": value}, budget)
        assert MAX_TEXT - budget.text >= len(json.dumps(value, separators=(",", ":"))) - 2


def test_text_made_of_json_costs_its_escapes_too() -> None:
    budget = Budget()
    text = parse_template("-{{ a }}").fill({"a": ['"' * 1000] * 10}, budget)
    assert MAX_TEXT - budget.text >= len(json.dumps(text)) - 3


def test_text_costs_visits_and_json_made_into_text_more() -> None:
    spent = {}
    for value, result in {"{{ a }}": "x" * 64_000, "-{{ a }}": [0.5] * 1000, "{{ a | @ }}": [0.5] * 1000}.items():
        budget = Budget()
        parse_template(value).fill({"a": result}, budget)
        spent[value] = MAX_VISITS - budget.visits
    assert spent["{{ a }}"] >= 1000
    assert spent["-{{ a }}"] >= spent["{{ a | @ }}"] + 2000


def test_all_templates_of_a_step_share_the_budget() -> None:
    budget = Budget()
    results = {"a": "x" * (MAX_TEXT // 2)}
    parse_template("{{ a }}").fill(results, budget)
    with pytest.raises(TemplateFault, match="may produce"):
        parse_template("-{{ a }}").fill(results, budget)


# --- URLs ---


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("https://h/plain?x=1", "https://h/plain?x=1"),
        ("https://h/{{ a.text }}/{{ a.number }}", "https://h/t/7"),
        ("https://h/{{ a.text }}-{{ a.number }}.json", "https://h/t-7.json"),
        ("https://h/{{ a.slash }}", "https://h/x%2Fy%20z%26%3D%3F%23%25"),
        ("https://h/x?q={{ a.slash }}&r={{ a.yes }}#f", "https://h/x?q=x%2Fy%20z%26%3D%3F%23%25&r=true#f"),
        ("https://h?q={{ a.half }}", "https://h?q=0.5"),
        ("https://h/x?q=a={{ a.text }}/../?", "https://h/x?q=a=t/../?"),
        ("https://h/x?q={{ a.empty }}", "https://h/x?q="),
        ("https://h/x?q={{ a.dots }}", "https://h/x?q=.."),
        ("https://h/a&b=c/{{ a.text }}", "https://h/a&b=c/t"),
        ("https://h/..{{ a.number }}", "https://h/..7"),
        ("https://h/../{{ a.number }}", "https://h/../7"),
        ("https://h/-{{ a.empty }}", "https://h/-"),
        ("https://h/{{ a.template }}", "https://h/%7B%7B%20a.text%20%7D%7D"),
        ("{{ a.text }}", "t"),
        ("https://[::1]:81/{{ a.text }}", "https://[::1]:81/t"),
    ],
)
def test_urls(text: str, made: str) -> None:
    assert url(text) == made


@pytest.mark.parametrize(
    "text",
    [
        "{{ a }}://h/",
        "https://{{ a }}/x",
        "https://h{{ a }}/x",
        "https://h:{{ a }}/x",
        "https://{{ a }}@h/x",
        "https://h{{ a }}",
        "https:/{{ a }}/x",
        "https://{{ a }}",
        "https:///{{ a }}",
        "{{ a }}/x",
        " {{ a }}",
        "{{ a }}{{ a }}",
        "/x/{{ a }}",
        "https://h\\{{ a }}/x",
        "https://h#{{ a }}",
        "https://u:p@h/{{ a }}",
        "ftp://h/{{ a }}",
        "https://h/x?{{ a }}=1",
        "https://h/x?a{{ a }}",
        "https://h/x?a=1&{{ a }}",
        "https://h/x#{{ a }}",
        "https://h/x?a=1#{{ a }}",
        "https://h/x\n{{ a }}",
        "https://h:99999/{{ a }}",
        "https://h/" + "x" * LONGEST_URL + "{{ a }}",
        "https://h/{{ a",
        "nonsense",
    ],
)
def test_placeholders_stand_only_in_path_segments_and_query_values(text: str) -> None:
    with pytest.raises(TemplateFault):
        parse_url_template(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("https://h/{{ v }}", ".."),
        ("https://h/{{ v }}", "."),
        ("https://h/{{ v }}?x", ".."),
        ("https://h/{{ v }}{{ v }}/x", "."),
        ("https://h/.{{ v }}/x", "."),
        ("https://h/%2e{{ v }}/x", "."),
        ("https://h/%2E%2e{{ v }}", ""),
        ("https://h/{{ v }};p=1/x", ".."),
        ("https://h/{{ v }}", "../admin"),
        ("https://h/{{ v }}", "x\\..\\admin"),
        ("https://h/{{ v }}/x", ""),
        ("https://h/{{ v }}", ""),
        ("https://h/{{ v }}", None),
        ("https://h/x?q={{ v }}", None),
        ("https://h/{{ v }}", []),
        ("https://h/x?q={{ v }}", {"a": 1}),
        ("https://h/{{ v }}", "\ud800"),
        ("https://h/{{ v }}", "x" * (LONGEST_URL + 1)),
        ("https://h/{{ v }}", "ü" * 2000),
        ("https://h/{{ v }}/{{ v }}/{{ v }}", "x" * 3000),
        ("{{ v }}", 7),
        ("{{ v }}", None),
        ("{{ v }}", "https://h/" + "x" * LONGEST_URL),
    ],
)
def test_urls_that_cannot_be_filled(text: str, value: Any) -> None:
    template = parse_url_template(text)
    with pytest.raises(TemplateFault):
        template.fill({"v": value}, Budget())


def test_what_is_known_of_a_url_before_it_is_filled() -> None:
    template = parse_url_template("https://API.example.com:444/x/{{ a.id }}?q={{ b }}")
    assert template.names == {"a", "b"}
    assert not template.whole
    assert not template.is_plain
    assert template.sample is not None
    assert template.sample.origin == ("https", "api.example.com", 444)
    whole = parse_url_template("{{ a.url }}")
    assert whole.whole
    assert whole.sample is None
    assert parse_url_template("https://h/").is_plain


# --- properties ---

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["..", ".", "/", "{{ a.text }}", "}}", "{{", "%2e", "//", "@h2", "?x", "#"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
PLACEHOLDERS = st.sampled_from(
    ["{{ v }}", "{{v}}", "{{ v.a }}", "{{ v[*] }}", "{{ v[] | [0] }}", "{{ w }}", "{{ length(w) }}", "{{ v[?@ == w] }}"]
)
STRINGS = st.lists(PLACEHOLDERS | TEXTS | st.sampled_from(["{{ '}}' }}", "{{ '", "{{ a"]), max_size=4).map("".join)
TEMPLATES = st.recursive(
    STRINGS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc{", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(TEMPLATES, VALUES, VALUES)
def test_it_is_filled_within_its_budget_or_it_is_a_fault(value: Any, v: Any, w: Any) -> None:
    budget = Budget(visits=2000, text=500)
    before = repr(value)
    with contextlib.suppress(TemplateFault):
        made = parse_template(value).fill({"v": v, "w": w}, budget)
        target(float(2000 - budget.visits), label="visits")
        # What the template itself says is no part of the bill; numbers are never longer than they are billed for.
        assert len(json.dumps(made, separators=(",", ":"))) <= len(json.dumps(value)) + 500 - budget.text + 100
    assert 0 <= budget.visits <= 2000
    assert 0 <= budget.text <= 500
    assert repr(value) == before


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
@example("{{ v }}")
@example("{{ '")
def test_a_results_text_arrives_as_it_is(text: str) -> None:
    template = parse_template(["{{ v }}", "<{{ v }}>", "{{ v }}{{ v }}"])
    assert template.fill({"v": text}, Budget()) == [text, f"<{text}>", text + text]


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="{} ab.'\"`\\|@[]?*&!()", max_size=40))
def test_whatever_stands_in_a_string_is_a_template_or_a_fault(text: str) -> None:
    with contextlib.suppress(TemplateFault):
        parse_template(text).fill({"a": {"b": [1]}, "b": "x"}, Budget())


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(["/", "?", "&", "=", "#", "x", ".", "%2e", ";", "@", ":", "{{ v }}"]), max_size=10), VALUES
)
def test_a_filled_url_goes_where_the_template_says(parts: list[str], value: Any) -> None:
    text = "https://h.example" + "".join(parts)
    try:
        template = parse_url_template(text)
        made = template.fill({"v": value}, Budget())
    except TemplateFault:
        return
    static, real = urlsplit(text.replace("{{ v }}", "x")), urlsplit(made)
    assert (real.scheme, real.netloc, real.fragment) == (static.scheme, static.netloc, static.fragment)
    assert real.path.count("/") == static.path.count("/")
    assert [pair.split("=")[0] for pair in real.query.split("&")] == [
        pair.split("=")[0] for pair in static.query.split("&")
    ]
    for was, segment in zip(text.split("?", maxsplit=1)[0].split("/"), real.path.split("/"), strict=False):
        if "{{" in was:
            assert unquote(segment) not in ("", ".", "..")
