"""`worker check`: what it finds, what it says to do, and that it changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Broker, Cli, Ended
from worker.dev.node import Node
from worker.dev.ports import free_ports


def levels(ended: Ended) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
    for line in ended.out.splitlines():
        level, what = line.split(maxsplit=1)
        found[level].append(what)
    return found


def test_a_fresh_broker_is_fine_and_stays_fresh(cli: Cli, broker: Broker) -> None:
    ended = cli("check", "--job-timeout", "15s", "--grace", "1m")
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
    assert "(worker topology apply, as a user who may)" in ended.out
    assert cli("topology", "apply").code == 0
    assert cli("check", "--topology", "passive").code == 0


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


def test_a_queue_without_a_dead_letter_exchange_is_told(cli: Cli, broker: Broker) -> None:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1000}
    broker.channel.queue_declare(broker.queue, durable=True, arguments=arguments)
    (what,) = levels(cli("check"))["fail"]
    assert "is deleted instead of dead-lettered" in what
    assert "delete the queue once it is empty" in what
    ended = cli("check", "--topology", "none")
    (what,) = [one for one in levels(ended)["warn"] if "other arguments" in one]
    assert "a policy may make up for it" in what


def test_a_wrong_password(cli: Cli, broker: Broker) -> None:
    place = urlsplit(broker.url)
    ended = cli("check", "--amqp-url", f"amqp://{broker.user}:wrong-secret@{place.hostname}:{place.port}/")
    assert ended.code == 78
    (what,) = levels(ended)["fail"]
    assert f"refuses the user '{broker.user}': check user and password in WORKER_AMQP_URL" in what
    assert "wrong-secret" not in ended.out + ended.err


def test_credentials_whose_files_cannot_be_read(cli: Cli) -> None:
    file = cli.directory / "worker.toml"
    (cli.directory / "a-directory").mkdir()
    file.write_text("""
[credentials.crm]
bearer_file = "nowhere"
origins = ["https://crm.example.com"]
[credentials.shop]
bearer_file = "a-directory"
origins = ["https://shop.example.com"]
""")
    ended = cli("check")
    assert ended.code == 78
    failed = levels(ended)["fail"]
    assert len(failed) == 2
    assert any("crm" in what and "nowhere" in what for what in failed)
    assert any("shop" in what and "a-directory" in what for what in failed)


def test_origins_without_tls_are_doubted(cli: Cli, broker: Broker) -> None:
    (cli.directory / "token").write_text("t" * 20)
    (cli.directory / "worker.toml").write_text("""
[credentials.crm]
bearer_file = "token"
origins = ["http://crm.example.com"]
""")
    ended = cli("check")
    assert ended.code == 0
    assert any("its secret goes to http://crm.example.com unencrypted" in what for what in levels(ended)["warn"])


def test_the_grace_of_the_supervisor(cli: Cli, broker: Broker) -> None:
    ended = cli("check", "--grace", "10s")
    assert ended.code == 1
    assert "longer than the supervisor's grace 10s" in levels(ended)["fail"][0]
    assert cli("check", "--grace", "1m").code == 0
    assert cli("check", "--grace", "soon").code == 2


@pytest.fixture
def limited(node: Node) -> Iterator[Broker]:
    """Queues of a user who has no rights yet."""
    node.ctl("add_user", "limited", "limited-secret")
    held = Broker(node.url, "cli-limited")
    yield held
    held.close()
    node.ctl("delete_user", "limited")


@pytest.mark.parametrize("right", ["configure", "write", "read"])
@pytest.mark.parametrize("declared", [True, False])
def test_each_missing_right_is_told_with_the_command(
    cli: Cli, node: Node, limited: Broker, right: str, *, declared: bool
) -> None:
    if declared:
        limited.declare()
    rights = asdict(limited.topology.rights(declares=True)) | {right: "^$"}
    node.ctl("set_permissions", "limited", rights["configure"], rights["write"], rights["read"])
    url = node.url.replace("guest:guest", "limited:limited-secret")
    ended = cli("check", "--amqp-url", url, "--queue", limited.queue)
    (what,) = levels(ended)["fail"]
    assert ended.code == 1
    assert what.startswith(f"user 'limited' has no right to {right} ")
    assert "limited-secret" not in ended.out

    command = what.partition("(rabbitmqctl ")[2].partition("; or ")[0].removesuffix(")")
    node.ctl(*shlex.split(command))
    ended = cli("check", "--amqp-url", url, "--queue", limited.queue)
    assert ended.code == 0
    assert "user 'limited' has the rights that topology declare needs" in levels(ended)["ok"]
    assert all(
        limited.exists(queue.name) is (declared and queue.name != limited.topology.suspect_name)
        for queue in (limited.topology.work, limited.topology.suspect, limited.topology.dead)
    )


def test_asking_for_rights_disturbs_nobody(cli: Cli, broker: Broker) -> None:
    broker.declare()
    broker.publish(broker.queue, b"{}", type="t")
    assert cli("check").code == 0
    taken = broker.channel.basic_get(broker.queue)
    assert taken[0] is not None
    assert taken[0].redelivered is False
