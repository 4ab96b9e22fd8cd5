"""Trials: a private broker, a target, a queue; and their figures, printed at the end.

trial   on a node of this test process that lives on after it: faults by rabbitmqctl, by signals to workers, on the way
rough   on a node of its own, to be killed and restarted

Tests are named by the row of the fault matrix they are for. Those marked `faults` only run when all of them are asked
for: `make faults`. Row 9's black hole needs root, and says so where it is missing.

    kill 1 5 6    drain 2 3 4 33    broker 7 8 12 13 14    cluster 15 16    link 9 10 34    alarm 11 18 19
    publisher 17    poison 24 25 26 31    resources 28 29 30 35    rotation 32    soak 36
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.conftest import installation
from tests.faults.trial import Trial
from worker.dev.node import Node
from worker.dev.target import Target

logging.getLogger("pika").setLevel(logging.CRITICAL)  # a queue that is not there is an answer here, not news

HERE = Path(__file__).parent


@pytest.fixture
def note(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keeps a line of figures for the end of the run."""
    name = request.node.name
    return lambda line: record_property("figures", f"{name}: {line}")


@pytest.fixture
def trial(node: Node, tmp_path: Path, target: Target, note: Callable[[str], None]) -> Iterator[Trial]:
    with Trial(node, tmp_path, target, note) as found:
        yield found


@pytest.fixture
def rough(node: Node, tmp_path: Path, target: Target, note: Callable[[str], None]) -> Iterator[Trial]:
    # `node` is asked for so that this is skipped where that one is. RabbitMQ 3.10 sometimes takes no new quorum queues
    # any more when it was killed twice.
    with Node(installation()) as own, Trial(own, tmp_path, target, note) as found:
        yield found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without FAULTS=all, what takes long is left out."""
    if os.environ.get("FAULTS") == "all" or config.option.markexpr:
        return
    left_out = [item for item in items if HERE in item.path.parents and item.get_closest_marker("faults")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its services said."""
    report = yield
    trials = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Trial)]
    if report.failed:
        report.sections += [section for one in trials for section in one.logs()]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = [
        str(text)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, text in report.user_properties
        if name == "figures"
    ]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.line(line)
