"""`worker run --burst`: ends by itself, and not before everything is done."""

from __future__ import annotations

import time
from pathlib import Path

from tests.process.kit import Yard, counted, eventually
from worker.dev.node import Node
from worker.dev.target import Target

JOBS = """
import os

import pika

from worker import Context, Registry, Reject, Retry, Snooze

registry = Registry()


@registry.handler("work")
async def work(job: dict, context: Context) -> None:
    if job.get("retries", 0) >= context.job.attempt:
        raise Retry(after=job["after"])
    if job.get("snoozes", 0) > context.job.snoozes:
        raise Snooze(job["after"])
    if job.get("rejected"):
        raise Reject("as it says")
    await context.request("GET", job["url"])


@registry.handler("chain")
def chain(left: int) -> None:
    if left:
        with pika.BlockingConnection(pika.URLParameters(os.environ["WORKER_AMQP_URL"])) as connection:
            properties = pika.BasicProperties(type="chain", delivery_mode=2)
            connection.channel().basic_publish("", os.environ["WORKER_QUEUE"], str(left - 1), properties)
"""


def test_it_ends_when_everything_is_done_retries_and_delays_too(yard: Yard, target: Target) -> None:
    yard.write("jobs.py", JOBS)
    yard.declare()
    url = f"{target.url}/ok?ms=50"
    for number in range(44):
        yard.publish("work", {"url": url}, f"plain-{number}")
    yard.publish("work", {"url": url, "retries": 1, "after": 1}, "retried")
    yard.publish("work", {"url": url, "retries": 2, "after": 2}, "retried-twice")
    yard.publish("work", {"url": url, "snoozes": 1, "after": 2}, "snoozed")
    yard.publish("work", {"url": url}, "delayed", headers=not_before(3))
    yard.publish("work", {"url": url, "retries": 1, "after": 0.3}, "soon")
    yard.publish("work", {"url": url, "rejected": True}, "rejected")

    worker = yard.launch("jobs:registry", "--burst", concurrency="10")
    assert worker.wait() == 0, worker.said()

    done = {f"plain-{number}" for number in range(44)} | {"retried", "retried-twice", "snoozed", "delayed", "soon"}
    assert counted(target.ledger()) == dict.fromkeys(done, 1)
    assert yard.left() == {}
    assert {letter.id for letter in yard.take(f"{yard.queue}.dead")} == {"rejected"}
    assert len(worker.lines("worker.burst_done")) == 1


def test_with_nothing_to_do_it_ends_soon(yard: Yard) -> None:
    worker = yard.launch("--burst")
    assert worker.wait(15) == 0, worker.said()
    assert [line["event"] for line in worker.lines() if line["event"].startswith("worker.")] == [
        "worker.started",
        "worker.burst_done",
        "worker.stopped",
    ]


def test_it_waits_for_what_any_of_its_processes_is_running(yard: Yard, target: Target) -> None:
    yard.declare()
    yard.http_jobs(f"{target.url}/ok?ms=2500", 4)
    worker = yard.launch("--burst", replicas="2", concurrency="1", prefetch="2")
    assert worker.wait() == 0, worker.said()
    assert counted(target.ledger()) == {f"job-{number}": 1 for number in range(4)}
    assert [one.status for one in target.ledger()] == [200] * 4
    assert yard.left() == {}


def test_jobs_that_each_publish_the_next_one_never_look_like_the_end(yard: Yard) -> None:
    yard.write("jobs.py", JOBS)
    yard.declare()
    yard.publish("chain", 150, "first")
    worker = yard.launch("jobs:registry", "--burst", concurrency="1", prefetch="1")
    assert worker.wait() == 0, worker.said()
    assert len(worker.lines("job.finished")) == 151
    assert yard.left() == {}


def test_a_signal_ends_it_as_it_ends_any_worker(yard: Yard) -> None:
    yard.declare()
    yard.publish("http", {"url": "http://127.0.0.1:9/"}, "later", headers=not_before(7200))
    worker = yard.launch("--burst").until_ready()
    eventually(lambda: yard.left() == {f"{yard.queue}.wait.3600s": 1} or None, "the job waits")
    assert worker.drain() == 0
    assert worker.lines("worker.burst_done") == []
    assert yard.left() == {f"{yard.queue}.wait.3600s": 1}


def test_a_broker_that_goes_away_meanwhile_is_waited_for(node: Node, tmp_path: Path, target: Target) -> None:
    with Yard(node.url, tmp_path) as yard:
        yard.declare()
        yard.publish("http", {"url": f"{target.url}/ok"}, "delayed", headers=not_before(20))
        worker = yard.launch("--burst").until_ready()
        eventually(lambda: yard.left().keys() == {f"{yard.queue}.wait.10s"}, "the job waits")
        # RabbitMQ 3.10 may not find a queue again that it has made less than half a second before its own death.
        since = time.monotonic()
        eventually(lambda: time.monotonic() - since > 1, "the queue is old enough")
        node.kill()
        node.start()
        assert worker.wait(60) == 0, worker.said()
        assert counted(target.ledger()) == {"delayed": 1}
        assert yard.left() == {}


def not_before(seconds: float) -> dict[str, int]:
    return {"x-worker-not-before": round((time.time() + seconds) * 1000)}
