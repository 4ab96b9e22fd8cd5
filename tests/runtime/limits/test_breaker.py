"""When a breaker opens, how long for, and what closes it."""

from __future__ import annotations

from functools import partial

import pytest

from worker.runtime.limits.breaker import LONGEST_OPEN, PROBE_LONGEST, Breaker, Change, State


def ask(breaker: Breaker, calls: int, failures: int, *, begin: float, seconds: float) -> Change | None:
    """So many calls, evenly, of which the failures are spread evenly too. What changed first."""
    for number in range(calls):
        now = begin + seconds * number / calls
        fails = (number + 1) * failures // calls > number * failures // calls
        change = breaker.failed(now, now, 0.0) if fails else breaker.succeeded(now, now)
        if change is not None:
            return change
    return None


OPENS = [
    (19, 19, 3.9, False),
    (20, 20, 3.9, True),
    (19, 15, 10.0, False),
    (20, 10, 10.0, True),
    (20, 10, 29.0, True),  # one that is asked seldom
    (20, 16, 80.0, False),  # never so many within its memory
    (40, 16, 10.0, False),
    (40, 20, 10.0, True),
    (1000, 400, 10.0, False),
    (1000, 520, 10.0, True),
]


@pytest.mark.parametrize(("calls", "failures", "seconds", "opens"), OPENS)
def test_half_of_twenty_calls_or_more_open_it(calls: int, failures: int, seconds: float, *, opens: bool) -> None:
    change = ask(Breaker(), calls, failures, begin=1000.0, seconds=seconds)
    assert (change is not None) == opens
    if change is not None:
        assert change.state is State.OPEN
        assert 20 <= change.calls <= calls
        assert 2 * change.failures >= change.calls


def test_a_busy_target_is_judged_by_its_last_seconds() -> None:
    breaker = Breaker()
    assert ask(breaker, 30_000, 0, begin=1000.0, seconds=30.0) is None
    assert ask(breaker, 300, 300, begin=1030.0, seconds=0.3) is None  # a blip
    assert ask(breaker, 10_000, 0, begin=1030.3, seconds=10.0) is None
    assert ask(breaker, 10_000, 10_000, begin=1041.0, seconds=10.0) is not None
    assert 1 <= breaker.since - 1041 <= 4


@pytest.mark.parametrize(
    ("times", "opens"),
    [
        ((0, 1, 2, 3, 4), True),
        ((0, 1, 2, 3, 3.9), False),  # a blip
        ((0, 0, 0, 0, 0, 4), True),
        ((0, 1, 2, 4), False),  # too few
        ((0, 50, 100, 150, 200), True),
        ((0, 1, 2, 63, 64, 65), False),  # a run of its own
    ],
)
def test_failures_in_a_row_open_it_where_calls_are_few(times: tuple[float, ...], *, opens: bool) -> None:
    breaker = Breaker()
    changes = [breaker.failed(1000.0 + at, 1000.0 + at, 0.0) for at in times]
    assert changes[:-1] == [None] * (len(times) - 1)
    assert (changes[-1] is not None) == opens


def test_one_success_ends_the_run() -> None:
    breaker = Breaker()
    for at in range(12):
        change = breaker.succeeded if at % 5 == 4 else partial(breaker.failed, chance=0.0)
        assert change(1000.0 + at, 1000.0 + at) is None


def opened(chance: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(20):
        breaker.failed(1000.0, 1000.0, chance)
    assert breaker.state is State.OPEN
    return breaker


def test_it_stays_open_for_longer_each_time_up_to_a_minute() -> None:
    breaker, now, lengths = opened(), 1000.0, []
    for _ in range(6):
        lengths.append(breaker.rest(now))
        now += breaker.rest(now)
        breaker.take_probe(now)
        assert breaker.failed(now, now, 0.0) is not None
    assert lengths == [5, 10, 20, 40, 60, 60]
    assert opened(0.99).rest(1000.0) == pytest.approx(5 * 1.099)  # jittered upward only


def test_one_probe_at_a_time_and_its_success_closes_it() -> None:
    breaker = opened()
    assert breaker.rest(1004.0) == 1
    change = breaker.take_probe(1005.0)
    assert change is not None
    assert change.state is State.HALF_OPEN
    assert 0 < breaker.rest(1005.5) <= 5  # nobody is sent far away while it may tell at any moment
    change = breaker.succeeded(1005.0, 1006.0)
    assert change is not None
    assert (change.state, change.seconds) == (State.CLOSED, 6.0)
    assert breaker.rest(1006.0) == 0
    assert ask(breaker, 19, 19, begin=1006.0, seconds=1.0) is None  # what was before is forgotten


def test_a_probe_that_is_lost_or_silent_makes_room_for_the_next() -> None:
    breaker = opened()
    breaker.take_probe(1005.0)
    breaker.lose_probe()
    assert breaker.rest(1005.1) == 0
    assert breaker.take_probe(1005.1) is None  # it was half open already
    assert breaker.rest(1005.2) > 0
    assert breaker.rest(1005.1 + PROBE_LONGEST) == 0


def test_calls_that_began_before_say_nothing_about_now() -> None:
    breaker = opened()
    assert breaker.succeeded(999.0, 1001.0) is None
    assert breaker.failed(999.0, 1001.0, 0.0) is None
    breaker.take_probe(1005.0)
    assert breaker.succeeded(999.0, 1005.5) is None
    assert breaker.failed(999.0, 1005.5, 0.0) is None
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded(1005.0, 1006.0)
    for _ in range(30):
        assert breaker.failed(1004.0, 1006.0, 0.0) is None
    assert breaker.rest(1006.0) == 0
    assert LONGEST_OPEN == 60
