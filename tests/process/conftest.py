"""Whole services against a real broker: started as an operator starts them, judged by what reached the target."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.process.kit import Yard

logging.getLogger("pika").setLevel(logging.CRITICAL)  # a queue that is not there is an answer here, not news


class Broker(Protocol):
    @property
    def url(self) -> str: ...


@pytest.fixture
def yard(rabbitmq: Broker, tmp_path: Path) -> Iterator[Yard]:
    with Yard(rabbitmq.url, tmp_path) as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its services said."""
    report = yield
    yards = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Yard)]
    if report.failed:
        report.sections += [section for one in yards for section in one.logs()]
    return report
