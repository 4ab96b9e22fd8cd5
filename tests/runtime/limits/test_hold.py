"""How long a whole key is held back, and how an adaptive limit shrinks and grows."""

from __future__ import annotations

import pytest

from worker.runtime.limiter import Limit, Limiter, Places
from worker.runtime.limits.adaptive import Adaptive
from worker.runtime.limits.hold import LONGEST_ASKED, Hold
from worker.runtime.limits.line import FEW, LONGEST, MOST, OVERDUE, Line, held_delay, park_delay
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock


def held(asked: float | None, chance: float = 0.0) -> float:
    hold = Hold()
    hold.asked(asked, started=99.0, now=100.0, chance=chance)
    return hold.rest(100.0)


@pytest.mark.parametrize(
    ("asked", "rest"),
    [(7.0, 7.0), (0.0, 1.0), (-5.0, 1.0), (0.2, 1.0), (299.0, 299.0), (3600.0, 300.0), (1e9, 300.0), (None, 1.0)],
)
def test_it_holds_for_the_time_that_is_asked_within_its_cap(asked: float | None, rest: float) -> None:
    assert held(asked) == pytest.approx(rest)
    assert rest <= held(asked, 0.99) <= rest * 1.1  # jittered upward only
    assert held(asked, 0.99) <= LONGEST_ASKED * 1.1


@pytest.mark.parametrize("asked", [None, 0.0, -3600.0, 1.0])
def test_a_word_that_repeats_holds_for_twice_as_long(asked: float | None) -> None:
    hold, now, lengths = Hold(), 100.0, []
    for _ in range(8):
        hold.asked(asked, started=now, now=now, chance=0.0)
        for started in (now - 1, now):  # others that were under way at the same time
            hold.asked(asked if (asked or 0) <= 0 else 0.5, started=started, now=now + 0.1, chance=0.0)
        lengths.append(round(hold.rest(now), 6))
        now += lengths[-1]
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    hold.went_well(started=now - 1)  # from before: no news
    hold.asked(None, started=now, now=now, chance=0.0)
    assert hold.rest(now) == 60
    now += 60
    hold.went_well(started=now)
    hold.asked(None, started=now, now=now + 1, chance=0.0)
    assert hold.rest(now + 1) == 1


def test_the_longest_word_counts() -> None:
    hold = Hold()
    hold.asked(100.0, started=0.0, now=0.0, chance=0.0)
    hold.asked(5.0, started=0.0, now=1.0, chance=0.0)
    assert hold.rest(1.0) == 99


def test_trouble_shrinks_at_most_once_a_second_and_never_below_one() -> None:
    adaptive = Adaptive(50)
    for now in (0.0, 0.1, 0.9):
        adaptive.was_too_much(started=now, now=now)
    assert adaptive.places == 35
    for now in range(1, 30):
        adaptive.was_too_much(started=float(now), now=float(now))
    assert adaptive.places == 1


def test_calls_that_were_under_way_together_are_one_trouble() -> None:
    adaptive = Adaptive(50)
    for second in range(10):  # they began one after the other, and none is answered within 10 s
        adaptive.was_too_much(started=float(second), now=10.0 + second)
    assert adaptive.places == 35
    adaptive.was_too_much(started=10.0, now=20.0)
    assert adaptive.places == 24


async def test_what_was_under_way_when_the_places_shrank_shrinks_them_no_further() -> None:
    clock = ManualClock()
    limits = Limiter(Places(keys={"api": Limit(50, adaptive=True)}), clock, Silent(), lambda: 0.0)
    key, started = limits.key("api"), clock.monotonic()
    for _ in range(3):
        await clock.advance(2)
        limits.health.report(key, started, failed=True, too_much=True)
    assert key.gate is not None
    assert key.gate.places == 35


def test_success_grows_it_back_and_never_above_the_limit() -> None:
    adaptive = Adaptive(50)
    adaptive.was_too_much(started=0.0, now=0.0)
    for _ in range(36):
        adaptive.went_well()
    assert adaptive.places == 36
    for _ in range(5000):
        adaptive.went_well()
    assert adaptive.places == 50


@pytest.mark.parametrize("expected", [0.0, 0.5, 1.0, 3.0, 30.0, 299.0, 1e6])
def test_a_job_is_parked_until_its_turn_jittered_upward_only(expected: float) -> None:
    low, high = park_delay(expected, chance=0.0), park_delay(expected, chance=0.999)
    assert low >= max(1.0, min(expected - 1.5, LONGEST))
    assert low <= high <= max(2.0, 1.1 * low + 1)
    assert low.is_integer()


@pytest.mark.parametrize(("rest", "since"), [(0.0, 0.0), (5.0, 0.0), (60.0, 600.0), (300.0, 3000.0)])
def test_a_key_that_is_held_back_parks_for_at_least_its_rest(rest: float, since: float) -> None:
    delays = [held_delay(rest, since=since, age=0.0, chance=number / 100) for number in range(100)]
    assert min(delays) == rest
    assert max(delays) <= 1 + rest + max(1.0, rest, since / 2)
    assert held_delay(5.0, since=500.0, age=1e6, chance=0.0) == LONGEST  # who waits for long asks seldom


def test_an_old_job_is_back_soon_after_a_trifle() -> None:
    assert held_delay(1.0, since=0.0, age=1e6, chance=0.999) <= 5
    assert held_delay(5.0, since=40.0, age=1e6, chance=0.0) == 40


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@pytest.mark.parametrize(("rest", "since", "age"), [(3.0, 600.0, 0.0), (3.0, 600.0, 3600.0), (28.9, 0.0, 0.0)])
def test_a_key_that_is_held_back_parks_nobody_for_too_long(
    rest: float, since: float, age: float, chance: float
) -> None:
    assert rest <= held_delay(rest, since=since, age=age, chance=chance, left=30.0) <= 30
    assert held_delay(rest, since=since, age=age, chance=chance, left=rest / 2) >= rest  # there is nothing to be saved


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("left", [2.0, 2.5, 30.0, 250.0, 1e9])
def test_nobody_is_parked_past_the_moment_that_is_too_late(left: float, chance: float) -> None:
    assert min(0.9 * (left - 2), 299) <= park_delay(300.0, chance=chance, left=left) <= left
    assert park_delay(3.0, chance=chance, left=left) <= 3


def test_a_line_knows_who_is_older_and_forgets_who_does_not_come() -> None:
    line = Line()
    for name, first_seen in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        line.parked(name, first_seen, now=10.0, delay=5.0)
    assert [line.older(name, seen, 10.0) for name, seen in (("a", 1.0), ("b", 2.0), ("x", 9.0))] == [0, 1, 3]
    line.returned("a")
    line.returned("never")
    line.parked("b", 2.0, now=10.0, delay=300.0)  # again: counted once, for longer
    assert line.older("x", 9.0, 10.0) == 2
    assert line.older("x", 9.0, 10 + 5 + 61) == 1
    assert line.older("x", 9.0, 10 + 300 + 61) == 0


def test_a_line_remembers_so_many_and_no_more_however_often_they_come_back() -> None:
    line = Line()
    for number in range(MOST + 10):
        line.parked(f"id{number}", float(number), now=0.0, delay=300.0)
    assert len(line) == line.older("x", 1e9, 0.0) == MOST
    line = Line()
    for now in range(1000):
        for name in ("a", "b"):
            line.parked(name, 1.0, now=float(now), delay=300.0)
    assert len(line._due) <= 2 * 2 + FEW
    assert line.older("x", 9.0, 999 + 300 + OVERDUE - 1) == 2
    assert line.older("x", 9.0, 999 + 300 + OVERDUE) == 0
