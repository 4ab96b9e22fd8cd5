"""`worker dead`: reading without taking, and sending jobs back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.conftest import Broker, Cli, headers_of
from worker.dev.node import Node


def put_letter(
    broker: Broker,
    id: str,
    reason: str = "http_status",
    headers: Mapping[str, Any] | None = None,
    *,
    body: bytes = b'{"n": 1}',
    type: str = "order.sync",
) -> None:
    """A letter as a worker writes it."""
    written = {"x-worker-id": id, "x-worker-attempt": 3, "x-worker-reason": reason, "tenant": "t-1"}
    broker.publish(
        broker.topology.dead_name,
        body,
        type=type,
        message_id=f"copy-of-{id}",
        user_id=broker.user,
        correlation_id="c-1",
        headers={**written, **(headers or {})},
    )


def history(ago: timedelta) -> list[str]:
    return [f"3 {datetime.now(UTC) - ago:%Y-%m-%dT%H:%M:%SZ} 0.250s http_status"]


@pytest.fixture
def letters(broker: Broker) -> Broker:
    broker.declare()
    two_hours = {"x-worker-detail": "503 again", "x-worker-history": history(timedelta(hours=2, minutes=5))}
    put_letter(broker, "a", "http_status", two_hours)
    put_letter(broker, "b", "rejected", {"x-worker-history": history(timedelta(minutes=5))}, type="mail")
    put_letter(broker, "c", "malformed")
    return broker


def test_an_empty_queue_is_said_to_be(cli: Cli, broker: Broker) -> None:
    broker.declare()
    ended = cli("dead", "list")
    assert (ended.code, ended.out, ended.err) == (0, f"the dead queue of {broker.queue} is empty\n", "")
    assert cli("dead", "list", "--json").json == []


def test_listing_shows_letters_and_leaves_them_in_order(cli: Cli, letters: Broker) -> None:
    for _ in range(2):
        assert len(cli("dead", "list", "--json").json) == 3
    found = cli("dead", "list", "--json").json
    assert [(one["id"], one["type"], one["reason"], one["attempts"]) for one in found] == [
        ("a", "order.sync", "http_status", 3),
        ("b", "mail", "rejected", 3),
        ("c", "order.sync", "malformed", 3),
    ]
    assert found[0]["detail"] == "503 again"
    assert found[2]["died_at"] is None
    died = datetime.fromisoformat(found[0]["died_at"])
    assert timedelta(hours=2, minutes=4) < datetime.now(UTC) - died < timedelta(hours=2, minutes=7)
    assert letters.count(letters.topology.dead_name) == 3


def test_people_get_a_table(cli: Cli, letters: Broker) -> None:
    lines = cli("dead", "list").out.splitlines()
    assert lines[0].split() == ["id", "type", "reason", "attempts", "age", "detail"]
    assert lines[1].split() == ["a", "order.sync", "http_status", "3", "2h", "503", "again"]
    assert lines[3].split() == ["c", "order.sync", "malformed", "3", "-"]


def test_what_a_publisher_wrote_does_not_reach_the_terminal_as_commands(cli: Cli, broker: Broker) -> None:
    broker.declare()
    broker.publish(
        broker.topology.dead_name, b'"\x1b[31m"', message_id="\x1b[2Jx", type="[red]t", headers={"a\x1b": "\x1b"}
    )
    for ended in (cli("dead", "list"), cli("dead", "show", "sha256-"), cli("dead", "list", "--json")):
        assert "\x1b" not in ended.out + ended.err
    assert "[red]t" in cli("dead", "list").out
    [letter] = cli("dead", "list", "--json").json
    assert "\x1b" not in cli("dead", "show", letter["id"]).out


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (("--reason", "rejected"), ["b"]),
        (("--type", "order.sync"), ["a", "c"]),
        (("--older", "1h"), ["a"]),
        (("--older", "1m", "--type", "mail"), ["b"]),
        (("--limit", "2"), ["a", "b"]),
        (("--reason", "tls"), []),
    ],
)
def test_filters(cli: Cli, letters: Broker, arguments: tuple[str, ...], ids: list[str]) -> None:
    ended = cli("dead", "list", "--json", *arguments)
    assert [one["id"] for one in ended.json] == ids
    assert ("2 of 3 shown" in ended.err) is ("--limit" in arguments)


def test_filters_that_match_nothing_do_not_claim_an_empty_queue(cli: Cli, letters: Broker) -> None:
    ended = cli("dead", "list", "--reason", "tls")
    assert ended.out == f"none of the 3 letters in the dead queue of {letters.queue} matches\n"


def test_an_unknown_reason_is_a_usage_error(cli: Cli) -> None:
    ended = cli("dead", "list", "--reason", "bored")
    assert ended.code == 2
    assert ended.errors[0].startswith("invalid value for --reason: 'bored' is not one of attempts_exhausted,")


def test_a_missing_queue_is_refused(cli: Cli, broker: Broker) -> None:
    ended = cli("dead", "list")
    assert ended.code == 78
    assert ended.errors[0].startswith(f"queue '{broker.topology.dead_name}' does not exist")


@pytest.mark.parametrize("id", ["a", "copy-of-a"])
def test_show_tells_everything(cli: Cli, letters: Broker, id: str) -> None:
    [found] = cli("dead", "show", id, "--json").json
    assert (found["id"], found["reason"], found["json"]) == ("a", "http_status", {"n": 1})
    assert found["properties"]["correlation_id"] == "c-1"
    assert found["properties"]["headers"]["tenant"] == "t-1"
    text = cli("dead", "show", id).out
    assert "503 again" in text
    assert text.endswith(json.dumps({"n": 1}, indent=2) + "\n")
    assert letters.count(letters.topology.dead_name) == 3


def test_show_of_nothing_fails(cli: Cli, letters: Broker) -> None:
    ended = cli("dead", "show", "z")
    assert (ended.code, ended.out) == (1, "")
    assert ended.errors == [f"no letter of z among the 3 in the dead queue of {letters.queue}"]


def test_replay_sends_the_job_back_and_takes_the_letter(cli: Cli, broker: Broker) -> None:
    broker.declare()
    steps = '{"user":[{"id":1}]}'
    put_letter(broker, "other")
    put_letter(
        broker,
        "a",
        body=b'{ "n":1 }',
        headers={
            "x-worker-steps": steps,
            "x-worker-history": history(timedelta(0)),
            "x-worker-detail": "gone",
            "x-worker-deadline": 1,
            "x-worker-not-before": 1,
            "x-worker-first-seen": 1,
            "x-worker-snoozes": 4,
        },
    )
    ended = cli("dead", "replay", "a")
    assert (ended.code, ended.out, ended.err) == (0, f"replayed a to {broker.queue}\n", "")
    found = broker.take(broker.queue)
    assert found is not None
    properties, body = found
    assert body == b'{ "n":1 }'
    headers = headers_of(properties)
    assert headers.pop("x-worker-history")
    assert headers == {"x-worker-id": "a", "x-worker-attempt": 1, "x-worker-steps": steps, "tenant": "t-1"}
    assert (properties.type, properties.correlation_id, properties.user_id) == ("order.sync", "c-1", broker.user)
    assert properties.message_id not in (None, "a", "copy-of-a")
    assert [one["id"] for one in cli("dead", "list", "--json").json] == ["other"]


def test_replay_with_a_new_key(cli: Cli, letters: Broker) -> None:
    ended = cli("dead", "replay", "a", "--new-key")
    found = letters.take(letters.queue)
    assert found is not None
    new = headers_of(found[0])["x-worker-id"]
    assert new not in (None, "a")
    assert ended.out == f"replayed a to {letters.queue} as {new}\n"


def test_all_letters_of_an_id_are_replayed(cli: Cli, letters: Broker) -> None:
    put_letter(letters, "a", "tls")
    ended = cli("dead", "replay", "a")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "2 of 2 letters replayed"
    assert letters.count(letters.queue) == 2
    assert letters.count(letters.topology.dead_name) == 2


def test_a_letter_stays_when_its_copy_cannot_be_placed(cli: Cli, letters: Broker) -> None:
    letters.channel.queue_delete(letters.queue)
    ended = cli("dead", "replay", "a")
    assert ended.code == 1
    assert ended.errors == [f"a is not replayed: queue '{letters.queue}' does not exist"]
    assert letters.count(letters.topology.dead_name) == 3


def test_what_a_stranger_claims_is_not_replayed_as_ours(cli: Cli, broker: Broker) -> None:
    broker.declare()
    claims = {"x-worker-id": "forged", "x-worker-steps": '{"pay":["done"]}', "x-worker-reason": "tls"}
    broker.publish(broker.topology.dead_name, b"{}", type="t", message_id="m-1", headers=claims)
    [found] = cli("dead", "list", "--json").json
    assert (found["id"], found["reason"]) == ("m-1", None)
    assert cli("dead", "replay", "m-1").code == 0
    taken = broker.take(broker.queue)
    assert taken is not None
    assert headers_of(taken[0]) == {"x-worker-id": "m-1", "x-worker-attempt": 1}


def test_letters_made_by_the_broker_have_its_reasons(cli: Cli, broker: Broker) -> None:
    broker.declare()
    broker.publish(broker.queue, b"{}", type="t", message_id="late", expiration="1")
    deadline = time.monotonic() + 20
    while broker.count(broker.topology.dead_name) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    broker.publish(broker.queue, b"[]", type="t", message_id="large")
    method, _, _ = broker.channel.basic_get(broker.queue)
    assert method is not None
    broker.channel.basic_reject(method.delivery_tag or 0, requeue=False)
    while broker.count(broker.topology.dead_name) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    found = cli("dead", "list", "--json").json
    assert [(one["id"], one["reason"], one["attempts"]) for one in found] == [
        ("late", "expired", 0),
        ("large", "too_large", 0),
    ]
    assert all(abs(datetime.fromisoformat(one["died_at"]).timestamp() - time.time()) < 60 for one in found)


def test_a_user_without_rights_is_told_which(cli: Cli, node: Node) -> None:
    node.ctl("add_user", "blind", "blind-secret")
    node.ctl("set_permissions", "blind", "nothing", "nothing", "nothing")
    url = node.url.replace("guest:guest", "blind:blind-secret")
    held = Broker(node.url, "cli-blind")
    held.declare()
    put_letter(held, "a")
    try:
        listed = cli("dead", "list", "--amqp-url", url, "--queue", "cli-blind")
        checked = cli("check", "--amqp-url", url, "--queue", "cli-blind")
        published = cli("publish", "t", "--amqp-url", url, "--queue", "cli-blind")
    finally:
        held.close()
        node.ctl("delete_user", "blind")
    assert listed.code == 78
    assert "give the broker user the right to read it" in listed.errors[0]
    assert checked.code == 1
    assert "fail  user 'blind' has no right to configure cli-blind" in checked.out
    assert published.code == 1
    assert "blind-secret" not in listed.err + checked.out + published.err
