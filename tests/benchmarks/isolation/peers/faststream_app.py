"""What most would write with FastStream: one queue, one httpx client, a failed call goes back to the queue."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import httpx
from faststream import AckPolicy, FastStream  # type: ignore[import-not-found]
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue  # type: ignore[import-not-found]

CONCURRENCY = int(os.environ["WORKER_CONCURRENCY"])
client = httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_connections=CONCURRENCY))


async def fetch(job: dict[str, Any]) -> None:
    (await client.get(job["url"])).raise_for_status()


async def main() -> None:
    broker = RabbitBroker(os.environ["WORKER_AMQP_URL"], logger=None)
    queue = RabbitQueue(os.environ["WORKER_QUEUE"], durable=True)
    channel = Channel(prefetch_count=CONCURRENCY)
    broker.subscriber(queue, channel=channel, ack_policy=AckPolicy.NACK_ON_ERROR)(fetch)
    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # a trace for every failed call would be most of its work
    asyncio.run(main())
