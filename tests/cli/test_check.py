"""`worker check`: what it finds, what it says to do, and that it changes nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.cli.conftest import Broker, Cli, Ended
from worker.dev.ports import free_ports


def levels(ended: Ended) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
    for line in ended.out.splitlines():
        level, what = line.split(maxsplit=1)
        found[level].append(what)
    return found


def test_a_fresh_broker_is_fine_and_stays_fresh(cli: Cli, broker: Broker) -> None:
    ended = cli("check", "--job-timeout", "15s")
    found = levels(ended)
    assert (ended.code, found["fail"], found["warn"]) == (0, [], [])
    place = urlsplit(broker.url)
    assert any(what.startswith(f"broker amqp://{place.hostname}:{place.port}/, RabbitMQ ") for what in found["ok"])
    assert f"user '{broker.user}' may use the vhost '/'" in found["ok"]
    assert f"queue {broker.queue} does not exist yet and will be declared" in found["ok"]
    assert "wait queues: 0 of 11 are there, the others are declared when first used" in found["ok"]
    for queue in (broker.topology.work, broker.topology.suspect, broker.topology.dead, *broker.topology.waits):
        assert not broker.exists(queue.name)


def test_queues_that_are_there_are_counted(cli: Cli, broker: Broker) -> None:
    broker.declare()
    broker.publish(broker.queue, b"{}", type="t")
    broker.publish(broker.topology.dead_name, b"{}")
    ended = cli("check")
    assert ended.code == 0
    assert f"queue {broker.queue}: 1 messages ready" in levels(ended)["ok"]
    assert f"1 dead letters in {broker.topology.dead_name}  (worker dead list)" in levels(ended)["warn"]


def test_a_conflict_of_arguments_fails_with_the_fix(cli: Cli, broker: Broker) -> None:
    broker.channel.queue_declare(broker.queue, durable=True)
    broker.channel.queue_declare(broker.topology.wait_name(5), durable=True)
    ended = cli("check", "--json")
    assert ended.code == 1
    failed = [one for one in ended.json if one["level"] == "fail"]
    assert [one["what"].split("'")[1] for one in failed] == [broker.queue, broker.topology.wait_name(5)]
    assert all("WORKER_QUEUE" in one["fix"] for one in failed)


def test_where_nothing_may_be_declared_everything_must_be_there(cli: Cli, broker: Broker) -> None:
    broker.declare()
    ended = cli("check", "--topology", "passive")
    assert ended.code == 1
    missing = {what.split()[1] for what in levels(ended)["fail"]}
    assert missing == {broker.topology.suspect_name, *(queue.name for queue in broker.topology.waits)}


def test_doubts_are_warnings(cli: Cli, broker: Broker) -> None:
    ended = cli("check", "--http-allow", "0.0.0.0/0", "--queue-type", "classic", "--job-timeout", "60s")
    assert ended.code == 0
    warned = levels(ended)["warn"]
    assert any("opens every address to jobs" in what for what in warned)
    assert any("a restart interrupts such jobs" in what for what in warned)
    assert any("queue_type classic" in what for what in warned)


def test_wrong_settings_fail_before_the_broker_is_asked(cli: Cli) -> None:
    ended = cli("check", WORKER_JOB_TIMEOUT="1h", WORKER_FOO="1")
    assert ended.code == 78
    assert len(levels(ended)["fail"]) == 2
    assert not levels(ended)["ok"]


def test_a_broker_that_is_not_there(cli: Cli) -> None:
    url = f"amqp://127.0.0.1:{free_ports(1)[0]}"
    ended = cli("check", "--connect-timeout", "200ms", "--amqp-url", url)
    assert ended.code == 69
    assert levels(ended)["fail"][0].startswith("broker unreachable: ")


def test_a_vhost_that_is_not_there(cli: Cli, broker: Broker) -> None:
    ended = cli("check", "--amqp-url", f"{broker.url}nowhere")
    assert ended.code == 78
    assert "the vhost does not exist" in levels(ended)["fail"][0]
