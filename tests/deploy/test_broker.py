"""What deploy/ promises of a broker, at a real one: the rights are enough, and the metrics are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.conftest import do_without, installation
from tests.deploy.queries import BROKERS, DEPLOY
from tests.process.kit import Yard, counted, eventually
from worker.core.topology import Rights, Topology
from worker.dev.node import Node, NodeUnavailable
from worker.dev.target import Target

PASSWORD: Final = "worker"
PLUGINS: Final = ("rabbitmq_management", "rabbitmq_prometheus")


def from_kubernetes() -> Rights:
    text = (DEPLOY / "kubernetes" / "rabbitmq" / "user.yaml").read_text(encoding="utf-8")
    return Rights(**dict(re.findall(r"^    (configure|write|read): (.*)$", text, re.MULTILINE)))


def from_runbook(user: str) -> Rights:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"set_permissions -p worker {user} '(.*)' '(.*)' '(.*)'$", text, re.MULTILINE)
    return Rights(*found)


def compose_conf(folder: Path) -> list[str]:
    """The broker's configuration as compose.yaml puts it together, with a user who is made at the first start."""
    shutil.copy(DEPLOY / "compose" / "make-secrets.sh", folder)
    subprocess.run(["sh", folder / "make-secrets.sh"], check=True, capture_output=True)
    user = (folder / "secrets" / "rabbitmq-user.conf").read_text(encoding="utf-8")
    common = (DEPLOY / "compose" / "rabbitmq.conf").read_text(encoding="utf-8")
    lines = [line for line in f"{common}\n{user}".splitlines() if line and not line.startswith("#")]
    return [line for line in lines if not line.startswith(("default_pass", "disk_free"))] + [
        f"default_pass = {PASSWORD}"
    ]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    conf = compose_conf(tmp_path_factory.mktemp("compose"))
    try:
        with Node(installation(), plugins=PLUGINS, conf=conf) as node:
            for user, rights in (("strict", "worker"), ("shop", "shop"), ("keda", "keda")):
                granted = from_runbook(rights)
                node.ctl("add_user", user, PASSWORD)
                node.ctl("set_permissions", "-p", "worker", user, granted.configure, granted.write, granted.read)
            node.ctl("set_user_tags", "keda", "monitoring")
            yield node
    except NodeUnavailable as missing:
        do_without(str(missing))


@contextmanager
def yard_of(user: str, broker: Node, folder: Path) -> Iterator[Yard]:
    found = Yard(f"amqp://{user}:{PASSWORD}@127.0.0.1:{broker.port}/worker", folder)
    found.queue = "jobs"
    with found:
        yield found


@pytest.fixture
def yard(broker: Node, tmp_path: Path) -> Iterator[Yard]:
    with yard_of("strict", broker, tmp_path) as found:
        yield found


def test_kubernetes_gives_the_rights_of_the_runbook() -> None:
    assert from_kubernetes() == from_runbook("worker")


def test_the_runbook_gives_no_more_than_a_worker_needs() -> None:
    needed = Topology("jobs").rights(declares=True)
    assert from_runbook("worker") == Rights(
        *(one.replace(r"\.", "[.]") for one in (needed.configure, needed.write, needed.read))
    )


def test_the_user_of_compose_is_no_administrator(broker: Node) -> None:
    users = dict(line.split("\t") for line in broker.ctl("list_users").splitlines()[1:])
    assert users == {"worker": "[]", "strict": "[]", "shop": "[]", "keda": "[monitoring]"}


@pytest.mark.parametrize("user", ["worker", "strict"], ids=["compose", "runbook"])
def test_with_these_rights_jobs_are_done_retried_and_dead_lettered(
    user: str, broker: Node, target: Target, tmp_path: Path
) -> None:
    with yard_of(user, broker, tmp_path) as yard:
        worker = yard.start(backoff="1s..1s")
        yard.publish("http", {"url": f"{target.url}/ok"}, "done")
        yard.publish("http", {"url": f"{target.url}/flaky/1/500/{user}"}, "retried")
        yard.publish("http", {"url": 7}, "dead")
        eventually(lambda: counted(target.ledger()) == {"done": 1, "retried": 2}, "one call and two")
        assert yard.letters(1)["dead"].reason == "invalid_payload"
        assert yard.command("check").returncode == 0
        assert worker.drain() == 0
        assert yard.left() == {}


def test_a_publisher_may_publish_and_not_read(broker: Node, yard: Yard) -> None:
    yard.declare()
    parameters = pika.URLParameters(f"amqp://shop:{PASSWORD}@127.0.0.1:{broker.port}/worker")
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", "jobs", b"{}", mandatory=True)
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            channel.basic_get("jobs")
    assert yard.waiting() == 1


def test_keda_sees_the_messages_that_are_ready_and_those_in_work(broker: Node, yard: Yard) -> None:
    yard.declare()
    yard.publish("http", {}, "one")
    page = f"{broker.management_url.replace('guest:guest@', '')}/api/queues/worker/jobs"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, page, "keda", PASSWORD)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))

    def told() -> bool:
        with opener.open(page, timeout=10) as answer:
            text = answer.read().decode()
        return '"messages":1' in text and '"messages_unacknowledged":0' in text

    eventually(told, "the management API counts the message")


def test_the_brokers_metrics_are_called_as_we_call_them(broker: Node, yard: Yard) -> None:
    yard.declare()
    base = broker.prometheus_url.removesuffix("/metrics")
    pages = ("/metrics", "/metrics/detailed?family=queue_coarse_metrics&vhost=worker")

    def found() -> set[str]:
        text = "".join(urllib.request.urlopen(base + page, timeout=10).read().decode() for page in pages)
        return {name for name in BROKERS if re.search(rf"^{name}[ {{]", text, re.MULTILINE)}

    eventually(lambda: found() == BROKERS, f"all of {sorted(BROKERS)}")
