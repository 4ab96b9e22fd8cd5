"""A part of the simulation in every test run; `make simulate SEEDS=0..20000` runs more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.chance import AT
from tests.simulation.simulation import Outcome, simulate
from tests.simulation.virtual_time import Spinning, Stuck, VirtualLoop

SEEDS: Final = 300
AT_ONCE: Final = 50
CHECKOUT: Final = Path(__file__).parents[2]


def kept_seeds() -> list[int]:
    """Those that have failed once."""
    lines = (Path(__file__).parent / "kept_seeds.txt").read_text("utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@cache
def outcome_of(seed: int) -> Outcome:
    return simulate(seed)


def failures(outcomes: list[Outcome]) -> str:
    """The first failing seed with its trace, the others by what they broke."""
    failing = [outcome for outcome in outcomes if outcome.broken]
    return "\n".join([outcome.told() for outcome in failing[:1]] + [str(outcome.verdict()) for outcome in failing[1:]])


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_nothing_is_lost_and_nothing_repeated_without_a_cause(first: int) -> None:
    assert failures([outcome_of(seed) for seed in range(first, first + AT_ONCE)]) == ""


@pytest.mark.parametrize("seed", kept_seeds())
def test_a_seed_that_has_failed_once(seed: int) -> None:
    assert failures([simulate(seed)]) == ""


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(20):
        assert simulate(seed).told() == outcome_of(seed).told()


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    """Where text hashes otherwise, and objects lie elsewhere."""
    traces = {
        subprocess.run(
            [sys.executable, "-c", "from tests.simulation.simulation import simulate; print(simulate(4).told())"],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
    assert traces == {outcome_of(4).told() + "\n"}


def test_the_faults_that_can_happen_do() -> None:
    seen = {kind for seed in range(SEEDS) for kind in outcome_of(seed).faults}
    wanted = {"arrived unconfirmed", "publish failed", "not taken at the drain", "loss", "death", "refusal"}
    assert wanted <= seen
    assert all(AT.values())


def test_one_process_that_lives_repeats_nothing_however_often_its_session_is_lost() -> None:
    stayed = [outcome for seed in range(SEEDS) if (outcome := outcome_of(seed)).stayed]
    assert sum(outcome.faults.count("loss") for outcome in stayed) > 20
    assert [outcome.duplicates for outcome in stayed] == [0] * len(stayed)


# The loop.


def test_time_jumps_to_what_is_due_next_and_in_order() -> None:
    loop, seen = VirtualLoop(), []

    async def at(moment: float) -> None:
        await asyncio.sleep(moment)
        seen.append((moment, loop.time()))

    async def all_of_them() -> None:
        await asyncio.gather(at(3600), at(0.5), at(86_400 * 3))

    loop.run_until_complete(all_of_them())
    loop.close()
    assert [moment for moment, _ in seen] == [0.5, 3600, 86_400 * 3]
    assert all(time == pytest.approx(moment) for moment, time in seen)


async def for_ever() -> None:
    while True:  # noqa: ASYNC110 - it waits for nothing: that is the point
        await asyncio.sleep(0)


async def for_nothing() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("main", "told"), [(for_ever, Spinning), (for_nothing, Stuck)])
def test_what_never_ends_is_told(main: object, told: type[Exception]) -> None:
    loop = VirtualLoop()
    task = loop.create_task(main())  # type: ignore[operator]
    with pytest.raises(told):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
