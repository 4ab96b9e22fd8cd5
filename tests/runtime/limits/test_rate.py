"""Starts per time: in no window more than the rate says, and hardly fewer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.units import Rate
from worker.runtime.limits.rate import PARTS, Rates


def starts(rates: Rates, moments: list[float]) -> list[float]:
    """When those started who came at these moments and went away if they could not."""
    found = []
    for now in moments:
        if not rates.free_in(now):
            rates.reserve()
            rates.start(now)
            found.append(now)
    return found


def most_in_a_window(moments: list[float], seconds: float) -> int:
    return max((sum(begin <= one < begin + seconds for one in moments) for begin in moments), default=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 30),
    st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=120),
)
def test_no_window_has_more_starts_than_the_rate(count: int, per: int, gaps: list[float]) -> None:
    moments, now = [], 1000.0
    for gap in gaps:
        now += gap
        moments.append(now)
    found = starts(Rates([Rate(count, float(per))]), moments)
    assert most_in_a_window(found, per) <= count
    assert found[: min(count, len(moments))] == moments[: min(count, len(moments))]  # a burst is none too many


def test_several_windows_hold_at_once() -> None:
    found = starts(Rates([Rate(5, 1.0), Rate(20, 60.0)]), [number / 100 for number in range(12_000)])
    assert most_in_a_window(found, 1.0) == 5
    assert most_in_a_window(found, 60.0) == 20
    assert len(found) == 40  # of two minutes


@pytest.mark.parametrize(("count", "per"), [(1, 1.0), (50, 1.0), (100, 60.0)])
def test_little_of_the_rate_is_lost(count: int, per: float) -> None:
    step = per / count / 32
    found = starts(Rates([Rate(count, per)]), [number * step for number in range(20 * 32 * count)])
    assert len(found) >= 20 * count * PARTS / (PARTS + 1) - 1


def test_it_says_when_the_next_may_start() -> None:
    rates = Rates([Rate(3, 10.0)])
    assert starts(rates, [100.0, 101.0, 102.0, 103.0]) == [100.0, 101.0, 102.0]
    for ahead, after in ((0, 110.0), (1, 111.0), (2, 112.0), (3, 120.0), (6, 130.0)):
        assert rates.free_in(103.0, ahead) == pytest.approx(after - 103, abs=3 * 10 / PARTS)
    assert starts(rates, [103.0 + rates.free_in(103.0) + 0.001]) != []


def test_a_start_that_is_reserved_counts_until_it_is_given_up() -> None:
    rates = Rates([Rate(1, 10.0)])
    rates.reserve()
    assert rates.free_in(100.0) > 0
    rates.give_up()
    assert rates.free_in(100.0) == 0


def test_whoever_starts_late_counts_from_then() -> None:
    rates = Rates([Rate(1, 10.0)])
    rates.reserve()
    rates.start(150.0)
    assert rates.free_in(159.9) > 0
    assert rates.free_in(160.2) == 0


@pytest.mark.parametrize("part", range(PARTS + 1))
def test_nothing_is_left_of_a_start_that_is_long_past(part: int) -> None:
    rates = Rates([Rate(1, float(PARTS))])
    rates.reserve()
    rates.start(1000.0 + part)
    assert rates.free_in(1000.0 + part) > 0
    assert rates.free_in(1000.0 + part + 10 * PARTS) == 0
    assert rates.is_empty(1000.0 + part + 10 * PARTS)
