"""A fair share of the slots without configuration: light keys are not held up, healthy ones are not turned away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.runtime.limits.crowd import Crowd
from worker.runtime.limiter import Asker, Busy, Limiter, Places
from worker.runtime.limits.share import Member, Pool
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock
from worker.testing.clock import let_run


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


def asking_in_turn(pool: Pool[str], members: list[Member[str]], now: float) -> int:
    """What they take in all, each as often as it can."""
    return sum(pool.take(member, now) for _ in range(100) for member in members)


def test_however_many_give_nothing_back_together_they_leave_room() -> None:
    pool: Pool[str] = Pool(100, 0.25)
    light, hanging = Member[str](), [Member[str]() for _ in range(30)]
    assert pool.take(light, 100.0)
    pool.give_back(light, 100.0, 0.01)
    pool.take(light, 100.0)
    pool.give_back(light, 100.0, 0.01)
    assert asking_in_turn(pool, hanging, 100.1) == 80
    assert not pool.may_wait(hanging[0], 102.0)
    new = Member[str]()
    assert taken(pool, new, 2, now=102.0) == 1  # who is new is not held up by them
    assert taken(pool, light, 5, now=102.0) == 5
    for _ in range(5):
        pool.give_back(light, 102.0, 0.01)
    assert asking_in_turn(pool, hanging, 110.0) == 0
    assert asking_in_turn(pool, hanging, 120.1) > 0  # nobody else has asked for 10 s


def test_a_key_that_held_its_places_for_long_is_one_of_them_from_the_first_place_on() -> None:
    pool: Pool[str] = Pool(100, 0.25)
    light, slow = Member[str](), [Member[str]() for _ in range(100)]
    for member, seconds in ((light, 0.01), *((one, 10.0) for one in slow)):
        assert pool.take(member, 100.0)
        pool.give_back(member, 100.0, seconds)
    pool.take(light, 100.0)
    pool.give_back(light, 100.0, 0.01)
    assert asking_in_turn(pool, slow, 100.1) == 88
    assert pool.free == 12


def test_of_those_that_wait_the_key_with_the_fewest_places_goes_first() -> None:
    pool: Pool[str] = Pool(10, 0.25)
    many, few = Member[str](), Member[str]()
    assert taken(pool, many, 2) == 2
    for member, name in ((many, "many"), (few, "few")):
        pool.wait(member, name)
    assert [pool.next(100.0), pool.next(100.0)] == ["few", "many"]


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


def test_who_may_wait_grows_with_the_time_that_places_are_held() -> None:
    pool: Pool[str] = Pool(20, 0.25)
    light, slow = Member[str](), Member[str]()
    pool.take(light, 100.0)
    pool.give_back(light, 100.0, 0.01)
    pool.take(slow, 100.0)
    pool.give_back(slow, 100.0, 10.0)
    assert taken(pool, slow, 20) == 16
    pool.take(light, 100.0)
    for number in range(10):
        pool.wait(slow, f"waits{number}")
    assert pool.turned_away(100.5) == [f"waits{number}" for number in range(3, 10)]  # 16 places in 10 s: 3 in 2 s


# With jobs.


async def test_of_those_that_wait_for_a_slot_the_oldest_goes_first_and_drives_out_the_youngest() -> None:
    clock = ManualClock()
    limits = Limiter(Places(concurrency=10), clock, Silent(), lambda: 0.5)
    told = list[str]()

    async def job(name: str, key: str, first_seen: float, seconds: float) -> None:
        try:
            async with limits.job([key], {}, Asker(name, first_seen, "type")):
                told.append(name)
                await clock.sleep(seconds)
        except Busy:
            told.append(f"not {name}")

    tasks: list[asyncio.Task[None]] = []

    async def comes(name: str, key: str, first_seen: float, seconds: float = 4.0) -> None:
        tasks.append(asyncio.create_task(job(name, key, first_seen, seconds)))
        await let_run()

    await comes("first", "heavy", 1.0, 4.0)
    await clock.advance(4.0)
    for number in range(12):
        await comes(f"holds{number}", "heavy", 2.0)
        await clock.advance(0.5)
    await comes("last", "heavy", 2.0)
    await comes("light", "light", 2.0, 0.01)
    await clock.advance(0.1)
    told.clear()
    for name, first_seen in (("young", 60.0), ("old", 40.0), ("fresh", 70.0), ("older", 30.0)):
        await comes(name, "heavy", first_seen)
    assert told == ["not fresh", "not young"]
    await clock.advance(1.5)
    assert told[2:] == ["older", "old"]
    await clock.advance(10.0)
    await asyncio.gather(*tasks)
    assert set(limits.in_use().values()) == {0}


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


async def test_many_hosts_that_hang_hold_nobody_up() -> None:
    """Each of them is asked less than once a second: too seldom to be above any share of its own."""
    the, chance = crowd(50), random.Random(2)
    for number, at in enumerate(every(0.05, until=25.0)):
        the.job(f"light{number}", ["a"], lambda: 0.02, at=at)
    for number, at in enumerate(every(0.03, until=23.0)):
        the.job(f"heavy{number}", [f"b{chance.randrange(40)}"], lambda: 10.0, at=at + 2)
    await the.until(27, step=0.25)
    light = sorted(the.waits("light"))
    assert len(light) == 500
    print(f"beside 40 hosts that hang: 90 % start within {light[450]:.2f} s, all within {light[-1]:.2f} s")  # noqa: T201
    assert light[450] <= 0.05
    assert light[-1] <= 2.0
    assert not [name for name in the.parks if name.startswith("light")]


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
