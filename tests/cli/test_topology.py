"""`worker topology`: queues made ahead of time, by declaring them or by definitions that a broker imports."""

from __future__ import annotations

import json
from pathlib import Path

import pika
import pytest

from tests.cli.conftest import Broker, Cli
from tests.process.kit import Yard, eventually
from worker.core.topology import Topology
from worker.dev.node import Node

PASSWORD = "worker-secret"


def test_what_belongs_to_a_queue_is_shown_without_a_broker(cli: Cli) -> None:
    ended = cli("topology", "show", "--queue", "orders", "--json", "--amqp-url", "amqp://127.0.0.1:1")
    assert ended.code == 0
    topology = Topology("orders")
    assert ended.json["queues"] == [
        {"name": queue.name, "arguments": dict(queue.arguments)} for queue in topology.queues
    ]
    assert ended.json["rights"]["configure"].startswith("^orders(")
    assert cli("topology", "show", "--topology", "none", "--json").json["rights"]["configure"] == "^$"
    shown = cli("topology", "show").out
    assert "jobs.wait.3600s" in shown
    assert "message-ttl=3600000" in shown


def test_applying_declares_everything_and_again_nothing(cli: Cli, broker: Broker) -> None:
    ended = cli("topology", "apply")
    assert (ended.code, ended.out.count(": declared")) == (0, 14)
    assert cli("topology", "apply").out.count(": is there") == 14
    assert all(broker.exists(queue.name) for queue in broker.topology.queues)
    assert cli("check", "--topology", "passive").code == 0


def test_a_queue_that_is_other_is_told_and_the_others_are_made(cli: Cli, broker: Broker) -> None:
    broker.channel.queue_declare(broker.topology.dead_name, durable=True)
    ended = cli("topology", "apply")
    assert (ended.code, ended.out.count(": declared")) == (78, 13)
    (fault,) = ended.errors
    assert fault.startswith(f"queue {broker.topology.dead_name!r} is there with other arguments")


@pytest.fixture
def fresh(node: Node) -> Node:
    """A broker with a vhost and a user for the worker, and nothing else of it."""
    node.ctl("add_vhost", "work")
    node.ctl("add_user", "worker", PASSWORD)
    return node


@pytest.mark.parametrize("mode", ["passive", "none"])
def test_a_worker_runs_on_what_was_imported(cli: Cli, fresh: Node, tmp_path: Path, mode: str) -> None:
    url = fresh.url.replace("guest:guest", f"worker:{PASSWORD}") + "work"
    yard = Yard(url, tmp_path)
    file = fresh.directory / f"{yard.queue}.json"  # where the broker can read it
    export = ("topology", "export", str(file), "--amqp-url", url, "--topology", mode, "--user", "worker")
    try:
        assert cli(*export, "--queue", yard.queue).code == 0
        found = json.loads(file.read_text())
        assert PASSWORD not in json.dumps(found)
        assert found["permissions"][0]["configure"] == "^$"
        fresh.ctl("import_definitions", str(file))
        listed = {line.split("\t")[0] for line in fresh.ctl("list_queues", "-p", "work", "name").splitlines()}
        assert {queue.name for queue in Topology(yard.queue).queues} <= listed

        (tmp_path / "shop.py").write_text(APP)
        worker = yard.start("shop:registry", topology=mode, attempts="3", backoff="1s..1s")
        connection = pika.BlockingConnection(pika.URLParameters(url))
        properties = pika.BasicProperties(type="later", message_id="j-1")
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", yard.queue, b"{}", properties, mandatory=True)
        eventually(lambda: len(worker.lines("job.finished")) == 2, "the job ran, waited, and ran again")
        assert [line["outcome"] for line in worker.lines("job.finished")] == ["failed", "succeeded"]
        assert worker.drain() == 0
        connection.close()
        checked = cli("check", "--amqp-url", url, "--topology", mode, "--queue", yard.queue)
        assert checked.code == 0
        assert "has the rights that topology" in checked.out
    finally:
        for worker in yard.workers:
            worker.end()
        fresh.ctl("delete_vhost", "work")
        fresh.ctl("delete_user", "worker")


APP = """
from worker import Context, Registry, Retry

registry = Registry()


@registry.handler("later")
async def later(payload: dict, context: Context) -> None:
    if context.job.attempt == 1:
        raise Retry("not yet", after=1)
"""


def test_the_rights_that_are_shown_are_enough_to_declare(cli: Cli, fresh: Node) -> None:
    url = fresh.url.replace("guest:guest", f"worker:{PASSWORD}") + "work"
    try:
        rights = cli("topology", "show", "--json").json["rights"]
        fresh.ctl("set_permissions", "-p", "work", "worker", *rights.values())
        ended = cli("topology", "apply", "--amqp-url", url)
        assert (ended.code, ended.out.count(": declared")) == (0, 14)
        checked = cli("check", "--amqp-url", url, "--queue", "jobs.other")
        assert (checked.code, checked.out.count("has no right to")) == (1, 2)
    finally:
        fresh.ctl("delete_vhost", "work")
        fresh.ctl("delete_user", "worker")


def test_an_export_that_cannot_be_written(cli: Cli) -> None:
    ended = cli("topology", "export", "nowhere/definitions.json")
    assert ended.code == 2
    assert "nowhere/definitions.json" in ended.errors[0]
    assert len(cli("topology", "export").json["queues"]) == 14
