"""The checker is worth what it finds: each planted bug, within a few hundred seeds, and for what it is."""

from __future__ import annotations

from typing import Final

import pytest

from tests.simulation.planted import BUGS, Plant
from tests.simulation.simulation import simulate

MOST_SEEDS: Final = 300


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(BUGS[plant] in rule for seed in range(MOST_SEEDS) for rule in simulate(seed).broken)
