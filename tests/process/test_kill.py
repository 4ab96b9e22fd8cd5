"""SIGKILL and handlers that take their process along: the rest goes on, and nobody else pays."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.process.kit import Yard, by_job, counted, eventually, is_alive
from worker.dev.target import Exchange, Target

JOBS = 40
SETTLED_LATELY = 0.35
"""Seconds before a crash in which a settlement may not have got through."""

DEADLY = """
import os
import signal

from worker import Context, Registry

registry = Registry()


@registry.handler("exits")
async def exits(url: str, context: Context) -> None:
    await context.request("GET", f"{url}/ok?deadly")
    os._exit(1)


@registry.handler("faults")
async def faults(url: str, context: Context) -> None:
    await context.request("GET", f"{url}/ok?deadly")
    os.kill(os.getpid(), signal.SIGSEGV)


@registry.handler("innocent")
async def innocent(url: str, context: Context) -> None:
    context.log.info("innocent.runs")
    await context.request("GET", f"{url}/ok?ms=300")
"""


def ended(target: Target) -> set[str]:
    return {job for job, found in by_job(target.ledger()).items() if any(one.ended for one in found)}


def may_be_repeated(exchanges: list[Exchange], killed: float) -> bool:
    first = exchanges[0]
    return first.started <= killed and (first.ended is None or first.ended > killed - SETTLED_LATELY)


def assert_counts_up(before: dict[str, float], after: dict[str, float]) -> None:
    fallen = {name: (value, after.get(name)) for name, value in before.items() if after.get(name, -1) < value}
    assert not fallen


def test_a_killed_service_dies_whole_and_another_does_its_jobs(yard: Yard, target: Target) -> None:
    yard.declare()
    yard.http_jobs(f"{target.url}/ok?ms=500", JOBS)
    first = yard.start(concurrency="5", prefetch="20")
    second = yard.start(concurrency="5", prefetch="10")
    eventually(lambda: len(target.ledger()) >= 12, "both are at work")
    children = first.children()
    assert children

    killed = time.time()
    first.signal(signal.SIGKILL)
    first.wait()
    eventually(lambda: not any(map(is_alive, children)), "its children are gone", 1)

    eventually(lambda: len(ended(target)) == JOBS, "every job is done")
    eventually(lambda: second.ask("/jobs")[1].strip() == "[]", "nothing is in flight")
    assert second.drain() == 0
    repeated = {job: found for job, found in by_job(target.ledger()).items() if len(found) > 1}
    assert all(len(found) == 2 for found in repeated.values())
    assert all(may_be_repeated(found, killed) for found in repeated.values())
    assert len(repeated) <= 10
    assert yard.left() == {}
    assert yard.dead() == 0


def test_a_service_killed_while_it_starts_leaves_nobody_behind(yard: Yard) -> None:
    worker = yard.launch()
    (child,) = eventually(worker.children, "there is a child")
    worker.signal(signal.SIGKILL)
    worker.wait()
    eventually(lambda: not is_alive(child), "the child is gone", 10)


def test_a_killed_child_is_started_again(yard: Yard, target: Target) -> None:
    worker = yard.start(replicas="2", concurrency="5")
    yard.http_jobs(f"{target.url}/ok?ms=300", JOBS)
    eventually(lambda: len(ended(target)) >= 10, "some jobs are done")
    before = worker.metrics()

    killed = time.time()
    os.kill(worker.children()[0], signal.SIGKILL)
    eventually(lambda: worker.lines("replica.died"), "the death is noticed")
    assert not worker.ready()
    between = worker.metrics()
    assert_counts_up(before, between)
    worker.until_ready()
    eventually(lambda: len(ended(target)) == JOBS, "every job is done")
    assert_counts_up(between, worker.metrics())
    assert len(worker.children()) == 2

    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight")
    assert worker.drain() == 0
    repeated = {job: found for job, found in by_job(target.ledger()).items() if len(found) > 1}
    assert all(may_be_repeated(found, killed) for found in repeated.values())
    assert yard.left() == {}
    assert yard.dead() == 0


@pytest.mark.parametrize(("deadly", "how"), [("exits", "with exit code 1"), ("faults", "by SIGSEGV")])
def test_a_job_that_kills_is_dead_lettered_and_its_neighbours_are_not(
    yard: Yard, target: Target, deadly: str, how: str
) -> None:
    yard.write("deadly.py", DEADLY)
    yard.declare()
    for number in range(10):
        yard.publish("innocent", target.url, f"before-{number}")
    yard.publish(deadly, target.url, "killer")
    for number in range(10):
        yard.publish("innocent", target.url, f"after-{number}")
    worker = yard.launch("deadly:registry", concurrency="30")

    letters = yard.letters(1)
    assert list(letters) == ["killer"]
    assert letters["killer"].reason == "crashed_worker"
    assert letters["killer"].detail == f"the process that ran it alone ended {how}"
    eventually(lambda: len(ended(target)) == 21, "the innocent are done")
    worker.until_ready()
    yard.publish("innocent", target.url, "later")
    eventually(lambda: "later" in ended(target), "the service goes on")

    eventually(lambda: yard.left() == {}, "the queues are empty")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight")
    assert worker.drain() == 0
    # Most of them ran in the process for suspects: their lines carry the job all the same.
    said = worker.lines("innocent.runs")
    assert {line.get("id") for line in said} == counted(target.ledger()).keys() - {"killer"}
    assert {(line["type"], line["attempt"]) for line in said} == {("innocent", 1)}
    crashes = [one for one in target.ledger() if "deadly" in one.path]
    assert len(crashes) <= 3
    assert yard.left() == {}
    assert yard.dead() == 0
