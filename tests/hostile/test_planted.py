"""Bugs planted in a real worker: the fuzzer finds each of them, and for the right reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.planted import BUGS
from tests.hostile.run import run
from worker.dev.node import Node
from worker.dev.target import Target

COUNT = 150
CAUGHT = {
    "swallowed": "lost",
    "altered_body": "altered",
    "altered_properties": "altered",
    "without_a_reason": "no reason",
    "reason_of_its_own": "no reason",
    "twice": "twice",
    "copies_to_others": "headers",
    "believes_anyone": "believed",
    "lost_connection": "connection",
    "crash": "crash",
    "stuck": "not over",
}
QUICK = {"swallowed", "altered_body", "without_a_reason", "lost_connection"}


def test_every_bug_is_looked_for() -> None:
    assert CAUGHT.keys() == BUGS.keys()
    assert CAUGHT.keys() >= QUICK


@pytest.mark.parametrize(
    "bug", [one if one in QUICK else pytest.param(one, marks=pytest.mark.faults) for one in CAUGHT]
)
def test_a_planted_bug_is_found(
    node: Node, target: Target, tmp_path: Path, note: Callable[[str], None], bug: str
) -> None:
    ran = run(node, target, tmp_path, seed=1, count=COUNT, plant=bug, stalled=5)
    note(f"{bug} found as {sorted(ran.report.kinds)}")
    assert CAUGHT[bug] in ran.report.kinds
    assert all(path.exists() for path in ran.files)
