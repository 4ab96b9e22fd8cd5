"""Which keys are remembered: those that would be missed, however many others there are."""

from __future__ import annotations

import pytest

from worker.core.units import Rate
from worker.runtime.limiter import Asker, Busy, Limit, Limiter, Places
from worker.runtime.limits.breaker import State
from worker.runtime.limits.line import OVERDUE
from worker.runtime.limits.table import LOOKED_AT, Table
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock

MOST = 100


def table_of(places: Places, clock: ManualClock, gone: list[str] | None = None, most: int = MOST) -> Table[object]:
    names = [] if gone is None else gone
    return Table(places, clock.monotonic, lambda key: names.append(key.name.key), most=most)


def fill(table: Table[object], keys: int, prefix: str = "k") -> None:
    for number in range(keys):
        table.key(f"{prefix}{number}")


def test_keys_that_nobody_uses_are_forgotten_and_those_in_use_are_not() -> None:
    gone: list[str] = []
    table = table_of(Places(), ManualClock(), gone, most=10)
    used = table.key("used")
    used.users = 1
    troubled = table.key("troubled")
    assert troubled.breaker is not None
    troubled.breaker.state = State.OPEN
    for number in range(100):
        table.key(f"k{number}")
        assert len(table) <= 10
    assert table.key("used") is used
    assert "troubled" not in gone  # as long as there are others
    assert gone[:3] == ["k0", "k1", "k2"]
    for number in range(20):
        table.key(f"busy{number}").users = 1
    assert len(table) >= 21  # more than it may remember, but none of them can be spared
    assert not [name for name in gone if name.startswith("busy")]


def test_a_key_with_words_of_its_own_is_never_forgotten() -> None:
    table = table_of(Places(keys={"api": 1}), ManualClock())
    api, own = table.key("api"), table.own("type", 1)
    fill(table, 5 * MOST)
    assert table.key("api") is api
    assert table.own("type", 1) is own
    assert len(table) == MOST + 2
    assert {api, own} < set(table)


def test_no_key_is_forgotten_whose_starts_still_count() -> None:
    clock = ManualClock()
    table = table_of(Places(default_key=Limit(rate=(Rate(1, 60.0),))), clock)
    keys = []
    for number in range(3 * MOST):
        key = table.key(f"k{number}")
        key.enter(None, clock.monotonic())
        if number % 2:  # else it is reserved, and may start at any moment
            assert key.rates is not None
            key.rates.start(clock.monotonic())
        keys.append(key)
    assert set(table) == set(keys)


async def test_a_key_is_idle_when_nothing_that_is_known_of_it_holds_any_more() -> None:
    clock = ManualClock()
    limits = Limiter(Places(default_key=Limit(1, rate=(Rate(5, 10.0),)), waiters=0), clock, Silent(), lambda: 0.0)
    key = limits.key("api")
    assert key.is_idle(clock.monotonic())
    async with limits.job(["api"], {}, Asker("a", 1.0)):
        with pytest.raises(Busy) as busy:
            await limits.admit(limits.job(["api"], {}, Asker("b", 2.0)))
    limits.health.asked_to_wait(key, 30.0, clock.monotonic())
    for seconds in (10.2, 20.0, busy.value.delay + OVERDUE - 30.2):  # its starts, its hold and who was parked
        assert not key.is_idle(clock.monotonic())
        await clock.advance(seconds)
    assert key.is_idle(clock.monotonic())


async def test_the_keys_of_one_job_are_found_together() -> None:
    table = table_of(Places(), ManualClock())
    first = table.key("first")
    for number in range(5 * MOST):
        assert table.key("first") is first
        table.key(f"other{number}")
    fill(table, MOST - 1)  # now it is the longest unused
    jobs_keys = [table.key("first"), table.key("new")]
    assert jobs_keys == [table.key("first"), table.key("new")]


def test_where_all_are_in_trouble_the_table_grows_no_further() -> None:
    table = table_of(Places(), ManualClock())
    for number in range(10 * MOST):
        breaker = table.key(f"down{number}").breaker
        assert breaker is not None
        breaker.state = State.OPEN
    assert len(table) <= MOST * (1 + 2 / LOOKED_AT)
