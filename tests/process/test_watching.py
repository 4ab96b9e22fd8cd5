"""What an operator sees: the log, the admin listener, the probe."""

from __future__ import annotations

import json

import pytest

from tests.process.kit import Worker, Yard, eventually
from worker.dev.target import Target

TALKATIVE = """
import logging

import structlog

from worker import Context, Registry

registry = Registry()


@registry.handler("talks")
async def talks(payload: dict, context: Context) -> str:
    structlog.get_logger("shop").info("by structlog", order=payload["order"])
    logging.getLogger("shop").warning("by logging, order %s", payload["order"])
    context.log.info("by context")
    await context.step("one", inside, payload["order"])
    return "said"


@registry.handler("plain")
def plain(payload: dict) -> None:
    logging.getLogger("shop").warning("from a thread, order %s", payload["order"])


async def inside(order: int) -> None:
    structlog.get_logger("shop").info("in a step", order=order)
"""


def test_the_start_up_line_says_what_runs_where(yard: Yard) -> None:
    worker = yard.start(concurrency="8", replicas="2")
    (started,) = eventually(lambda: worker.lines("worker.started"), "the start-up line")
    assert started["broker"] == yard.url.replace("guest:guest@", "")
    told = {name: started[name] for name in ("queue", "concurrency", "prefetch", "replicas", "admin", "apps")}
    assert told == {
        "queue": yard.queue,
        "concurrency": 8,
        "prefetch": 10,
        "replicas": 2,
        "admin": f"http://{worker.admin}",
        "apps": [],
    }
    assert "guest:guest" not in worker.said()
    assert worker.drain() == 0
    assert worker.lines("worker.stopped")[0]["code"] == 0


def test_port_0_picks_one_and_logs_it(yard: Yard) -> None:
    worker = yard.launch(admin="127.0.0.1:0")
    (started,) = eventually(lambda: worker.lines("worker.started"), "the start-up line")
    assert not started["admin"].endswith(":0")
    assert yard.command("health", admin=started["admin"].removeprefix("http://")).returncode == 0
    assert worker.drain() == 0


def test_a_line_per_attempt_and_the_handlers_own_lines_carry_the_job(yard: Yard) -> None:
    yard.write("talkative.py", TALKATIVE)
    worker = yard.start("talkative:registry")
    yard.publish("talks", {"order": 7}, "order-7")
    yard.publish("plain", {"order": 8}, "order-8")
    eventually(lambda: len(worker.lines("job.finished")) == 2, "both are finished")
    assert worker.drain() == 0

    finished = {line["id"]: line for line in worker.lines("job.finished")}
    assert finished.keys() == {"order-7", "order-8"}
    line = finished["order-7"]
    assert (line["type"], line["attempt"], line["outcome"], line["then"]) == ("talks", 1, "succeeded", "done")
    assert {"seconds", "admission", "network", "requests"} <= line.keys()

    own = [line for line in worker.lines() if line["logger"] == "shop" or line["event"] == "by context"]
    assert {line["event"] for line in own} == {
        "by structlog",
        "by logging, order 7",
        "by context",
        "in a step",
        "from a thread, order 8",
    }
    for line in own:
        job = ("order-8", "plain", 1) if "thread" in line["event"] else ("order-7", "talks", 1)
        assert (line["id"], line["type"], line["attempt"]) == job, line


def test_the_admin_listener_tells_what_is_in_flight(yard: Yard, target: Target) -> None:
    worker = yard.start(drain_timeout="2s")
    assert probe(yard, worker) == 0
    yard.publish("http", {"url": f"{target.url}/hang"}, "slow")
    yard.publish("http", {"url": f"{target.url}/ok"}, "quick")
    eventually(lambda: worker.lines("job.finished"), "the quick one is done")

    status, jobs = worker.ask("/jobs")
    (row,) = json.loads(jobs)
    assert status == 200
    assert (row["id"], row["type"], row["attempt"], row["state"], row["replica"]) == ("slow", "http", 1, "running", 0)
    assert row["seconds"] >= 0
    counters = worker.metrics()
    assert counters["worker_jobs_total outcome=succeeded type=http"] == 1
    assert counters["worker_attempts_total result=succeeded type=http"] == 1
    page = worker.ask("/metrics")[1]
    assert "\nworker_jobs_in_flight 1.0\n" in page
    assert "\nworker_consuming 1.0\n" in page
    assert "worker_build_info{" in page
    for path in ("/live", "/ready"):
        status, text = worker.ask(path)
        assert (status, json.loads(text)["ok"]) == (200, True)
    assert worker.ask("/nothing")[0] == 404

    assert worker.drain() == 0
    assert probe(yard, worker) == 1


def probe(yard: Yard, worker: Worker) -> int:
    return yard.command("health", admin=worker.admin).returncode


@pytest.mark.parametrize(("level", "seen"), [("warning", {"by logging, order 7"}), ("error", set())])
def test_the_log_level_holds_for_every_logger(yard: Yard, level: str, seen: set[str]) -> None:
    yard.write("talkative.py", TALKATIVE)
    worker = yard.start("talkative:registry", log=level)
    yard.publish("talks", {"order": 7}, "order-7")
    eventually(lambda: worker.metrics().get("worker_jobs_total outcome=succeeded type=talks") == 1, "it is done")
    assert worker.drain() == 0
    assert {line["event"] for line in worker.lines()} == seen
