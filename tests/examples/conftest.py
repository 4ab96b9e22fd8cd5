"""The engine of the HTTP tests for the documents, and a stage for the worked examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.partner import Partner
from tests.examples.stage import Stage
from tests.http.conftest import make_engine
from tests.process.conftest import pytest_runtest_makereport, yard
from tests.process.kit import Yard

__all__ = ["make_engine", "pytest_runtest_makereport", "yard"]


@pytest.fixture
def partner(tmp_path: Path) -> Iterator[Partner]:
    with Partner(tmp_path / "partner.ledger") as found:
        yield found


@pytest.fixture
def stage(partner: Partner, yard: Yard) -> Stage:
    """The partner goes last: who still talks to it has ended by then."""
    return Stage(yard, partner)
