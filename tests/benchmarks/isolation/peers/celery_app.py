"""What most would write with Celery: late acknowledgement, requests on gevent, autoretry with backoff."""

from __future__ import annotations

import os

import requests  # type: ignore[import-untyped]
from celery import Celery  # type: ignore[import-not-found]

app = Celery(broker=os.environ["WORKER_AMQP_URL"])
app.conf.task_default_queue = os.environ["WORKER_QUEUE"]
app.conf.task_acks_late = True
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 1
app.conf.broker_connection_retry_on_startup = True


def fetch(url: str) -> None:
    requests.get(url, timeout=10).raise_for_status()


app.task(name="fetch", autoretry_for=(requests.RequestException,), retry_backoff=2, max_retries=16)(fetch)
