"""The demo, run for real; and that it does not call true what is not."""

from __future__ import annotations

import re
from pathlib import Path

import pika
import pika.exceptions
import pytest

from tests.conftest import GivenBroker
from tests.dev.running import eventually, running
from worker.dev.ledger import LedgerWriter
from worker.dev.node import Node
from worker.dev.scenes import Measured, check_calls, check_gain
from worker.dev.screen import Screen
from worker.dev.service import Untrue
from worker.dev.stage import Plan, Stage
from worker.dev.target import Target

DEMO = "worker.dev.demo"
SHORT = ("--calls", "10", "--delay", "300")  # long enough for a busy machine to show that they ran at once


def exists(url: str, queue: str) -> bool:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        connection.channel().queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    finally:
        connection.close()
    return True


def test_all_it_shows_is_there_and_nothing_is_left(node: Node, tmp_path: Path) -> None:
    assert node.running  # there is a RabbitMQ here
    # What the caller has set up for a worker is not the demo's.
    (tmp_path / "worker.toml").write_text("no_such_key = 1\n")
    with running(tmp_path, DEMO, WORKER_CONCURRENCY="1", WORKER_NO_SUCH_SETTING="1") as demo:
        code = demo.end()
        assert code == 0, demo.output
        assert demo.left_behind() == []
    assert demo.most >= 6  # the demo, the node and its guard, the target, the worker and its guard
    rows = re.findall(
        r"(\d+) [^\w\n]+ ([\d.]+) s [^\w\n]+ ([\d.]+) s [^\w\n]+ ([\d.]+) s [^\w\n]+ ([\d.]+) ", demo.output
    )
    assert [(at_once, sequential, ideal) for at_once, sequential, _, ideal, _ in rows] == [
        ("20", "30.00", "1.50"),
        ("100", "30.00", "0.30"),
    ]
    for _, _, measured, ideal, ratio in rows:
        assert float(ideal) <= float(measured) < 6
        assert float(ratio) == pytest.approx(float(measured) / float(ideal), abs=0.05)
    assert re.search(r"503, 503, 200 after waits of [\d.]+ s and [\d.]+ s", demo.output)
    assert re.search(r"reason: http_status\n  detail: .*404", demo.output)


def test_a_broker_that_is_not_its_own_is_left_as_it_was(rabbitmq: GivenBroker | Node, tmp_path: Path) -> None:
    with running(tmp_path, DEMO, *SHORT, WORKER_AMQP_URL=rabbitmq.url) as demo:
        assert demo.says("WORKER_CONCURRENCY=100"), demo.output
        found = re.search(r"queue (demo-\w+)", demo.output)
        assert found is not None
        assert exists(rabbitmq.url, found[1])
        assert demo.end() == 0, demo.output
        assert demo.left_behind() == []
    around = ["", ".dead", ".suspect", ".wait.1s"]
    assert [end for end in around if exists(rabbitmq.url, found[1] + end)] == []


def test_fails_when_the_calls_fail(rabbitmq: GivenBroker | Node, tmp_path: Path) -> None:
    failing = ("--path", "/status/500?ms=100")
    with running(tmp_path, DEMO, *SHORT, *failing, WORKER_AMQP_URL=rabbitmq.url) as demo:
        assert demo.end() == 1, demo.output
        assert demo.left_behind() == []
    assert "10 requests with 10 Idempotency-Keys, each answered 200" in demo.output
    assert "answered 500" in demo.output
    assert "the end of the worker's log" in demo.output
    assert "measured" not in demo.output


def test_ends_everything_when_it_is_interrupted(rabbitmq: GivenBroker | Node, tmp_path: Path) -> None:
    with running(tmp_path, DEMO, WORKER_AMQP_URL=rabbitmq.url) as demo:
        assert eventually(lambda: any("at-once=20" in call.path for call in demo.ledger())), demo.output
        assert len(demo.family()) >= 4  # the demo, the target, the worker and its guard
        demo.interrupt()
        assert demo.end() == 130, demo.output
        assert demo.left_behind() == []
    found = re.search(r"queue (demo-\w+)", demo.output)
    assert found is not None
    assert not exists(rabbitmq.url, found[1])


def test_says_why_there_is_no_node(tmp_path: Path) -> None:
    with running(tmp_path / "a space", DEMO) as demo:
        assert demo.end() == 1, demo.output
        assert demo.family() == []
    assert re.search(r"error: RabbitMQ.*(folder with a space|cannot be had)", demo.output), demo.output


def ledger_of(path: Path, calls: list[tuple[str, int]]) -> None:
    writer = LedgerWriter(path)
    for key, status in calls:
        number = writer.start("GET", "/delay/300?at-once=20", {"idempotency-key": key}, 0, 40000)
        writer.end(number, status)


TEN = [(f"job-{number}/request", 200) for number in range(10)]


@pytest.mark.parametrize(
    ("calls", "seen"),
    [
        (TEN[1:], "9 requests with 9 keys"),
        ([*TEN, TEN[3]], "11 requests with 10 keys"),
        ([*TEN[1:], TEN[3]], "10 requests with 9 keys"),
        ([*TEN[1:], ("job-0/request", 503)], "answered 200, 503"),
    ],
    ids=["lost", "repeated", "lost and repeated", "failed"],
)
def test_one_call_that_is_not_right_is_seen(tmp_path: Path, calls: list[tuple[str, int]], seen: str) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    ledger_of(right, TEN)
    ledger_of(wrong, calls)

    def stage(ledger: Path) -> Stage:
        return Stage(Screen(), Plan(calls=10), tmp_path, {}, Target(ledger))

    assert len(check_calls(stage(right), 20)) == 10
    with pytest.raises(Untrue, match=seen):
        check_calls(stage(wrong), 20)


def test_what_is_hardly_concurrent_is_not_called_so() -> None:
    check_gain(Plan(), Measured(20, 5.9))
    with pytest.raises(Untrue, match=r"less than 6\.0 s .*\nseen: +6\.10 s"):
        check_gain(Plan(), Measured(20, 6.1))
