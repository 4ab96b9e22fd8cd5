"""`worker parked flush`: jobs that wait go on at once, with all they had."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.cli.conftest import Broker, Cli, headers_of
from tests.cli.test_dead_moving import drained, eventually
from tests.cli.test_status import due, park
from tests.process.kit import Yard
from tests.process.kit import eventually as eventually_there
from worker.core.message import Message, Properties
from worker.core.replay import due_copy

MANY = 600


def test_a_waiting_job_goes_on_with_all_it_had(cli: Cli, broker: Broker) -> None:
    broker.declare()
    deadline, steps = due(9000), '{"user":[{"id":1}]}'
    park(broker, 600, "a", **{"x-worker-steps": steps, "x-worker-deadline": deadline, "tenant": "t-1"})
    park(broker, 3600, "b")
    ended = cli("parked", "flush")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        f"{broker.topology.wait_name(600)}: 1 jobs sent back to {broker.queue}",
        f"{broker.topology.wait_name(3600)}: 1 jobs sent back to {broker.queue}",
    ]
    taken = broker.take(broker.queue)
    assert taken is not None
    properties, body = taken
    assert (body, properties.type, properties.user_id) == (b"{}", "order", broker.user)
    assert properties.message_id not in (None, "a", "copy-of-a")
    assert headers_of(properties) == {
        "x-worker-id": "a",
        "x-worker-attempt": 2,
        "x-worker-snoozes": 1,
        "x-worker-steps": steps,
        "x-worker-deadline": deadline,
        "tenant": "t-1",
    }
    assert broker.count(broker.queue) == 1
    assert cli("parked", "flush").out == "no job waits\n"


def test_one_rung_alone(cli: Cli, broker: Broker) -> None:
    broker.declare()
    park(broker, 600, "a")
    park(broker, 3600, "b")
    assert cli("parked", "flush", "--rung", "1h", "--dry-run", "--json").json == {
        "flushed": 1,
        "failed": 0,
        "dry_run": True,
        "queues": {broker.topology.wait_name(3600): 1},
    }
    assert broker.count(broker.queue) == 0
    assert cli("parked", "flush", "--rung", "1h").code == 0
    assert set(drained(broker, broker.queue)) == {"b"}
    assert broker.count(broker.topology.wait_name(600)) == 1
    ended = cli("parked", "flush", "--rung", "7s")
    assert (ended.code, ended.errors) == (
        2,
        ["invalid value for --rung: 7s is none of 1s, 2s, 5s, 10s, 30s, 60s, 120s, 300s, 600s, 1800s, 3600s"],
    )


def test_what_a_stranger_put_there_gets_no_trust() -> None:
    headers = {"x-worker-id": "forged", "x-worker-steps": "{}", "x-worker-deadline": 5, "x-worker-not-before": 7}
    message = Message(b"{}", Properties(message_id="m-1", expiration="5", headers=headers | {"tenant": "t-1"}))
    copy = due_copy(message, queue="jobs", copy_id="c-1", believed=False).message.properties
    assert isinstance(copy, Properties)
    assert (copy.message_id, copy.expiration, copy.user_id) == ("c-1", None, None)
    assert copy.headers == {"tenant": "t-1", "x-worker-deadline": 5}


def test_the_brokers_headers_are_left_behind() -> None:
    headers = {"x-death": [], "x-first-death-queue": "q", "x-delivery-count": 2, "CC": [], "x-worker-id": "a"}
    copy = due_copy(Message(b"{}", Properties(headers=headers)), queue="jobs", copy_id="c-1", believed=True)
    assert isinstance(copy.message.properties, Properties)
    assert copy.message.properties.headers == {"x-worker-id": "a"}


def test_a_flush_that_is_killed_loses_nothing(cli: Cli, broker: Broker) -> None:
    broker.declare()
    for number in range(MANY):
        park(broker, 3600, f"job-{number}")
    process = cli.started("parked", "flush", "--rate", "300/s")
    eventually(lambda: broker.count(broker.queue) > 50, "jobs are sent back")
    process.kill()
    process.communicate()
    first = drained(broker, broker.queue)
    eventually(lambda: broker.count(broker.topology.wait_name(3600)) + len(first) >= MANY - 1, "they are back")
    assert cli("parked", "flush").code == 0
    flushed = first + drained(broker, broker.queue)
    assert set(flushed) == {f"job-{number}" for number in range(MANY)}
    assert max(flushed.values()) <= 2
    assert 0 < len(first) < MANY
    assert broker.count(broker.topology.wait_name(3600)) == 0


APP = """
from worker import Context, Registry, Snooze

registry = Registry()


@registry.handler("later")
async def later(payload: dict, context: Context) -> None:
    if context.job.snoozes == 0:
        raise Snooze(3600)
"""


def test_a_worker_runs_what_was_flushed(cli: Cli, rabbitmq: Any, tmp_path: Path) -> None:
    with Yard(rabbitmq.url, tmp_path) as yard:
        yard.write("shop.py", APP)
        worker = yard.start("shop:registry")
        yard.publish("later", {}, "j-1")
        eventually_there(lambda: worker.lines("job.finished"), "the job waits")
        started = time.monotonic()
        environ = {"WORKER_AMQP_URL": yard.url, "WORKER_QUEUE": yard.queue}
        assert "1 jobs sent back" in cli("parked", "flush", **environ).out
        eventually_there(lambda: len(worker.lines("job.finished")) == 2, "the job ran again")
        assert time.monotonic() - started < 30
        assert worker.lines("job.finished")[1]["outcome"] == "succeeded"
