"""SIGTERM: nothing is lost, nothing is repeated, nothing is dead, and it takes no longer than the grace."""

from __future__ import annotations

import signal
import time

import pytest

from tests.process.kit import Worker, Yard, by_job, counted, eventually
from worker.dev.ports import free_ports
from worker.dev.target import Target

LOOPING = """
import asyncio
from pathlib import Path

from worker import Context, Registry

registry = Registry()


@registry.handler("looping")
async def looping(url: str, context: Context) -> None:
    await context.step("first", hit, context, url, "first")
    number = 0
    while not Path("enough").exists():
        await context.step(f"again/{number}", asyncio.sleep, 0.05)
        number += 1
    await context.step("last", hit, context, url, "last")


async def hit(context: Context, url: str, name: str) -> None:
    await context.request("GET", f"{url}/ok?{name}")
"""

JOBS = 60


def under_load(yard: Yard, target: Target) -> Worker:
    """A worker in the midst of it: some jobs done, ten running, more of them in its hands, the rest in the queue."""
    yard.declare()
    yard.http_jobs(f"{target.url}/ok?ms=400", JOBS)
    worker = yard.start(concurrency="10", prefetch="30", drain_timeout="12s")
    eventually(lambda: len(target.ledger()) >= 15, "15 requests")
    return worker


def test_sigterm_under_load_gives_back_what_has_not_started(yard: Yard, target: Target) -> None:
    worker = under_load(yard, target)

    since = time.monotonic()
    assert worker.drain() == 0
    assert time.monotonic() - since < 12

    ledger = target.ledger()
    assert {one.status for one in ledger} == {200}
    done = by_job(ledger)
    assert {len(found) for found in done.values()} == {1}
    rest = yard.take(yard.queue)
    assert {letter.properties.message_id for letter in rest} == {f"job-{n}" for n in range(JOBS)} - done.keys()
    assert len(rest) >= 20
    assert max(int(letter.headers.get("x-delivery-count", 0)) for letter in rest) <= 1
    assert yard.left() == {}
    assert yard.dead() == 0


def test_the_next_worker_does_the_rest(yard: Yard, target: Target) -> None:
    first = under_load(yard, target)
    assert first.drain() == 0
    assert len(target.ledger()) < JOBS

    second = yard.start(concurrency="30")
    eventually(lambda: len([one for one in target.ledger() if one.ended]) >= JOBS, "every job is done")
    assert second.drain() == 0

    assert counted(target.ledger()) == {f"job-{n}": 1 for n in range(JOBS)}
    assert yard.left() == {}
    assert yard.dead() == 0


def test_workers_in_turn_lose_and_repeat_nothing(yard: Yard, target: Target) -> None:
    """A rolling restart: the new one is there before the old one goes, while jobs are published."""
    old = yard.start(concurrency="5")
    yard.http_jobs(f"{target.url}/ok?ms=100", JOBS)
    new = yard.start(concurrency="5")
    assert old.running
    assert old.drain() == 0

    eventually(lambda: len([one for one in target.ledger() if one.ended]) >= JOBS, "every job is done")
    assert new.drain() == 0
    assert counted(target.ledger()) == {f"job-{n}": 1 for n in range(JOBS)}
    assert yard.left() == {}
    assert yard.dead() == 0


def test_a_job_longer_than_the_grace_comes_back_with_its_finished_steps(yard: Yard, target: Target) -> None:
    yard.write("looping.py", LOOPING)
    first = yard.start("looping:registry", drain_timeout="6s")
    yard.publish("looping", target.url, "long")
    eventually(target.ledger, "the first step has run")

    since = time.monotonic()
    assert first.drain() == 0
    assert time.monotonic() - since < 6
    (finished,) = first.lines("job.finished")
    assert (finished["outcome"], finished["then"], finished["attempt"]) == ("interrupted", "parked", 1)

    second = yard.start("looping:registry", drain_timeout="6s")
    yard.write("enough", "")
    eventually(lambda: second.lines("job.finished"), "the job is done")
    assert second.drain() == 0
    (finished,) = second.lines("job.finished")
    assert (finished["outcome"], finished["attempt"]) == ("succeeded", 1)
    assert [one.path for one in target.ledger()] == ["/ok?first", "/ok?last"]
    assert yard.left() == {}
    assert yard.dead() == 0


def test_a_second_signal_ends_it_at_once(yard: Yard, target: Target) -> None:
    worker = yard.start()
    yard.publish("http", {"url": f"{target.url}/hang"}, "stuck")
    eventually(target.ledger, "the job runs")
    children = worker.children()

    worker.signal(signal.SIGTERM)
    eventually(lambda: worker.lines("worker.stopping"), "it stops")
    since = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1
    assert time.monotonic() - since < 3
    assert children
    eventually(lambda: yard.waiting() == 1, "the job is back in the queue")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_to_the_parent_alone_drains(yard: Yard, target: Target, number: signal.Signals) -> None:
    worker = yard.start()
    yard.publish("http", {"url": f"{target.url}/delay/1000"}, "running")
    eventually(target.ledger, "the job runs")

    worker.signal(number)
    eventually(lambda: not worker.ready(), "/ready says no while it drains", 2)
    assert worker.wait() == 0
    assert [one.status for one in target.ledger()] == [200]
    assert yard.left() == {}


def test_a_worker_that_cannot_reach_its_broker_yet_ends_at_once(yard: Yard) -> None:
    (port,) = free_ports(1)
    worker = yard.launch(amqp_url=f"amqp://127.0.0.1:{port}/", connect_timeout="60s", drain_timeout="20s")
    eventually(lambda: worker.lines("broker.unreachable"), "it tries")
    assert worker.drain(5) == 0
    assert worker.lines("worker.started") == []
