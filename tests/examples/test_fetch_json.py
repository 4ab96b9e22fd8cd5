"""The classic example, run as it stands: many URLs fetched at once within a bound, results in the order of the call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.process.kit import Yard, at_once, eventually
from worker.dev.target import Target

EXAMPLE = """
from typing import Any

import httpx

from worker import Context, Registry

registry = Registry()


async def fetch_json(client: httpx.AsyncClient, url: str) -> Any:
    response = await client.get(url, timeout=5)
    response.raise_for_status()
    return response.json()


@registry.handler("fetch.many", timeout=30)
async def fetch_many(urls: list[str], context: Context) -> list[Any]:
    async def fetch(url: str) -> Any:
        return await fetch_json(context.http, url)

    return await context.map("fetch", fetch, urls, concurrency=20)


@registry.handler("fetch.pair", timeout=30)
async def fetch_pair(urls: list[str], context: Context) -> list[Any]:
    first, second = await context.gather(
        context.step("first", fetch_json, context.http, urls[0]),
        context.step("second", fetch_json, context.http, urls[1]),
    )
    return [first, second]
"""

REPORTING = """
from pathlib import Path
import json

from example import fetch_many, fetch_pair
from worker import Context, Registry

registry = Registry()


@registry.handler("many", attempts=2, backoff=(0.05, 0.1))
async def many(urls: list[str], context: Context) -> None:
    Path(f"{context.job.id}.json").write_text(json.dumps(await fetch_many(urls, context)))


@registry.handler("pair")
async def pair(urls: list[str], context: Context) -> None:
    Path(f"{context.job.id}.json").write_text(json.dumps(await fetch_pair(urls, context)))
"""
"""Writes down what the example returns: there is nobody to reply to."""


@pytest.fixture
def yard(yard: Yard) -> Yard:
    yard.write("example.py", EXAMPLE)
    yard.write("reporting.py", REPORTING)
    return yard


def numbers(path: Path) -> list[str]:
    """The `n` of each answer of the target's /echo, in the order of the results."""
    return [answer["query"]["n"] for answer in json.loads(path.read_text())]


def test_the_example_runs_as_it_stands(yard: Yard, target: Target) -> None:
    worker = yard.start("example:registry")
    yard.publish("fetch.many", [f"{target.url}/json"] * 5, "as-shown")
    eventually(lambda: worker.lines("job.finished"), "it is finished")
    (finished,) = worker.lines("job.finished")
    assert (finished["outcome"], finished["requests"]) == ("succeeded", 5)
    assert worker.drain() == 0


def test_results_come_in_call_order_under_the_bound(yard: Yard, target: Target) -> None:
    worker = yard.start("reporting:registry")
    # Every other one takes longer: in the order of their arrival they would be mixed up.
    urls = [f"{target.url}/echo?n={n}&ms={50 if n % 2 else 200}" for n in range(100)]
    yard.publish("many", urls, "order")
    eventually(lambda: worker.lines("job.finished"), "it is finished")

    assert numbers(yard.directory / "order.json") == [str(n) for n in range(100)]
    ledger = target.ledger()
    assert len(ledger) == 100
    assert at_once(ledger) == 20
    assert {one.key for one in ledger} == {f"order/fetch/{n}" for n in range(100)}
    arrived = sorted(ledger, key=lambda one: one.ended or 0.0)
    assert [one.path for one in arrived] != [one.path for one in ledger]
    assert worker.drain() == 0


def test_a_pair_is_gathered_in_call_order(yard: Yard, target: Target) -> None:
    worker = yard.start("reporting:registry")
    yard.publish("pair", [f"{target.url}/echo?n=1&ms=300", f"{target.url}/echo?n=2"], "both")
    eventually(lambda: worker.lines("job.finished"), "it is finished")
    assert numbers(yard.directory / "both.json") == ["1", "2"]
    assert at_once(target.ledger()) == 2
    assert worker.drain() == 0


def test_what_was_fetched_is_not_fetched_again_by_the_retry(yard: Yard, target: Target) -> None:
    worker = yard.start("reporting:registry")
    # 409 is no status that is tried again at once: raise_for_status() fails the attempt, and the next one goes on.
    urls = [f"{target.url}/echo?n=0", f"{target.url}/flaky/1/409/once?n=1", f"{target.url}/echo?n=2"]
    yard.publish("many", urls, "again")
    eventually(lambda: len(worker.lines("job.finished")) == 2, "two attempts", 10)
    first, second = worker.lines("job.finished")
    assert (first["outcome"], first["then"], first["detail"]) == ("failed", "parked", "httpx.HTTPStatusError")
    paths = [one.path for one in target.ledger()]
    assert paths.count("/echo?n=0") == 1
    assert paths.count("/echo?n=2") == 1
    assert sum(path.startswith("/flaky") for path in paths) == 2
    assert second["outcome"] == "failed"  # "ok" is no JSON: what the example does not promise, it does not hide
    assert worker.drain() == 0
