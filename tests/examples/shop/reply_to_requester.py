import json
import os
import sys
import uuid
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel


def ask(channel: BlockingChannel, queue: str, type: str, payload: Any, seconds: float = 30) -> Any:
    """The result of a job, once it has ended, done or dead."""
    answers = channel.queue_declare("", exclusive=True).method.queue  # amq.gen-..., gone with the connection
    question = str(uuid.uuid4())
    properties = pika.BasicProperties(
        type=type,
        message_id=question,
        correlation_id=question,
        reply_to=answers,
        content_type="application/json",
        delivery_mode=2,
    )
    channel.basic_publish("", queue, json.dumps(payload).encode(), properties, mandatory=True)
    for _, answered, body in channel.consume(answers, auto_ack=True, inactivity_timeout=seconds):
        if answered is None or body is None:
            raise TimeoutError(f"no answer within {seconds:g} s")
        if answered.correlation_id == question:
            return json.loads(body)
    raise ConnectionError("the queue of answers is gone")


if __name__ == "__main__":
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        result = ask(channel, os.environ.get("QUEUE", "jobs"), "http", json.loads(sys.argv[1]))
        json.dump(result, sys.stdout)
