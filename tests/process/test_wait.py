"""`worker publish --wait` and the worker that answers."""

from __future__ import annotations

import json
from typing import Any

from tests.process.kit import Yard, counted, eventually
from worker.dev.target import Target

JOBS = """
from worker import Context, Registry, Reject, Retry

registry = Registry()


@registry.handler("sum")
async def add(numbers: list[int], context: Context) -> dict:
    if context.job.attempt == 1 and len(numbers) > 2:
        raise Retry(after=1)
    if not numbers:
        raise Reject("nothing to add")
    return {"sum": sum(numbers)}
"""


def results(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_result_of_an_http_job_comes_back(yard: Yard, target: Target) -> None:
    yard.start()
    job = json.dumps({"url": f"{target.url}/ok"})
    ended = yard.command("publish", "http", job, "--wait", "--id", "ping-1")
    assert (ended.returncode, ended.stderr) == (0, "")
    (result,) = results(ended.stdout)
    assert (result["id"], result["type"], result["status"], result["attempts"]) == ("ping-1", "http", "succeeded", 1)
    assert result["value"]["request"]["status"] == 200


def test_a_dead_job_says_why(yard: Yard, target: Target) -> None:
    yard.start()
    ended = yard.command("publish", "http", json.dumps({"url": f"{target.url}/status/404"}), "--wait")
    assert (ended.returncode, ended.stderr) == (1, "")
    (result,) = results(ended.stdout)
    assert (result["status"], result["reason"], result["value"]) == ("dead", "http_status", None)
    assert yard.dead() == 1


def test_what_no_handler_ever_saw_is_answered_too(yard: Yard) -> None:
    yard.start()
    ended = yard.command("publish", "http", '{"url": 7}', "--wait")
    (result,) = results(ended.stdout)
    assert (ended.returncode, result["status"], result["reason"]) == (1, "dead", "invalid_payload")


def test_it_waits_through_retries_and_for_every_one_of_several(yard: Yard) -> None:
    yard.write("jobs.py", JOBS)
    yard.start("jobs:registry")
    ended = yard.command("publish", "sum", "[1, 2, 3]", "--wait", "--count", "30", "--id", "sum")
    assert (ended.returncode, ended.stderr) == (0, "")
    found = results(ended.stdout)
    assert sorted(one["id"] for one in found) == sorted(f"sum-{number}" for number in range(1, 31))
    assert {(one["status"], one["attempts"], one["value"]["sum"]) for one in found} == {("succeeded", 2, 6)}


def test_who_no_longer_waits_does_not_harm_the_job(yard: Yard, target: Target) -> None:
    worker = yard.start()
    job = json.dumps({"url": f"{target.url}/ok?ms=1500"})
    ended = yard.command("publish", "http", job, "--wait", "--timeout", "200ms", "--id", "slow")
    assert ended.returncode == 1
    assert "1 of 1 results outstanding: slow" in ended.stderr
    eventually(lambda: worker.lines("job.finished"), "the job is done")
    assert worker.drain() == 0
    assert counted(target.ledger()) == {"slow": 1}
    assert len(worker.lines("reply.undeliverable")) == 1
    assert yard.left() == {}
    assert yard.dead() == 0
