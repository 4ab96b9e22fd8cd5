"""What is remembered, for how long, and what nobody knows yet."""

from __future__ import annotations

import pytest

from worker.runtime.calls import WatchedCall
from worker.runtime.limiter import Limiter, Places
from worker.runtime.limits import share
from worker.runtime.limits.gate import Gate
from worker.runtime.limits.share import Member, Pool
from worker.runtime.telemetry import Silent
from worker.testing import ManualClock


async def test_the_key_of_a_request_that_outlives_its_job_is_in_use() -> None:
    clock = ManualClock()
    limits = Limiter(Places(), clock, Silent())
    async with limits.job(["api.example"], {}):
        call = WatchedCall(limits, clock, "api.example", lambda: False)
        await call.__aenter__()
    assert limits.key("api.example").users == 1
    await call.__aexit__(None, None, None)
    assert limits.key("api.example").users == 0


def test_a_pool_remembers_only_so_many_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "MOST_ASKERS", 10)
    pool: Pool[str] = Pool(5, 0.25)
    for _ in range(100):
        pool.take(Member(), 100.0)
    assert len(pool._askers) == 10


def test_as_long_as_nobody_has_shown_how_long_a_place_is_held_it_may_be_free_at_once() -> None:
    gate = Gate(1)
    gate.enter("first", 100.0)
    assert gate.free_in(100.9, 3) == 0.0
    assert gate.free_in(101.5, 1) == pytest.approx(3.0)
    gate.leave("first", 102.0)
    gate.enter("second", 102.0)
    assert gate.free_in(102.5, 1) == pytest.approx(1.5 + 2.0)
