"""`worker publish --wait` against whoever answers; with a real worker in tests/process/test_wait.py."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest

from tests.cli.conftest import Broker, Cli
from worker.dev.node import Node

PATIENCE = 30.0


class Requester:
    """One `worker publish --wait` under way, and the other end of it: takes its jobs and answers them."""

    def __init__(self, cli: Cli, broker: Broker, *arguments: str) -> None:
        broker.declare()
        self._broker = broker
        self.process = cli.started("publish", "t", *arguments, "--wait")

    def job(self) -> pika.BasicProperties:
        """The next job it has published."""
        return next_job(self._broker)

    def answer(self, job: pika.BasicProperties, status: str = "succeeded", **more: Any) -> dict[str, Any]:
        result = {"id": job.message_id, "type": "t", "status": status, "attempts": 1, "value": None, **more}
        self.reply(job, json.dumps(result).encode(), job.correlation_id)
        return result

    def reply(self, job: pika.BasicProperties, body: bytes, correlation_id: str | None) -> None:
        assert job.reply_to is not None
        self._broker.publish(job.reply_to, body, correlation_id=correlation_id)

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def requesters() -> Iterator[list[Requester]]:
    found: list[Requester] = []
    yield found
    for one in found:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def request_(cli: Cli, broker: Broker, requesters: list[Requester]) -> Any:
    def start(*arguments: str) -> Requester:
        requesters.append(Requester(cli, broker, *arguments))
        return requesters[-1]

    return start


def test_the_result_is_printed_when_it_comes(request_: Any) -> None:
    one = request_('{"a": 1}', "--id", "order-7")
    job = one.job()
    assert (job.message_id, job.correlation_id) == ("order-7", "order-7")
    assert re.fullmatch(r"amq\.gen-.+", job.reply_to)
    result = one.answer(job, value={"name": "Zoë", "deep": [1, {}]})
    code, out, err = one.ended()
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert json.loads(out) == result


def test_a_dead_job_is_a_failure(request_: Any) -> None:
    one = request_()
    result = one.answer(one.job(), "dead", reason="http_status", detail="status 404")
    code, out, err = one.ended()
    assert (code, json.loads(out), err) == (1, result, "")


def test_of_several_each_is_told_once_as_it_comes_and_one_that_is_dead_counts(request_: Any) -> None:
    one = request_("--count", "3", "--id", "run")
    jobs = {job.message_id: job for job in (one.job(), one.job(), one.job())}
    assert jobs.keys() == {"run-1", "run-2", "run-3"}
    told = [
        one.answer(jobs["run-2"]),
        one.answer(jobs["run-1"], "dead", reason="rejected", detail=""),
    ]
    one.answer(jobs["run-2"])  # replies come at least once
    one.reply(jobs["run-2"], b"{}", "stranger")
    told.append(one.answer(jobs["run-3"]))
    code, out, err = one.ended()
    assert [json.loads(line) for line in out.splitlines()] == told
    assert (code, err) == (1, "warning: a reply was ignored: its correlation_id is none of these jobs'\n")


def test_what_is_no_result_is_a_failure(request_: Any) -> None:
    one = request_("--id", "order-7")
    one.reply(one.job(), b"[1", "order-7")
    assert one.ended() == (1, "", "warning: what came in reply to order-7 is no result\n")


def test_more_than_are_read_at_once(request_: Any) -> None:
    one = request_("--count", "700")
    for _ in range(700):
        one.answer(one.job())
    code, out, _ = one.ended()
    assert (code, len({json.loads(line)["id"] for line in out.splitlines()})) == (0, 700)


def test_interrupted_it_says_what_is_outstanding_and_the_jobs_stay(request_: Any, broker: Broker) -> None:
    one = request_("--count", "8", "--id", "run")
    first = one.job()
    one.answer(first)
    assert one.process.stdout is not None
    assert json.loads(one.process.stdout.readline())["id"] == first.message_id
    one.process.send_signal(signal.SIGINT)
    code, _, err = one.ended()
    assert code == 130
    said = re.fullmatch(
        r"interrupted: 8 of 8 were published for certain, 7 of 8 results outstanding: (.+) and 2 more\n", err
    )
    assert said is not None
    assert len(set(said[1].split(", ")) - {first.message_id}) == 5
    assert broker.count(broker.queue) == 7


def test_it_waits_no_longer_than_asked_to(cli: Cli, broker: Broker) -> None:
    broker.declare()
    ended = cli("publish", "t", "--wait", "--timeout", "300ms", "--id", "order-7")
    assert (ended.code, ended.out) == (1, "")
    assert ended.errors == ["no longer waited for, after 0.3 s: 1 of 1 results outstanding: order-7"]
    assert broker.count(broker.queue) == 1


def test_a_worker_that_may_not_reply_is_doubted(cli: Cli, broker: Broker) -> None:
    broker.declare()
    ended = cli("publish", "t", "--wait", "--timeout", "100ms", WORKER_REPLY_ALLOW="replies.*")
    assert ended.err.startswith("warning: reply_allow replies.*: a worker with that setting sends no reply")


def test_nothing_is_waited_for_when_not_all_could_be_published(cli: Cli, broker: Broker) -> None:
    ended = cli("publish", "t", "--wait")
    assert ended.code == 1
    (said,) = ended.errors
    assert said.startswith(f"queue '{broker.queue}' does not exist: start the worker once, or add --declare; ")
    assert said.endswith("0 of 1 were published, and their results are not waited for")


@pytest.mark.parametrize(("configure", "read"), [("cli-.*", ".*"), (".*", "cli-.*")])
def test_a_user_who_may_have_no_queue_for_replies_is_told(cli: Cli, node: Node, configure: str, read: str) -> None:
    user = f"user-{uuid.uuid4().hex[:8]}"
    node.ctl("add_user", user, "secret")
    node.ctl("set_permissions", user, configure, ".*", read)
    place = urlsplit(node.url)
    url = f"amqp://{user}:secret@{place.hostname}:{place.port}{place.path}"
    ended = cli("publish", "t", "--wait", "--timeout", "1s", WORKER_AMQP_URL=url)
    assert (ended.code, ended.out) == (78, "")
    assert ended.errors[0].startswith("no queue for replies: ACCESS_REFUSED")
    assert ended.errors[0].endswith("give the broker user the rights to configure and read amq.gen-*")


def test_a_connection_that_is_lost_while_waiting_is_said(cli: Cli, node: Node, requesters: list[Requester]) -> None:
    broker = Broker(node.url, f"cli-{uuid.uuid4().hex[:8]}")
    cli.environ |= {"WORKER_AMQP_URL": broker.url, "WORKER_QUEUE": broker.queue}
    one = Requester(cli, broker, "--id", "order-7")
    requesters.append(one)
    one.job()
    listed = node.ctl("list_connections", "pid", "client_properties").splitlines()
    (pid,) = [line.split()[0] for line in listed if "worker publish wait" in line]
    node.ctl("close_connection", pid, "for a test")
    code, out, err = one.ended()
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"error: the connection was lost while waiting \(.*\), and results go nowhere now:"
        r" 1 of 1 results outstanding: order-7\n",
        err,
    )
    broker.close()


def test_on_a_terminal_the_result_is_laid_out_and_the_wait_is_seen(cli: Cli, broker: Broker) -> None:
    broker.declare()
    screen, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "worker", "publish", "t", "--wait", "--id", "order-7"],
        env=cli.environment() | {"TERM": "xterm"},
        cwd=cli.directory,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = until_seen(screen, "0/1")
        reply_to = next_job(broker).reply_to
        assert reply_to is not None
        broker.publish(reply_to, b'{"id": "order-7", "status": "succeeded"}', correlation_id="order-7")
        seen += until_seen(screen, None)
    assert process.returncode == 0
    os.close(screen)
    assert "waiting for results" in seen
    assert '{\r\n  "id": "order-7",\r\n  "status": "succeeded"\r\n}\r\n' in seen


def next_job(broker: Broker) -> pika.BasicProperties:
    deadline = time.monotonic() + PATIENCE
    while (found := broker.take(broker.queue)) is None:
        assert time.monotonic() < deadline, "no job came"
        time.sleep(0.02)
    return found[0]


def until_seen(screen: int, text: str | None) -> str:
    """What a terminal showed up to `text`, or to its end."""
    seen = ""
    while text is None or text not in seen:
        assert select.select([screen], [], [], PATIENCE)[0], seen
        try:
            seen += os.read(screen, 1 << 16).decode()
        except OSError:  # the other end is closed
            assert text is None, seen
            break
    return seen
