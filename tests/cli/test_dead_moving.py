"""`worker dead replay | drop | export` of many letters: filters, rates, and what is there when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Broker, Cli
from tests.cli.test_dead import put_letter
from worker.dev.node import Node
from worker.testing import letter

MANY = 1200


def put_many(broker: Broker, *, other_every: int = 3) -> set[str]:
    """Letters of one type, and among them some of another; the ids of the first."""
    found = set()
    for number in range(MANY):
        job = "other" if number % other_every == 0 else "order"
        put_letter(broker, f"{job}-{number}", "tls", type=job)
        found |= {f"order-{number}"} if job == "order" else set()
    return found


def drained(broker: Broker, queue: str) -> Counter[str]:
    """The job ids in `queue`, which is empty then."""
    found: Counter[str] = Counter()
    while (taken := broker.take(queue)) is not None:
        found[str((taken[0].headers or {})["x-worker-id"])] += 1
    return found


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def letters(broker: Broker) -> Broker:
    broker.declare()
    old = {"x-worker-died-at": round((time.time() - 7200) * 1000)}
    put_letter(broker, "a", "http_status", old)
    put_letter(broker, "b", "rejected", {"x-worker-died-at": round(time.time() * 1000)}, type="mail")
    put_letter(broker, "c", "http_status", type="mail")
    return broker


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (("--reason", "http_status"), {"a", "c"}),
        (("--type", "mail", "--reason", "http_status"), {"c"}),
        (("--older", "1h"), {"a"}),
        (("--all",), {"a", "b", "c"}),
        (("--all", "--window", "2"), {"a", "b"}),
    ],
)
def test_what_the_filters_name_is_replayed(
    cli: Cli, letters: Broker, arguments: tuple[str, ...], ids: set[str]
) -> None:
    ended = cli("dead", "replay", *arguments)
    assert (ended.code, ended.out) == (0, f"{len(ids)} of {len(ids)} letters replayed\n")
    assert ("only the first 2 of 3" in ended.err) is ("--window" in arguments)
    assert set(drained(letters, letters.queue)) == ids
    assert set(drained(letters, letters.topology.dead_name)) == {"a", "b", "c"} - ids


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_everything_is_never_meant_by_saying_nothing(cli: Cli, letters: Broker, command: str) -> None:
    ended = cli("dead", command)
    assert (ended.code, ended.errors) == (
        2,
        ["invalid value for ID: name an ID, --reason, --type or --older, or say --all"],
    )
    assert cli("dead", command, "--all", "--type", "mail").code == 2
    assert letters.count(letters.topology.dead_name) == 3


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_dry_run_does_nothing(cli: Cli, letters: Broker, command: str) -> None:
    done = {"replay": "replayed", "drop": "dropped"}[command]
    ended = cli("dead", command, "--type", "mail", "--dry-run")
    assert ended.code == 0
    assert ended.out == f"2 letters would be {done}: 1 http_status mail, 1 rejected mail\n"
    report = cli("dead", command, "--type", "mail", "--dry-run", "--json").json
    assert (report[done], report["dry_run"], report["looked_at"], len(report["groups"])) == (2, True, 3, 2)
    assert letters.count(letters.topology.dead_name) == 3
    assert letters.count(letters.queue) == 0


def test_programs_are_told_what_was_done(cli: Cli, letters: Broker) -> None:
    expected = {"replayed": 2, "failed": 0, "dry_run": False, "looked_at": 3, "letters": 3}
    assert cli("dead", "replay", "--type", "mail", "--json").json == expected
    expected = {"dropped": 1, "failed": 0, "dry_run": False, "looked_at": 1, "letters": 1}
    assert cli("dead", "drop", "--all", "--yes", "--json").json == expected


def test_what_cannot_be_replayed_is_told_and_stays(cli: Cli, letters: Broker) -> None:
    letters.publish(letters.topology.dead_name, b"x" * (17 * 1024 * 1024), message_id="huge")
    ended = cli("dead", "replay", "--all")
    assert (ended.code, ended.out) == (1, "3 of 4 letters replayed\n")
    assert ended.errors[0].startswith("huge is not replayed: its body of 17825792 bytes is too large")
    assert letters.count(letters.topology.dead_name) == 1


def test_nothing_to_do_is_no_failure(cli: Cli, letters: Broker) -> None:
    ended = cli("dead", "replay", "--reason", "tls")
    assert (ended.code, ended.out) == (0, f"none of the 3 letters in the dead queue of {letters.queue} matches\n")


def test_a_rate_is_kept(cli: Cli, letters: Broker) -> None:
    started = time.monotonic()
    assert cli("dead", "replay", "--all", "--rate", "1/s").code == 0
    assert time.monotonic() - started > 2
    assert cli("dead", "replay", "--all", "--rate", "often").code == 2


def test_drop_wants_to_be_told_twice(cli: Cli, letters: Broker) -> None:
    ended = cli("dead", "drop", "--type", "mail")
    assert (ended.code, ended.errors) == (2, ["invalid value for --yes: nothing was dropped: it takes --yes"])
    assert ended.out.startswith("2 letters would be dropped: ")
    assert letters.count(letters.topology.dead_name) == 3
    ended = cli("dead", "drop", "--type", "mail", "--yes")
    assert (ended.code, ended.out) == (0, "2 of 2 letters dropped\n")
    assert cli("dead", "drop", "a", "--yes").out == "dropped a\n"
    assert letters.count(letters.topology.dead_name) == 0
    assert letters.count(letters.queue) == 0


def test_groups(cli: Cli, letters: Broker) -> None:
    put_letter(letters, "d", "http_status", type="mail")
    lines = cli("dead", "list", "--group").out.splitlines()
    assert lines[0].split() == ["reason", "type", "letters", "oldest", "newest"]
    assert lines[1].split() == ["http_status", "mail", "2", "-", "-"]
    found = cli("dead", "list", "--group", "--json").json
    assert [(one["reason"], one["type"], one["count"]) for one in found] == [
        ("http_status", "mail", 2),
        ("http_status", "order.sync", 1),
        ("rejected", "mail", 1),
    ]
    assert found[1]["oldest"] == found[1]["newest"] is not None
    said = cli("dead", "list", "--limit", "1").err
    assert "4 letters: 2 http_status mail, 1 http_status order.sync, 1 rejected mail" in said


def test_an_export_is_one_letter_a_line(cli: Cli, letters: Broker) -> None:
    ended = cli("dead", "export", "--type", "mail", "letters.jsonl")
    assert (ended.code, ended.out) == (0, "")
    assert "2 letters exported to letters.jsonl; all 3 letters were looked at" in ended.err
    lines = (cli.directory / "letters.jsonl").read_text().splitlines()
    shown = [cli("dead", "show", one, "--json").json[0] for one in ("b", "c")]
    for one in shown:
        one["properties"]["headers"].pop("x-delivery-count", None)  # the broker counts how often it was looked at
    assert [json.loads(line) for line in lines] == shown
    assert letter(lines[0]).body == b'{"n": 1}'
    assert len(cli("dead", "export", "--type", "mail").out.splitlines()) == 2
    assert cli("dead", "export", "letters.jsonl").code == 2
    assert cli("dead", "export", "nowhere/letters.jsonl").code == 2
    assert [one.name for one in cli.directory.iterdir()] == ["letters.jsonl"]
    assert letters.count(letters.topology.dead_name) == 3


def test_an_export_that_fails_leaves_no_half_of_it(cli: Cli) -> None:
    ended = cli("dead", "export", "letters.jsonl", "--amqp-url", "amqp://127.0.0.1:1", "--connect-timeout", "100ms")
    assert ended.code == 69
    assert list(Path(cli.directory).iterdir()) == []


def test_a_terminal_sees_how_far_it_is(cli: Cli, letters: Broker) -> None:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "dead", "replay", "--all", "--rate", "2/s"],
        env=cli.environment() | {"TERM": "xterm"},
        cwd=cli.directory,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while part := os.read(screen, 4096):
            shown += part
    os.close(screen)
    assert process.communicate()[0] == b"3 of 3 letters replayed\n"
    assert b"replay" in shown
    assert b"2/3" in shown


def test_a_replay_that_is_killed_loses_nothing(cli: Cli, broker: Broker) -> None:
    broker.declare()
    wanted = put_many(broker)
    process = cli.started("dead", "replay", "--type", "order")
    eventually(lambda: broker.count(broker.queue) > 100, "jobs are replayed")
    process.kill()
    process.communicate()
    first = drained(broker, broker.queue)
    eventually(lambda: broker.count(broker.topology.dead_name) + len(first) >= MANY - 1, "the broker has them back")

    ended = cli("dead", "replay", "--type", "order")
    assert ended.code == 0
    replayed = first + drained(broker, broker.queue)
    left = drained(broker, broker.topology.dead_name)
    assert set(replayed) == wanted
    assert sum(left.values()) == MANY - len(wanted)
    assert not set(left) & wanted
    assert max(replayed.values()) <= 2
    assert 0 < len(first) < len(wanted), "it was killed too late to tell anything"


def test_a_replay_outlives_its_broker(cli: Cli, node: Node) -> None:
    before = Broker(node.url, "cli-restarted")
    cli.environ |= {"WORKER_AMQP_URL": node.url, "WORKER_QUEUE": before.queue}
    before.declare()
    wanted = {f"job-{number}" for number in range(300)}
    for job in sorted(wanted):
        put_letter(before, job)
    process = cli.started("dead", "replay", "--all", "--rate", "100/s")
    eventually(lambda: before.count(before.queue) > 30, "jobs are replayed")
    before.hang_up()
    node.stop()
    node.start()
    out, err = process.communicate(timeout=90)
    after = Broker(node.url, "cli-restarted")
    try:
        assert (process.returncode, out) == (0, "300 of 300 letters replayed\n"), err
        replayed = drained(after, after.queue)
        assert set(replayed) == wanted
        assert sum(replayed.values()) <= 301, "one copy may have been sent when the broker went"
        assert after.count(after.topology.dead_name) == 0
    finally:
        after.close()


def test_a_drop_that_is_killed_loses_nothing_else(cli: Cli, broker: Broker) -> None:
    broker.declare()
    unwanted = put_many(broker)
    process = cli.started("dead", "drop", "--type", "order", "--yes", "--rate", "400/s")
    eventually(lambda: broker.count(broker.topology.dead_name) < MANY // 2, "letters are held")
    process.kill()
    process.communicate()
    eventually(lambda: broker.count(broker.topology.dead_name) > MANY - len(unwanted), "the broker has them back")
    assert cli("dead", "drop", "--type", "order", "--yes").code == 0
    left = drained(broker, broker.topology.dead_name)
    assert sum(left.values()) == MANY - len(unwanted)
    assert not set(left) & unwanted
