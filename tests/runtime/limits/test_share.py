"""A fair share of the slots without configuration: light keys are not held up, healthy ones are not turned away."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.runtime.limits.crowd import Crowd
from worker.runtime.limiter import Limiter, Places
from worker.runtime.limits.share import Member, Pool
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock


def crowd(concurrency: int = 100) -> Crowd:
    clock = ManualClock()
    return Crowd(Limiter(Places(concurrency=concurrency), clock, Silent(), random.Random(1).random), clock)


def every(seconds: float, *, until: float) -> Iterator[float]:
    return (number * seconds for number in range(int(until / seconds)))


# The pool itself.


def taken(pool: Pool[str], member: Member[str], most: int, now: float = 100.0) -> int:
    return sum(pool.take(member, now) for _ in range(most))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 100])
def test_alone_a_key_may_hold_all(size: int) -> None:
    assert taken(Pool(size, 0.25), Member(), size + 1) == size


@pytest.mark.parametrize(("size", "greedy"), [(2, 1), (3, 2), (5, 4), (10, 8), (100, 80)])
def test_while_another_wants_places_a_key_leaves_a_fifth(size: int, greedy: int) -> None:
    pool: Pool[str] = Pool(size, 0.25)
    light, heavy = Member[str](), Member[str]()
    assert pool.take(light, 100.0)
    pool.give_back(light, 100.0, 0.01)
    assert taken(pool, heavy, size) == greedy
    assert taken(pool, light, 1) == 1  # there is one for whoever has none
    pool.give_back(light, 100.0, 0.01)
    assert taken(pool, heavy, size, now=109.0) == 0
    assert taken(pool, heavy, size, now=110.1) == size - greedy  # nobody else has asked for 10 s


def test_several_greedy_keys_leave_room_for_the_next() -> None:
    pool: Pool[str] = Pool(100, 0.25)
    greedy = [Member[str]() for _ in range(4)]
    held = [0] * 4
    for _ in range(100):
        for number, member in enumerate(greedy):
            held[number] += pool.take(member, 100.0)
    assert held == [24, 24, 23, 23]
    assert pool.free == 6


def test_keys_that_wait_take_turns() -> None:
    pool: Pool[str] = Pool(2, 0.25)
    first, second = Member[str](), Member[str]()
    assert taken(pool, first, 5) == 2
    for number in range(3):
        pool.wait(first, f"first{number}")
        pool.wait(second, f"second{number}")
    order = []
    for _ in range(4):
        pool.give_back(first if first.held else second, 100.0, 0.01)
        while (waiter := pool.next(100.0)) is not None:
            order.append(waiter)
    assert sorted(order[:2]) == ["first0", "second0"]
    assert len(order) == 4


def test_equally_slow_keys_wait_for_each_other_and_are_not_turned_away() -> None:
    pool: Pool[str] = Pool(10, 0.25)
    slow = [Member[str](), Member[str]()]
    for _ in range(10):
        for member in slow:
            pool.take(member, 100.0)
    for member in slow:
        pool.wait(member, "waits")
    assert pool.turned_away(105.0) == []
    assert all(pool.may_wait(member, 105.0) for member in slow)


# With jobs.


async def test_a_heavy_key_that_is_healthy_is_not_parked_and_holds_nobody_up() -> None:
    the = crowd(20)
    for number, at in enumerate(every(0.002, until=6.0)):  # 500/s; 16 places of 20 ms bear 800
        the.job(f"heavy{number}", ["b"], lambda: 0.02, at=at)
    for number, at in enumerate(every(0.05, until=6.0)):
        the.job(f"light{number}", ["a"], lambda: 0.02, at=at)
    await the.until(20, step=0.25)
    assert the.parks.total() == 0
    assert max(the.waits("light")) <= 0.05
    assert max(the.waits("heavy")) <= 0.1


async def test_a_key_that_hangs_is_moved_out_of_the_way_and_the_light_one_keeps_its_rate() -> None:
    """From the third second on each call of the heavy key takes 10 s, at ten times the load of the light one."""
    the = crowd(50)

    def seconds() -> float:
        return 0.02 if the.clock.now() - the.since < 3 else 10.0

    for number, at in enumerate(every(0.005, until=12.0)):
        the.job(f"heavy{number}", ["b"], seconds, at=at)
    for number, at in enumerate(every(0.05, until=12.0)):
        the.job(f"light{number}", ["a"], lambda: 0.02, at=at)
    await the.until(14, step=0.25)
    light = the.waits("light")
    assert len(light) == 240
    assert max(light) <= 0.5
    assert not [name for name in the.parks if name.startswith("light")]
    assert the.reasons.keys() == {"busy_key"}
    # Of those that were turned away few waited: they would have kept the light ones from being delivered.
    waiting = the.limiter.in_use()
    assert waiting["slots"] <= 41


async def test_jobs_without_a_key_count_under_their_type() -> None:
    the = crowd(10)
    for number in range(40):
        the.job(f"keyless{number}", [], lambda: 5.0)
        the.job(f"other{number}", ["a"], lambda: 0.02, at=0.3 * number + 0.1)
    await the.until(30, step=0.25)
    # The first ten took all there was while they were alone; from their end on there is room.
    waits = the.waits("other")
    assert max(waits) <= 5
    assert max(waits[17:]) <= 0.05
