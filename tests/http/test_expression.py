"""JMESPath as templates use it: the library's meaning, less what can grow, and a bill for every visit."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jmespath
import pytest
from hypothesis import assume, example, given, settings, target
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser

from worker.http.templates.budget import MAX_TEXT, MAX_VISITS, Budget, TemplateFault
from worker.http.templates.expression import MAX_EXPRESSION, Expression, parse_expression, parse_path, shown
from worker.http.templates.template import parse_template

RESULT: dict[str, Any] = {
    "status": 200,
    "json": {
        "items": [
            {"id": 1, "open": True, "tags": ["a"]},
            {"id": 2, "open": False, "tags": []},
            {"id": 3, "tags": None},
        ],
        "total": 3,
        "by name": {"x": {"n": 1}, "y": {"n": 2}},
        "matrix": [[1, [2]], [3], 4],
    },
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("status", 200),
        ("json.total", 3),
        ('json."by name".x.n', 1),
        ("json.items[0].id", 1),
        ("json.items[-1].id", 3),
        ("json.items[9]", None),
        ("json.items[1:].id", [2, 3]),
        ("json.items[::-1].id", [3, 2, 1]),
        ("json.items[*].id", [1, 2, 3]),
        ('json."by name".*.n', [1, 2]),
        ("json.matrix[]", [1, [2], 3, 4]),
        ("json.items[?open].id", [1]),
        ("json.items[?!open].id", [2, 3]),
        ("json.items[?id > `1` && id != `3`].id | [0]", 2),
        ("json.items[?id == `1` || id == `3`].id", [1, 3]),
        ("json.items[?tags[0] == 'a'].id", [1]),
        ("length(json.items)", 3),
        ("length('four')", 4),
        ("length(json)", 4),
        ("nothing || 'otherwise'", "otherwise"),
        ("nothing.at.all", None),
        ("@.status", 200),
        ("@ | status", 200),
        ("'raw'", "raw"),
        ('`{"a": [1]}`', {"a": [1]}),
        ('`"a\\`b"`', "a`b"),
    ],
)
def test_what_it_picks(text: str, value: Any) -> None:
    assert parse_path(text).value(RESULT) == value


@pytest.mark.parametrize("text", ["length(status)", "length(nothing)", "length(json.items[0].open)"])
def test_length_of_what_has_none_is_a_fault(text: str) -> None:
    with pytest.raises(TemplateFault, match=r"length\(\) needs text, a list or an object"):
        parse_path(text).value(RESULT)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("user.json.id", {"user"}),
        ('"user".json', {"user"}),
        ("(user || other).json", {"user", "other"}),
        ("user | json | id", {"user"}),
        ("user[?name == 'x' && other].id", {"user"}),
        ("item == user.json", {"item", "user"}),
        ("length(orders)", {"orders"}),
        ("a.*.b", {"a"}),
        ("a | @", {"a"}),
        ("!a", {"a"}),
        ("'text'", set()),
    ],
)
def test_the_names_it_reads(text: str, names: set[str]) -> None:
    assert parse_expression(text).names == names


@pytest.mark.parametrize(
    "text", ["@", "*", "[0]", "[]", "[*]", "[?a]", "[1:]", "length(@)", "a || @", "@.a", "*.a | [0]"]
)
def test_all_results_at_once_are_refused_for_steps_and_possible_in_a_result(text: str) -> None:
    with pytest.raises(TemplateFault, match="not read all results at once"):
        parse_expression(text)
    assert parse_path(text).text == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a.", "at character 2"),
        ("a b", "at character 2"),
        ("a = b", "at character 2"),
        ("ü", "at character 0"),
        ("a[", "at character 2"),
        ("a.[b, c]", r"a multiselect list \(\[a, b\]\) is not available"),
        ("a.{b: c}", "a multiselect hash"),
        ("@|[@,@][]|[@,@][]|[@,@][]", "a multiselect list"),
        ("a[?[b]]", "a multiselect list"),
        ("sort(a)", r"the function sort\(\) is not available in expressions, only length\(\) is"),
        ("length(&a)", r"an expression reference \(&\)"),
        ("length(a, b)", "takes one argument"),
        ("length()", "takes one argument"),
        ("a[::0]", "the step of a slice cannot be 0"),
        ("a[?`foo`]", "a literal at character 3"),
        ("`NaN`", "a literal at character 0"),
        ("`1e400`", "a literal at character 0"),
        (f"`{'9' * 200}`", "a literal at character 0"),
        (r'`"\ud800"`', "a literal at character 0"),
        ("'\ud800' || `\"\ud800\"`", "a literal at character 7"),
        (r'"\ud800"', "a quoted name at character 0"),
        ("'open", "at character 0"),
        ("!" * 255 + "a", "40 levels"),
        ("[?" * 100, "not JMESPath"),
        ("*." * 100 + "*", "40 levels"),
        ("a" * 257, "may have 256 characters, this one has 257"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(TemplateFault, match=told):
        parse_expression(text)
    with pytest.raises(TemplateFault, match=told):
        parse_path(text)


def test_a_refusal_repeats_no_literal() -> None:
    for text in ("a == 'secret' b", "`secret`", "'secret"):
        with pytest.raises(TemplateFault) as caught:
            parse_expression(text)
        assert "secret" not in str(caught.value)


def test_a_step_without_a_result_is_a_fault_and_a_field_that_is_not_there_is_null() -> None:
    with pytest.raises(TemplateFault, match=r"no result of 'user', which 'a || user\.id' needs"):
        parse_expression("a || user.id").value({"a": 1})
    assert parse_path("a.id").value({}) is None


def test_a_fault_shows_an_expression_without_its_literals() -> None:
    for text in ("length(a == 'secret')", 'length(a || `"secret"`.b)', "length('secret' == a)"):
        with pytest.raises(TemplateFault) as caught:
            parse_template(f"-{{{{ {text} }}}}").fill({}, Budget())
        assert "secret" not in str(caught.value)
        assert "length(" in str(caught.value)
    assert shown("a" * 100) == repr("a" * 57 + "...")
    assert shown("\"a b\".c == 'x'") == "'\"a b\".c == ...'"


def test_the_librarys_cache_keeps_nothing_of_a_job() -> None:
    parse_expression("some.name")
    assert not vars(Parser)["_CACHE"]


def test_an_order_between_text_and_number_is_null() -> None:
    assert parse_path("a[?@ >= `1`]").value({"a": ["x", 2, None, True]}) == [2]
    with pytest.raises(TypeError):
        jmespath.search("a[?@ > `1`]", {"a": ["x"]})


def test_a_filter_over_10_000_elements_passes() -> None:
    rows = [{"id": n, "state": "open" if n % 2 else "done"} for n in range(10_000)]
    found = parse_expression("rows[?state == 'open' && id > `100`].id").value({"rows": rows})
    assert found == list(range(101, 10_000, 2))


def _spent(text: str, results: dict[str, Any]) -> int:
    budget = Budget()
    parse_expression(text).value(results, budget)
    return MAX_VISITS - budget.visits


@pytest.mark.parametrize(
    "text", ["a[*].b", "a[?b]", "a[]", "a[:]", "a == b", "a != b", "a[?@ == `[1]`]", "length(a[*])", "a[*] | [0]"]
)
def test_the_bill_grows_with_what_is_looked_at(text: str) -> None:
    few, many = ({"a": [[1]] * count, "b": [[1]] * count} for count in (10, 1000))
    assert _spent(text, many) >= _spent(text, few) + 990


def test_flattening_costs_what_the_inner_lists_hold() -> None:
    assert _spent("a[]", {"a": [[1] * 1000] * 10}) >= 30_000


@pytest.mark.parametrize("text", ["a == b", "a != b", "a < b", "a >= b"])
def test_comparing_long_texts_costs(text: str) -> None:
    long = {"a": "x" * 1_000_000, "b": "x" * 999_999 + "y"}
    assert _spent(text, long) >= _spent(text, {"a": "x", "b": "y"}) + 7000


def test_names_of_objects_cost_when_they_are_compared() -> None:
    long = {"a": {"x" * 1_000_000: 1}, "b": {"x" * 1_000_000: 1}}
    assert _spent("a == b", long) >= 7000


@pytest.mark.parametrize("text", ["a[*].b", "a[?b].c", "a[][]", "a.*", "a[:]", "a[::-1]", "a == b"])
def test_beyond_the_budget_it_is_a_fault(text: str) -> None:
    results: dict[str, Any] = {"a": [[1]] * 100_000, "b": [[1]] * 100_000}
    if text == "a.*":
        results["a"] = dict.fromkeys(map(str, range(200_000)))
    if "[:" in text:
        results["a"] = [1] * 200_000
    budget = Budget()
    with pytest.raises(TemplateFault, match=f"may look at {MAX_VISITS} values in all"):
        parse_expression(text).value(results, budget)
    assert budget.visits >= 0


# --- properties ---

NAMES = st.sampled_from(["a", "b", "c", '"a b"'])
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 1.5, "", "a", "b", "é"])
FIELDS = ["a", "b", "a b"]
# Objects with all their fields, and many of them: else nearly everything is null, and agrees.
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, inner)), max_size=4)
        | st.fixed_dictionaries(dict.fromkeys(FIELDS, inner))
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=20,
)
ROOTS = st.fixed_dictionaries(dict.fromkeys([*FIELDS, "c"], VALUES))
LITERALS = st.sampled_from(
    ["`1`", "`0`", "`null`", "`true`", "`[]`", "`{}`", "`[1, true]`", "'a'", "''", '`"b"`', "`1.0`"]
)
NUMBERS = st.sampled_from(["", "0", "1", "-1", "2", "99999999999999999999", "-99999999999999999999"])
SLICES = st.builds("{{0}}[{}:{}:{}]".format, NUMBERS, NUMBERS, NUMBERS.filter(lambda text: text != "0"))
BINARY = ["|", "||", "&&", "==", "!=", "<", "<=", ">", ">="]
SUFFIXES = ["[0]", "[1]", "[-1]", "[7]", "[*]", "[]", ".*", ".length(@)", ".a", ".b", '."a b"']
FORMS = st.sampled_from(
    [f"{{0}} {sign} {{1}}" for sign in BINARY]
    + [f"{{0}}{suffix}" for suffix in SUFFIXES]
    + ["{0}[?{1}]", "({0})", "!{0}", "length({0})", "{0}[?{1}].a", "({0} || {1})[]"]
)
EXPRESSIONS = st.recursive(
    NAMES | LITERALS | st.sampled_from(["@", "*", "[0]", "[*]", "[]"]),
    lambda inner: st.builds(lambda form, one, other: form.format(one, other), FORMS | SLICES, inner, inner),
    max_leaves=16,
)
ANYTHING = st.text(alphabet="ab.*[]?:|&!=<>(),{}@'\"`\\ 0123-é\ud800", max_size=60) | st.text(
    max_size=MAX_EXPRESSION + 2
)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, ROOTS)
@example("a == b", {"a": [True], "b": [1]})
@example("a == b", {"a": True, "b": 1})
@example("!a", {"a": 0})
def test_the_meaning_is_the_librarys(text: str, root: dict[str, Any]) -> None:
    assume(len(text) <= MAX_EXPRESSION)
    expression, fault = _read(text)
    if fault.startswith("length() needs"):  # of a literal: the library finds that out when it gets there
        assert "length(`" in text.replace(" ", "")
        return
    if expression is None:
        if "levels" not in fault:
            with pytest.raises(JMESPathError):
                jmespath.compile(text)
        return
    try:
        expected = jmespath.search(text, root)
    except TypeError:
        return
    except JMESPathError:
        with pytest.raises(TemplateFault, match=r"length\(\)"):
            expression.value(root)
        return
    # As text, for 1 == True.
    assert repr(expression.value(root)) == repr(expected)


def _read(text: str) -> tuple[Expression | None, str]:
    try:
        return parse_path(text), ""
    except TemplateFault as fault:
        return None, str(fault)


@settings(max_examples=500, deadline=None)
@given(ANYTHING | EXPRESSIONS)
def test_whatever_is_written_is_an_expression_or_a_fault(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expression, _ = _read(text)
    if expression is not None:
        with contextlib.suppress(TemplateFault):
            expression.value(RESULT)


def _elements(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_elements, value.values()))
    return 1 + sum(map(_elements, value)) if isinstance(value, list) else 1


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, ROOTS)
def test_nothing_grows_and_nothing_is_free(text: str, root: dict[str, Any]) -> None:
    try:
        expression = parse_path(text)
        budget = Budget()
        found = expression.value(root, budget)
    except TemplateFault:
        return
    spent = MAX_VISITS - budget.visits
    target(float(spent), label="visits")
    # Literals are part of the text. A list that is made costs at least a visit for each of its elements.
    assert _elements(found) <= _elements(root) + len(text)
    if isinstance(found, list) and found and not any(found is one for one in _lists(root)):
        assert spent >= len(found) or "`" in text
    assert 0 < spent <= MAX_VISITS
    assert budget.text == MAX_TEXT


def _lists(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [one for item in value.values() for one in _lists(item)]
    return [value, *(one for item in value for one in _lists(item))] if isinstance(value, list) else []


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, st.integers(0, 300))
def test_a_small_budget_is_never_exceeded(text: str, visits: int) -> None:
    budget = Budget(visits)
    with contextlib.suppress(TemplateFault):
        expression = parse_path(text)
        expression.value({"a": [[1, 2, {"b": [3]}]] * 20, "b": [[1, 2, {"b": [3]}]] * 20, "c": {"a": [1]}}, budget)
    assert 0 <= budget.visits <= visits


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, VALUES)
@example("a[?" + "[][]|" * 12 + "@]", [[]] * 50)
@example("a[?a == b]", [{"a": [[1]], "b": [[1]]}] * 50)
def test_what_is_done_is_what_is_billed(text: str, value: Any) -> None:
    """Counted from outside, with a search for what does most per visit: what it takes is in proportion to the bill."""
    expression, _ = _read(text)
    if expression is None:
        return
    budget = Budget()
    calls = _calls(lambda: expression.value({"a": value, "b": [value] * 20, "c": {"a": value}}, budget))
    spent = MAX_VISITS - budget.visits
    target(calls / (spent + 10), label="calls per visit")
    assert calls <= 3 * spent + 20


def _calls(work: Callable[[], object]) -> int:
    """The calls of functions, Python's and C's, that `work` makes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with contextlib.suppress(TemplateFault):
            work()
    finally:
        sys.setprofile(before)
    return calls
