"""Work in helpings: what one turn of the loop does at most, however many ask for it at once. Counted, not timed."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from worker.http.jobs.json_pieces import AT_ONCE, json_pieces
from worker.http.jobs.pace import HELPING, Pace, pace


class Turns:
    """Counts the turns of the loop, and what was done in each."""

    def __init__(self) -> None:
        self.done: list[int] = [0]
        self._task = asyncio.get_running_loop().create_task(self._count())

    def note(self) -> None:
        self.done[-1] += 1

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.done.append(0)

    def stop(self) -> list[int]:
        self._task.cancel()
        return [count for count in self.done if count]


class Worktime:
    """A clock on which only work takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "at_once"), [(HELPING, 1), (HELPING / 2, 2), (HELPING / 100, 100)])
async def test_one_turn_holds_one_helping(cost: float, at_once: int) -> None:
    clock = Worktime()
    one, turns = Pace(clock), Turns()

    async def work() -> None:
        async with one:
            clock.now += cost
            turns.note()

    await asyncio.gather(*(work() for _ in range(200)))
    counts = turns.stop()
    assert sum(counts) == 200
    assert max(counts) <= at_once + 1  # for 1/100 is no number of a computer's


async def test_a_long_piece_lets_the_loop_turn_and_nobody_else_begin() -> None:
    clock, order = Worktime(), list[str]()
    one, turns = Pace(clock), Turns()

    async def long() -> None:
        async with one:
            for _ in range(5):
                clock.now += 2 * HELPING
                turns.note()
                order.append("long")
                await one.rest()

    async def short() -> None:
        async with one:
            order.append("short")

    await asyncio.gather(long(), short())
    assert turns.stop() == [1] * 5
    assert order == ["long"] * 5 + ["short"]


async def test_the_next_one_begins_whatever_becomes_of_one() -> None:
    clock = Worktime()
    one = Pace(clock)

    async def failing() -> None:
        async with one:
            clock.now += HELPING
            raise ValueError

    async def endless() -> None:
        async with one:
            while True:
                clock.now += HELPING
                await one.rest()

    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        await failing()
    task = asyncio.create_task(endless())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with one:
        pass


async def test_a_loop_has_one_for_all() -> None:
    assert pace() is pace()
    here = pace()
    assert await asyncio.to_thread(lambda: asyncio.run(_another())) is not here


async def _another() -> Pace:
    return pace()


def value(depth: int, chance: random.Random) -> Any:
    kind = chance.randrange(8 if depth else 5)
    if kind < 5:
        return [None, True, chance.random(), "ü\n" * chance.randrange(400), chance.randrange(1 << 70)][kind]
    if kind == 5:
        return [chance.random() for _ in range(chance.choice([0, 1, AT_ONCE, 3 * AT_ONCE]))]
    many = range(chance.choice([0, 1, 3, 40]))
    if kind == 6:
        return [value(depth - 1, chance) for _ in many]
    return {f'n"{n}': value(depth - 1, chance) for n in many}


@pytest.mark.parametrize("seed", range(60))
def test_the_pieces_are_the_whole(seed: int) -> None:
    whole = value(4, random.Random(seed))
    assert "".join(json_pieces(whole)) == json.dumps(whole, separators=(",", ":"))


@pytest.mark.parametrize(
    "whole",
    [
        [0.5] * 100_000,
        {f"name {n}": n for n in range(30_000)},
        [{"id": n, "tags": ["a", "b"]} for n in range(10_000)],
        [[[[n] * 5] * 5] * 5 for n in range(500)],
        {"rows": {"all": [[1] * 40_000, [2] * 40_000]}},
        ["x" * 1000] * 1000,
    ],
)
def test_no_piece_is_large(whole: Any) -> None:
    pieces = list(json_pieces(whole))
    assert "".join(pieces) == json.dumps(whole, separators=(",", ":"))
    assert max(piece.count(",") for piece in pieces) <= AT_ONCE
    assert max(map(len, pieces)) <= AT_ONCE * 256


def test_nested_a_hundred_levels_deep() -> None:
    whole: Any = [1.5] * (2 * AT_ONCE)
    for _ in range(100):
        whole = [whole]
    assert "".join(json_pieces(whole)) == json.dumps(whole, separators=(",", ":"))
