"""A slow key with a thousand jobs: everybody has his turn, about when he would have had it in one long line."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping

import pytest

from tests.runtime.limits.crowd import Crowd
from worker.core.units import Rate
from worker.runtime.limiter import Limit, Limiter, Places
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock


def crowd(places: Places, seed: int = 1) -> Crowd:
    clock = ManualClock()
    return Crowd(Limiter(places, clock, Silent(), random.Random(seed).random), clock)


def fair_turns(arrived: Mapping[str, float], seconds: float, places: int = 1) -> dict[str, float]:
    """How long each would have waited in one line, first come, first served."""
    turns, free = {}, [0.0] * places
    for name, at in sorted(arrived.items(), key=lambda one: one[1]):
        start = max(heapq.heappop(free), at)
        turns[name] = start - at
        heapq.heappush(free, start + seconds)
    return turns


def arrivals(seed: int, *, every: float, until: float) -> Iterable[float]:
    chance, now = random.Random(seed), 1.0
    while (now := now + chance.expovariate(1 / every)) < until:
        yield now


@pytest.mark.parametrize(("seconds", "jobs", "most_parks"), [(1.0, 1000, 10), (10.0, 250, 20)])
async def test_nobody_starves_on_a_slow_key(seconds: float, jobs: int, most_parks: int) -> None:
    """Fresh ones keep coming at a third of what the key can do, for as long as half of the others wait."""
    the = crowd(Places(keys={"slow": 1}))
    for number in range(jobs):
        the.job(f"early{number}", ["slow"], lambda: seconds, at=number / 1000)
    for number, at in enumerate(arrivals(2, every=3 * seconds, until=jobs * seconds / 2)):
        the.job(f"fresh{number}", ["slow"], lambda: seconds, at=at)
    await the.until(3 * jobs * seconds, step=seconds)
    assert len(the.started) == len(the.tasks)
    turns = fair_turns(the.arrived, seconds)
    waits = {name: the.started[name] - the.arrived[name] for name in turns}
    # As long as no place was given back nobody can say how long it takes: some of the first come back too late.
    assert all(waits[name] <= 2 * turn + 5 * seconds for name, turn in turns.items())
    worst = max(waits[name] / turn for name, turn in turns.items() if turn >= 20 * seconds)
    took = max(the.started.values()) / (len(the.tasks) * seconds)
    parks = sum(the.parks.values()) / len(the.tasks)
    figures = f"worst wait {worst:.2f} of its turn, {took:.2f} of the least time, {parks:.1f} parks a job"
    print(f"{len(the.tasks)} jobs of {seconds:g} s: {figures}, {max(the.parks.values())} at most")  # noqa: T201 - for -s
    assert worst <= 1.5
    assert took <= 1.25
    assert max(the.parks.values()) <= 2 * most_parks
    assert parks <= most_parks
    assert set(the.limiter.in_use().values()) == {0}


@pytest.mark.parametrize(("seconds", "jobs", "load", "most"), [(1.0, 300, 0.95, 6.0), (3.0, 200, 0.9, 4.0)])
async def test_nobody_starves_above_the_share(seconds: float, jobs: int, load: float, most: float) -> None:
    """A heavy key without a limit beside a light one; fresh jobs keep coming at nearly all that its share can do."""
    the, places = crowd(Places(concurrency=20)), 16
    ends = 4 * jobs * seconds / places
    for number in range(jobs):
        the.job(f"early{number}", ["heavy"], lambda: seconds, at=0.5 + number / 1000)
    for number, at in enumerate(arrivals(2, every=seconds / places / load, until=ends)):
        the.job(f"fresh{number}", ["heavy"], lambda: seconds, at=at)
    for number in range(int(2 * ends)):
        the.job(f"light{number}", ["light"], lambda: 0.02, at=float(number))
    await the.until(2 * ends, step=0.5)
    heavy = {name: at for name, at in the.arrived.items() if not name.startswith("light")}
    turns = fair_turns(heavy, seconds, places)
    worst = max((the.started[name] - at) / turns[name] for name, at in heavy.items() if turns[name] >= 5 * seconds)
    parks = sum(the.parks[name] for name in heavy) / len(heavy)
    print(f"{len(heavy)} jobs of {seconds:g} s: worst wait {worst:.2f} of its turn, {parks:.1f} parks a job")  # noqa: T201
    assert worst <= most
    assert max(the.waits("light")) <= 0.05


async def test_what_is_above_a_rate_is_spread_over_the_time_that_it_needs() -> None:
    the = crowd(Places(keys={"api": Limit(rate=(Rate(20, 1.0),))}))
    for number in range(600):
        the.job(f"job{number}", ["api"], lambda: 0.1, at=number / 10_000)
    await the.until(100, step=0.5)
    starts = sorted(the.started.values())
    assert len(starts) == 600
    assert all(later - earlier >= 1.0 for earlier, later in zip(starts, starts[20:], strict=False))
    assert starts[-1] <= 1.3 * 600 / 20
    assert the.reasons["rate"] == the.parks.total()
    assert the.parks.total() <= 4 * 600


async def test_a_key_that_hangs_is_asked_for_less_and_less() -> None:
    """Two hold its places for ten minutes; fifty others ask for them."""
    the = crowd(Places(keys={"slow": 2}))
    for number in range(52):
        the.job(f"job{number}", ["slow"], lambda: 600.0, at=number / 100)
    await the.until(590)
    assert len(the.started) == 2
    assert the.parks.total() <= 50 * 14  # doubling from a second to five minutes
