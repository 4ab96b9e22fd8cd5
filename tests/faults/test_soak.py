"""Row 36: random faults, also two at once, under load; `make soak` runs the same for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import soak
from worker.dev.node import Node


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_row_36_random_faults(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    failed = soak(2500, seed, 40, tmp_path)
    assert failed == 0, capsys.readouterr().out
