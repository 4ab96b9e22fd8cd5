"""Rows 9, 10, 32, 34: the way to the broker is slow, silent or cut, and the password changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.faults.trial import Trial
from tests.process.kit import CHECKOUT, Worker, eventually
from worker.dev.node import Node

NOTICED = 40.0
"""Seconds until a client with a heartbeat of 10 knows that nobody is there."""


@pytest.fixture
def proxy(trial: Trial) -> Iterator[Proxy]:
    with Proxy(trial.node.port) as found:
        yield found


def by_way_of(trial: Trial, proxy: Proxy, **settings: str) -> Worker:
    trial.declare()
    return trial.start(**({"concurrency": "10", "prefetch": "20", "amqp_url": proxy.url(trial.url)} | settings))


def test_row_9_every_connection_is_reset(trial: Trial, proxy: Proxy) -> None:
    by_way_of(trial, proxy)
    trial.publish_all(trial.jobs(80, "/ok?ms=300&job={}"))
    for count in (15, 35, 55):
        trial.until_done(count)
        with trial.fault("link.reset", recover=5):
            proxy.reset()
    trial.judge()


@pytest.mark.faults
def test_row_9_cut_in_the_midst_of_a_frame(trial: Trial, proxy: Proxy) -> None:
    worker = by_way_of(trial, proxy)
    trial.publish_all(trial.jobs(80, "/ok?ms=300&job={}"))
    trial.until_done(15)
    with trial.fault("link.cut", recover=5):
        proxy.set(cut=700)
        eventually(lambda: worker.lines("session.lost"), "the worker notices")
        proxy.heal()
    trial.judge()


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["up", "down", "both"])
def test_row_9_a_link_that_swallows_everything(trial: Trial, proxy: Proxy, way: str) -> None:
    """Silence, without a word from either end. The broker hands over elsewhere, and the worker notices."""
    worker = by_way_of(trial, proxy)
    trial.publish_all(trial.jobs(60, "/ok?ms=500&job={}"))
    trial.until_done(5)
    with trial.fault("link.silent", bound=0, recover=5):
        since = time.monotonic()
        proxy.set(stall=way)
        eventually(lambda: worker.lines("session.lost"), "the worker notices", NOTICED + 5)
        noticed = time.monotonic() - since
        proxy.heal()
        worker.until_ready()
    trial.note(f"silent {way}: noticed after {noticed:.1f} s")
    assert noticed <= NOTICED
    trial.judge()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_row_9_another_worker_gets_what_the_silent_one_held(trial: Trial, proxy: Proxy) -> None:
    silent = by_way_of(trial, proxy)
    trial.start(concurrency="2", prefetch="4")
    trial.publish_all(trial.jobs(150, "/ok?ms=500&job={}"))
    trial.until_done(15)
    with trial.fault("link.silent", bound=20, ports=trial.ports(silent)):
        proxy.set(stall="both")
        eventually(lambda: silent.lines("session.lost"), "the silent one notices", NOTICED)
        time.sleep(25)  # until the broker, too, has given up
        proxy.heal()
        silent.until_ready()
    report = trial.judge(seconds=120)
    assert 0 < max(report.repeated["link.silent"]) <= 35


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("manner", [{"delay": 0.15}, {"rate": 64_000}, {"slice": 1}])
def test_row_10_a_slow_link(trial: Trial, proxy: Proxy, manner: dict[str, float]) -> None:
    proxy.set(**manner)
    worker = by_way_of(trial, proxy)
    trial.publish_all(trial.jobs(300, "/ok?job={}"))
    since = time.monotonic()
    trial.until_done(300, 120)
    trial.note(f"{manner}: 300 jobs in {time.monotonic() - since:.1f} s")
    trial.judge()
    assert worker.lines("session.lost") == []


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_row_34_twenty_processes_come_back_at_once(trial: Trial, proxy: Proxy) -> None:
    worker = by_way_of(trial, proxy, replicas="20", concurrency="2", prefetch="4")
    trial.publish_all(trial.jobs(400, "/ok?ms=300&job={}"))
    trial.until_done(40)
    # What runs, 40 jobs, and what was settled just before: those acknowledgements are lost, and another process of the
    # twenty gets the job.
    with trial.fault("link.refused", bound=80, recover=10):
        before, since = proxy.seen, time.monotonic()
        proxy.set(refuse=True)
        proxy.reset()
        time.sleep(5)  # the time over which tries are counted
        each = (proxy.seen - before) / (time.monotonic() - since) / 20
        proxy.heal()
        worker.until_ready()
    trial.note(f"{each:.2f} tries a second from each of 20 processes")
    assert each <= 2
    trial.judge()


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["up", "down", "both"])
def test_row_9_a_black_hole(node: Node, tmp_path: Path, note: Callable[[str], None], way: str) -> None:
    """In namespaces of its own; see blackhole.py."""
    if not may_make_namespaces():
        pytest.skip("ROW 9 DID NOT RUN: network namespaces need root; fix: run `make faults` as root")
    command = ["unshare", "--net", "--", sys.executable, "-m", "tests.faults.blackhole", str(tmp_path), way]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=280, check=False)
    for line in done.stdout.splitlines():
        note(line)
    assert done.returncode == 0, done.stderr[-4000:]


def may_make_namespaces() -> bool:
    """Whether this user may, on this machine."""
    if any(shutil.which(one) is None for one in ("unshare", "nsenter", "ip")):
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
