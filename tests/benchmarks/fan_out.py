"""A fan-out of 10,000 requests in one `http` job: whether its speed is steady and its memory bounded.

    python tests/benchmarks/fan_out.py [ELEMENTS]

A real local target, the real engine, the broker in memory. Ratios are between quarters of the same run.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import psutil

from worker import Limits, Request, Response
from worker.dev.target import Target
from worker.http.client import HttpTransport
from worker.http.engine import Engine
from worker.http.guard import Guard
from worker.http.handler import http_registry
from worker.runtime.context import job_gate
from worker.testing import Harness


class Timed(HttpTransport):
    """Writes down when each answer came."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, gate=job_gate)
        self.moments: list[float] = []

    async def send(self, request: Request) -> Response:
        response = await super().send(request)
        self.moments.append(time.perf_counter())
        return response


def megabytes() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


async def run(elements: int, url: str) -> None:
    transport = Timed(Engine(Limits(max_connections=100), Guard(["127.0.0.0/8"])))
    job = {
        "id": "push",
        "for_each": list(range(elements)),
        "concurrency": 100,
        "method": "POST",
        "url": f"{url}/ok?n={{{{ item }}}}",
        "json": {"number": "{{ item }}"},
    }
    async with Harness(http_registry(), transport=transport, steps=200, max_requests=10_000, timeout="1h") as harness:
        before, since = megabytes(), time.perf_counter()
        harness.publish("http", job, id="wide")
        await harness.until_quiet(patience=60)
        after = megabytes()
    await transport.aclose()
    quarter = elements // 4
    marks = [since, *transport.moments[quarter - 1 :: quarter]]
    rates = [quarter / (end - begin) for begin, end in pairwise(marks)]
    print(f"{elements} elements, 100 at once: {elements / (marks[-1] - since):.0f} per second")
    print("quarters against the first:", " ".join(f"{rate / rates[0]:.2f}" for rate in rates))
    print(f"memory: {after - before:.1f} MB more at the end than before")


def main() -> None:
    elements = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder, Target(Path(folder) / "ledger") as target:
        asyncio.run(run(elements, target.url))


if __name__ == "__main__":
    main()
