"""What every test may ask for: a broker, a target.

rabbitmq   something with a `url`: the broker named by the environment, else a private node; shared, so be tidy:
           queues with names of your own, no faults
node       a private node for faults (kill, freeze, ctl), running again whenever a test gets it; never the shared one
target     a local HTTP target with a ledger of its own

Nodes are started at most once in each test process. Where there is no RabbitMQ these tests are skipped at home, loudly,
and fail on CI. WORKER_TEST_RABBITMQ=4 makes every node one of RabbitMQ 4 (`make test-rabbitmq-4`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from worker.dev.chroot import find_rabbitmq_4, without_rabbitmq_4
from worker.dev.node import Installation, Node, NodeUnavailable, ensure_rabbitmq
from worker.dev.target import Target

# In a shell's background Ctrl-C is ignored, and the programs that tests start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

NO_BROKER = "no broker to test against: "


@dataclass(frozen=True)
class GivenBroker:
    """A broker that somebody else started."""

    url: str


class Brokers:
    """The brokers of this test process, each made when first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._nodes: dict[str, Node] = {}
        self._unavailable = ""

    def shared(self) -> GivenBroker | Node:
        return given_broker() or self._running("shared")

    def for_faults(self) -> Node:
        # Not the shared one: a node of 3.10 that was killed twice may fail to make quorum queues from then on.
        return self._running("faults")

    def _running(self, purpose: str) -> Node:
        if self._unavailable:
            do_without(self._unavailable)
        if purpose not in self._nodes:
            try:
                self._nodes[purpose] = self._stack.enter_context(Node(installation()))
            except NodeUnavailable as error:
                self._unavailable = str(error)
                do_without(self._unavailable)
        node = self._nodes[purpose]
        if not node.running:  # as a test before left it
            node.start()
        return node


def installation() -> Installation:
    """The RabbitMQ of which tests start nodes. Raises NodeUnavailable."""
    wanted = os.environ.get("WORKER_TEST_RABBITMQ", "")
    if not wanted:
        return ensure_rabbitmq(progress=lambda _: None)
    assert wanted == "4", f"WORKER_TEST_RABBITMQ={wanted}: only 4 can be asked for"
    found = find_rabbitmq_4() if os.geteuid() == 0 else None
    if found is None:
        raise without_rabbitmq_4()
    return found


def given_broker() -> GivenBroker | None:
    """The broker named for tests; WORKER_AMQP_URL only if it is on this machine, for it may name one in use.

    None where a version is asked for: that broker may have another.
    """
    if os.environ.get("WORKER_TEST_RABBITMQ"):
        return None
    if url := os.environ.get("WORKER_TEST_AMQP_URL"):
        return GivenBroker(url)
    url = os.environ.get("WORKER_AMQP_URL", "")
    return GivenBroker(url) if urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"} else None


def do_without(reason: str) -> NoReturn:
    """Skip at home; on CI a missing broker is a failure, or nobody would notice."""
    reason = " ".join(reason.split())
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(NO_BROKER + reason, pytrace=False)
    pytest.skip(NO_BROKER + reason)


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    with ExitStack() as stack:
        yield Brokers(stack)


@pytest.fixture
def rabbitmq(brokers: Brokers) -> GivenBroker | Node:
    return brokers.shared()


@pytest.fixture
def node(brokers: Brokers) -> Node:
    return brokers.for_faults()


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skipped tests go unread; these matter."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    missed = [reason for reason in reasons if NO_BROKER in reason]
    if missed:
        terminalreporter.section("NO BROKER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(missed)} tests did not run, because there is no RabbitMQ here. Get one with:")
        terminalreporter.line(missed[0].rpartition("fix: ")[2].strip(" \"')\n"))
