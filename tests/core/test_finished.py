"""Finished steps in a header: they come back as they went, and give way in the order of the contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.finished import (
    MOST_ELEMENTS,
    Element,
    Elements,
    Finished,
    Step,
    decode_steps,
    digest,
    encode_steps,
    fit_steps,
)

HEADER = 64 * 1024


def fan(results: Mapping[int, object], **more: object) -> Elements:
    return Elements(
        {number: Element(digest(str(number).encode()), value) for number, value in results.items()},
        **more,  # type: ignore[arg-type]
    )


def fitted(steps: dict[str, Step], limit: int = HEADER, wanted: int | None = None) -> dict[str, Step]:
    text = fit_steps(steps, wanted=limit if wanted is None else wanted, limit=limit)
    assert len(text) <= limit or text == "{}"
    return decode_steps(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ELEMENTS = st.builds(
    Elements,
    st.dictionaries(
        st.integers(0, MOST_ELEMENTS - 1),
        st.builds(Element, st.binary(min_size=4, max_size=4), JSON | st.sampled_from([1, True, 1.0]))
        | st.builds(Element, st.binary(min_size=4, max_size=4), kept=st.just(False)),
        min_size=1,
        max_size=40,
    ),
    dropped=st.integers(0, 2**40),
)
MARKS = st.builds(Finished, kept=st.just(False), size=st.integers(0, 2**40))
STEPS = st.dictionaries(st.text(), st.builds(Finished, JSON) | MARKS | ELEMENTS, max_size=5)


@given(STEPS)
def test_steps_and_elements_come_back_as_they_went(steps: dict[str, Step]) -> None:
    again = decode_steps(encode_steps(steps))
    assert again == steps
    assert encode_steps(again) == encode_steps(steps), "1, True and 1.0 are equal in Python and not in JSON"


@given(STEPS, st.integers(2, 2000), st.integers(2, 2000))
def test_what_fits_is_within_the_limit_and_never_says_more_than_was_done(
    steps: dict[str, Step], limit: int, wanted: int
) -> None:
    kept = fitted(steps, limit, min(wanted, limit))
    for name, step in kept.items():
        was = steps[name]
        if isinstance(step, Elements):
            assert isinstance(was, Elements)
            assert {n: e.digest for n, e in step.done.items()}.items() <= {
                n: e.digest for n, e in was.done.items()
            }.items()
        else:
            assert isinstance(was, Finished)


def test_results_that_nobody_needs_go_first_the_largest_of_them_and_leave_their_mark() -> None:
    steps: dict[str, Step] = {
        "needed": Finished("x" * 500),
        "small": Finished("y" * 50, needed=False),
        "large": Finished("z" * 300, needed=False),
    }
    whole = len(encode_steps(steps))
    kept = fitted(steps, wanted=whole - 1)
    assert kept == {"needed": Finished("x" * 500), "small": Finished("y" * 50), "large": Finished(kept=False, size=302)}
    kept = fitted(steps, wanted=10)
    assert kept["small"] == Finished(kept=False, size=52)
    assert kept["needed"] == Finished("x" * 500), "wanted is not the limit: a needed result stays"


def test_a_result_smaller_than_its_mark_is_not_replaced_by_it() -> None:
    steps: dict[str, Step] = {"a": Finished(1, needed=False)}
    assert fitted(steps, wanted=2, limit=100) == {"a": Finished(1)}


def test_needed_steps_are_forgotten_whole_the_largest_first() -> None:
    steps: dict[str, Step] = {"a": Finished("x" * 10), "b": Finished("x" * 1000), "c": Finished("x" * 100)}
    least = len(encode_steps(steps))
    assert list(fitted(steps, least)) == ["a", "b", "c"]
    assert list(fitted(steps, least - 1)) == ["a", "c"]
    assert list(fitted(steps, 30)) == ["a"]
    assert fitted(steps, 5) == {}


def test_ten_thousand_elements_without_results_fit_into_the_header() -> None:
    done = fan({number: {"status": 200} for number in range(MOST_ELEMENTS)}, needed=False)
    text = fit_steps({"push": done}, wanted=HEADER, limit=HEADER)
    assert len(text) < 56_000
    assert decode_steps(text) == {"push": replace(done, needed=True)}


def test_elements_whose_results_differ_keep_their_marks_when_nobody_needs_the_results() -> None:
    results = {number: {"status": 200 + number % 7, "n": number} for number in range(MOST_ELEMENTS)}
    (kept,) = fitted({"push": fan(results, needed=False)}).values()
    assert isinstance(kept, Elements)
    assert len(kept.done) == MOST_ELEMENTS
    assert not any(element.kept for element in kept.done.values())
    assert kept.dropped == sum(len(json.dumps(value, separators=(",", ":"))) for value in results.values())


def test_when_a_few_bytes_are_missing_a_few_elements_are_forgotten() -> None:
    done = fan({number: {"status": 200} for number in range(MOST_ELEMENTS)})
    whole = len(encode_steps({"push": done}))
    (kept,) = fitted({"push": done}, whole - 10).values()
    assert isinstance(kept, Elements)
    assert MOST_ELEMENTS - 12 < len(kept.done) < MOST_ELEMENTS


def test_one_large_step_is_forgotten_before_ten_thousand_elements() -> None:
    steps: dict[str, Step] = {"orders": Finished("x" * 50_000), "push": fan(dict.fromkeys(range(MOST_ELEMENTS), 1))}
    kept = fitted(steps)
    assert kept.keys() == {"push"}
    assert kept["push"] == steps["push"]


def test_a_fan_out_with_nothing_done_takes_nothing_with_it() -> None:
    assert fitted({"charge": Finished("ch_1"), "none": Elements()}) == {"charge": Finished("ch_1")}
    assert decode_steps(encode_steps({"none": Elements(), "charge": Finished("ch_1")})) == {"charge": Finished("ch_1")}


@given(STEPS)
def test_what_has_room_is_kept(steps: dict[str, Step]) -> None:
    whole = len(encode_steps(steps))
    assert fitted(steps, whole, whole) == steps


def test_results_of_megabytes_are_not_written_out() -> None:
    class Unwritable:
        pass

    steps: dict[str, Step] = {
        "needed": Finished(Unwritable(), size=HEADER + 1),
        "dropped": Finished(Unwritable(), needed=False, size=3_000_000),
        "small": Finished(1),
    }
    assert fitted(steps) == {"dropped": Finished(kept=False, size=3_000_000), "small": Finished(1)}


def test_a_forged_run_takes_no_memory() -> None:
    runs = ",".join(["[10000,1]"] * 5000)
    assert decode_steps(f'{{"a":{{"n":"AQ==","h":"AAAAAA==","v":[{runs}],"d":0}}}}') == {}


def test_needed_elements_that_do_not_fit_are_forgotten_from_the_end() -> None:
    (kept,) = fitted({"push": fan({number: f"{number:0100}" for number in range(2000)})}).values()
    assert isinstance(kept, Elements)
    assert list(kept.done) == list(range(len(kept.done)))
    assert 500 < len(kept.done) < 2000
    assert all(element.value == f"{number:0100}" for number, element in kept.done.items())


@pytest.mark.parametrize(
    "claim",
    [
        "[1]",
        '{"a":1}',
        '{"a":[1,2]}',
        '{"a":{"d":-1}}',
        '{"a":{"d":true}}',
        '{"a":{"d":1,"x":2}}',
        '{"a":{"n":"AQ==","h":"AAAAAA==","v":[],"d":0}}',
        '{"a":{"n":"AQ==","h":"AAAAAA==","v":[[2,1]],"d":0}}',
        '{"a":{"n":"AQ==","h":"AAAA","v":[[1,1]],"d":0}}',
        '{"a":{"n":"AQ==","h":"?","v":[[1,1]],"d":0}}',
        '{"a":{"n":"AQ==","h":"AAAAAA==","v":[[1000000000000,1]],"d":0}}',
        '{"a":{"n":"AQ==","h":"AAAAAA==","v":[[true,1]],"d":0}}',
        '{"a":{"n":"AQ==","h":"AAAAAA==","v":[[1,1]]}}',
        "[" * 100_000,
    ],
)
def test_what_is_of_another_form_is_no_step(claim: str) -> None:
    assert decode_steps(claim) == {}


def test_more_elements_than_a_fan_out_may_have_are_none() -> None:
    one = encode_steps({"a": fan({MOST_ELEMENTS - 1: 1})})
    assert decode_steps(one)
    assert decode_steps(encode_steps({"a": fan({MOST_ELEMENTS: 1})})) == {}
