"""Messages by chance at a real worker: 20,000 of them in the suite, as many as wanted by `python -m tests.hostile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.generator import Generator
from tests.hostile.run import run
from tests.hostile.shots import DONE
from worker.dev.node import Node
from worker.dev.target import Target

COUNT = 20_000
SEED = 5


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nobody_harmed(
    node: Node, target: Target, tmp_path: Path, note: Callable[[str], None]
) -> None:
    ran = run(node, target, tmp_path, seed=SEED, count=COUNT)
    note(ran.line)
    told = [f"{one.kind}: {one.story} ({one.shot.name if one.shot else ''})" for one in ran.report.violations[:20]]
    assert told == [], f"{ran.line}\n{[str(path) for path in ran.files[:20]]}"
    assert ran.report.ends[DONE] > COUNT / 20
    assert ran.report.ends["malformed"] > COUNT / 4
    assert {"invalid_payload", "unknown_type", "no_type", "expired"} <= ran.report.ends.keys()


def test_a_message_is_the_same_whenever_it_is_made() -> None:
    def made(seed: int) -> Generator:
        return Generator(seed, "http://127.0.0.1/ok?n=", "jobs", "jobs.spare")

    assert list(made(1).shots(20, 100)) == [made(1).shot(number) for number in range(100, 120)]
    assert [one.raw for one in made(1).shots(50)] != [one.raw for one in made(2).shots(50)]
