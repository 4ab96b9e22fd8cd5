"""Publishes on an exact schedule, whatever becomes of the jobs: python -m tests.benchmarks.isolation.publisher.

Standard input is one JSON document, an `Order`. Job k of a stream is due at `start + (k + offset) / rate`; one that is
late is sent at once, and latencies count from when it was due. Prints how late the latest was, in seconds.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pika

from tests.benchmarks.isolation.priority import go_first


@dataclass(frozen=True)
class Stream:
    """Jobs for one host, so many a second; `offset` (of one interval) keeps two streams from going in step."""

    name: str
    url: str
    rate: float
    offset: float

    def due(self, number: int) -> float:
        return (number + self.offset) / self.rate

    def count(self, seconds: float) -> int:
        """How many are due before `seconds`."""
        return math.ceil(seconds * self.rate - self.offset)


@dataclass(frozen=True)
class Order:
    """What to publish. `form` is how the consumer wants its jobs: `worker`, `plain` or `celery`."""

    amqp_url: str
    queue: str
    form: str
    start: float
    seconds: float
    streams: list[Stream]

    def text(self) -> str:
        return json.dumps(asdict(self))


def message(form: str, job: str, url: str) -> tuple[pika.BasicProperties, bytes]:
    """One job for `url` as the consumer reads it."""
    body: Any = {"url": url}
    headers, kind = None, None
    if form == "worker":
        kind = "http"
    elif form == "celery":
        headers = {"lang": "py", "task": "fetch", "id": job, "root_id": job, "parent_id": None, "group": None}
        body = [[url], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    properties = pika.BasicProperties(
        type=kind,
        message_id=job,
        correlation_id=job,
        headers=headers,
        content_type="application/json",
        content_encoding="utf-8" if form == "celery" else None,
        delivery_mode=2,
    )
    return properties, json.dumps(body).encode()


def schedule(order: Order) -> Iterator[tuple[float, Stream, int]]:
    """Every job with its moment, in order."""
    for due, _, number, stream in heapq.merge(*map(_jobs_of, order.streams), key=lambda entry: entry[:2]):
        if due >= order.seconds:
            return
        yield order.start + due, stream, number


def _jobs_of(stream: Stream) -> Iterator[tuple[float, str, int, Stream]]:
    return ((stream.due(number), stream.name, number, stream) for number in itertools.count())


def publish(order: Order) -> float:
    connection = pika.BlockingConnection(pika.URLParameters(order.amqp_url))
    channel = connection.channel()
    latest = 0.0
    for due, stream, number in schedule(order):
        while (rest := due - time.time()) > 0:
            connection.sleep(rest) if rest > 0.1 else time.sleep(rest)
        latest = max(latest, -rest)
        job = f"{stream.name}-{number}"
        properties, body = message(order.form, job, f"{stream.url}/{job}")
        channel.basic_publish("", order.queue, body, properties)
    connection.close()
    return latest


def main() -> None:
    go_first()
    fields = json.load(sys.stdin)
    order = Order(**(fields | {"streams": [Stream(**one) for one in fields["streams"]]}))
    print(publish(order), flush=True)


if __name__ == "__main__":
    main()
