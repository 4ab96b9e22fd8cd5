"""Hostile messages: corpora, a fuzzer, and the bugs that both must find. Marked `faults`: only with FAULTS=all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

logging.getLogger("pika").setLevel(logging.CRITICAL)  # a queue that is not there is an answer here, not news

HERE = Path(__file__).parent


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keeps a line of figures with the test, and prints it."""

    def noted(line: str) -> None:
        record_property("figures", line)
        print(line)  # noqa: T201 - shown with -rP, and when the test fails

    return noted


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without FAULTS=all, what takes long is left out."""
    if os.environ.get("FAULTS") == "all" or config.option.markexpr:
        return
    left_out = [item for item in items if HERE in item.path.parents and item.get_closest_marker("faults")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
