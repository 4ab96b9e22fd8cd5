"""Every way a handler can end, on the way by the real broker, its wait queues and its dead queue."""

from __future__ import annotations

import itertools

import pytest

from tests.process.kit import Letter, Worker, Yard, by_job, eventually
from worker.dev.target import Target

HANDLERS = """
import asyncio
from contextlib import asynccontextmanager

from pydantic import BaseModel

from worker import Context, Registry, Reject, Retry, Snooze


@asynccontextmanager
async def lifespan():
    yield {"shop": "open"}


registry = Registry(lifespan=lifespan)


class Order(BaseModel):
    url: str


def handler(name, **options):
    return registry.handler(name, backoff=(0.05, 0.1), **options)


async def effect(order: Order, context: Context, what: str) -> None:
    job = context.job
    await context.request("GET", f"{order.url}/ok?what={what}&attempt={job.attempt}&snoozes={job.snoozes}")


@handler("succeeds")
async def succeeds(order: Order, context: Context) -> None:
    await effect(order, context, context.state["shop"])


@handler("retries")
async def retries(order: Order, context: Context) -> None:
    await context.step("once", effect, order, context, "once")
    await effect(order, context, "run")
    if context.job.attempt == 1:
        raise Retry("the other side is busy", after=1)


@handler("snoozes")
async def snoozes(order: Order, context: Context) -> None:
    await effect(order, context, "run")
    if context.job.snoozes < 2:
        raise Snooze(1)


@handler("rejects")
async def rejects(order: Order, context: Context) -> None:
    raise Reject("no such order")


@handler("breaks", attempts=3)
async def breaks(order: Order, context: Context) -> None:
    await effect(order, context, "run")
    raise LookupError("the secret is 4711")


@handler("dawdles", attempts=2, timeout=0.3)
async def dawdles(order: Order, context: Context) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await effect(order, context, "cleanup")


@handler("exits", attempts=1)
async def exits(order: Order, context: Context) -> None:
    raise SystemExit(3)


@handler("plain", attempts=1)
def plain(order: Order, context: Context) -> None:
    raise ValueError("in a thread")


@handler("scoped")
async def scoped(order: Order, context: Context) -> None:
    async with scope(order, context):
        await context.http.get(f"{order.url}/hang")


@asynccontextmanager
async def scope(order: Order, context: Context):
    await effect(order, context, "entered")
    try:
        yield
    finally:
        await effect(order, context, "left")
"""


@pytest.fixture
def worker(yard: Yard) -> Worker:
    yard.write("ends.py", HANDLERS)
    return yard.start("ends:registry", drain_timeout="2s")


def told(target: Target) -> dict[str, list[str]]:
    """What each job told the target, in order."""
    return {
        job: [one.path.removeprefix("/ok?what=") for one in found] for job, found in by_job(target.ledger()).items()
    }


def test_ends_that_lead_to_success(yard: Yard, worker: Worker, target: Target) -> None:
    for way in ("succeeds", "retries", "snoozes"):
        yard.publish(way, {"url": target.url}, way)
    eventually(lambda: len([one for one in worker.lines("job.finished") if one["then"] == "done"]) == 3, "all done")

    assert told(target) == {
        "succeeds": ["open&attempt=1&snoozes=0"],
        "retries": ["once&attempt=1&snoozes=0", "run&attempt=1&snoozes=0", "run&attempt=2&snoozes=0"],
        "snoozes": [f"run&attempt=1&snoozes={number}" for number in range(3)],
    }
    for job, first in (("retries", 1), ("snoozes", 0)):
        runs = [one.started for one in by_job(target.ledger())[job][first:]]
        assert all(later - sooner >= 1 for sooner, later in itertools.pairwise(runs))
    assert worker.drain() == 0
    assert yard.left() == {}
    assert yard.dead() == 0


def test_ends_that_lead_to_the_dead_queue(yard: Yard, worker: Worker, target: Target) -> None:
    types = ("rejects", "breaks", "dawdles", "exits", "plain")
    for way in types:
        yard.publish(way, {"url": target.url}, way, correlation_id="c-1", headers={"mine": "kept"})
    yard.publish("succeeds", {"url": 7}, "unfit")

    letters = yard.letters(len(types) + 1)
    ends = {job: (one.reason, one.headers["x-worker-attempt"], ends_of(one)) for job, one in letters.items()}
    assert ends == {
        "rejects": ("rejected", 1, ["rejected: rejected"]),
        "breaks": ("attempts_exhausted", 3, ["failed: LookupError"] * 3),
        "dawdles": ("attempts_exhausted", 2, ["failed: timeout after 0.3 s"] * 2),
        "exits": ("attempts_exhausted", 1, ["failed: SystemExit"]),
        "plain": ("attempts_exhausted", 1, ["failed: ValueError"]),
        "unfit": ("invalid_payload", 0, []),
    }
    assert letters["rejects"].detail == "no such order"
    assert letters["breaks"].detail == "3 attempts, the last: LookupError"
    for way in types:
        properties = letters[way].properties
        assert (properties.correlation_id, properties.type, properties.delivery_mode) == ("c-1", way, 2)
        assert letters[way].headers["mine"] == "kept"
        assert letters[way].body == b'{"url": "%s"}' % target.url.encode()
    assert worker.drain() == 0
    assert "4711" not in worker.said()
    assert yard.left() == {}
    assert told(target) == {
        "breaks": [f"run&attempt={number}&snoozes=0" for number in (1, 2, 3)],
        "dawdles": [f"cleanup&attempt={number}&snoozes=0" for number in (1, 2)],
    }


def test_a_drain_lets_a_cancelled_handler_clean_up(yard: Yard, worker: Worker, target: Target) -> None:
    yard.publish("scoped", {"url": target.url}, "scoped")
    eventually(lambda: any(one.path == "/hang" for one in target.ledger()), "the handler is inside")
    assert worker.drain(3) == 0
    paths = [one.path for one in target.ledger()]
    assert paths[0].startswith("/ok?what=entered")
    assert paths[-1].startswith("/ok?what=left")
    assert yard.left() == {yard.queue: 1}


def ends_of(letter: Letter) -> list[str]:
    """How each attempt ended, as the history says: number, start, duration, end."""
    return [entry.split(" ", 3)[3] for entry in letter.headers.get("x-worker-history", [])]
