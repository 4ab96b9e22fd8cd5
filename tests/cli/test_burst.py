"""When `worker run --burst` takes everything for done: a real broker, and processes that tell what the test wants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.cli.conftest import Broker
from worker.amqp.connecting import Access, Node, Unreachable, open_connection
from worker.cli import burst
from worker.cli.burst import Burst
from worker.ops.admin import Check

LOOK_EVERY = 0.05
IDLE = "worker_attempts_total 1\nworker_loop_lag_seconds 0.1\n"


class Workers:
    """Tells its pages one after the other, the last of them for ever; counts how often it was asked for them."""

    def __init__(self, *pages: str, ready: bool = True, jobs: tuple[dict[str, Any], ...] = ()) -> None:
        self.pages = pages
        self.is_ready = ready
        self.in_flight = list(jobs)
        self.looks = 0

    async def live(self) -> Check:
        return Check(True)

    async def ready(self) -> Check:
        self.looks += 1
        return Check(self.is_ready)

    async def jobs(self) -> list[dict[str, Any]]:
        return self.in_flight

    async def metrics(self) -> str:
        return self.pages[min(self.looks, len(self.pages)) - 1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "LOOK_EVERY", LOOK_EVERY)


def watching(broker: Broker, workers: Workers) -> Burst:
    return Burst(Access((Node(broker.url, "here", broker.user),)), broker.topology, workers)


async def still_watches(task: asyncio.Task[None], workers: Workers) -> bool:
    """Whether it goes on after five more looks."""
    enough = workers.looks + 5
    while workers.looks < enough and not task.done():
        await asyncio.wait({task}, timeout=LOOK_EVERY)
    return not task.done()


async def test_two_looks_that_find_nothing_are_the_end(broker: Broker) -> None:
    workers = Workers(IDLE, IDLE.replace("0.1", "0.2"))
    await asyncio.wait_for(watching(broker, workers).over(), 30)
    assert workers.looks == 2


async def test_what_was_finished_between_two_looks_may_have_left_something(broker: Broker) -> None:
    pages = (IDLE, IDLE.replace(" 1", " 2"), IDLE.replace(" 1", " 2") + "worker_parked_total 1\n")
    workers = Workers(*pages)
    await asyncio.wait_for(watching(broker, workers).over(), 30)
    assert workers.looks == 4


@pytest.mark.parametrize("which", ["work", "suspect", "wait"])
async def test_any_queue_that_holds_something_is_waited_for(broker: Broker, which: str) -> None:
    queue = broker.topology.waits[-1] if which == "wait" else getattr(broker.topology, which)
    broker.channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    broker.publish(queue.name, b"{}")
    workers = Workers(IDLE)
    task = asyncio.create_task(watching(broker, workers).over())
    assert await still_watches(task, workers)
    broker.take(queue.name)
    workers.pages = (IDLE.replace(" 1", " 2"),)  # somebody has finished it
    await asyncio.wait_for(task, 5)


async def test_what_is_gone_without_having_been_finished_is_missed_for_a_while(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burst, "CALM", 2.0)
    broker.declare()
    broker.publish(broker.queue, b"{}")
    workers = Workers(IDLE)
    task = asyncio.create_task(watching(broker, workers).over())
    assert await still_watches(task, workers)
    broker.take(broker.queue)
    since = asyncio.get_running_loop().time()
    await asyncio.wait_for(task, 30)
    assert asyncio.get_running_loop().time() - since > 1.5


async def test_a_dead_letter_is_not_waited_for(broker: Broker) -> None:
    broker.declare()
    broker.publish(broker.topology.dead_name, b"{}")
    await asyncio.wait_for(watching(broker, Workers(IDLE)).over(), 30)


async def test_what_is_in_flight_is_waited_for_and_processes_that_do_not_consume_are(broker: Broker) -> None:
    workers = Workers(IDLE, jobs=({"id": "one"},))
    task = asyncio.create_task(watching(broker, workers).over())
    assert await still_watches(task, workers)
    workers.in_flight, workers.is_ready = [], False
    assert await still_watches(task, workers)
    workers.is_ready = True
    await asyncio.wait_for(task, 30)


async def test_an_empty_queue_is_not_believed_at_once_after_the_broker_was_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burst, "CALM", 1.0)
    workers, opened = Workers(IDLE), []

    async def open_third(access: Access, purpose: str) -> Any:
        opened.append(purpose)
        if len(opened) < 3:
            raise Unreachable("not yet")
        return await open_connection(access, purpose)

    monkeypatch.setattr(burst, "open_connection", open_third)
    since = asyncio.get_running_loop().time()
    await asyncio.wait_for(watching(broker, workers).over(), 30)
    assert len(opened) == 3
    assert asyncio.get_running_loop().time() - since > 1.0
