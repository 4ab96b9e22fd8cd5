"""Dead letters as they are understood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from worker.amqp.dead import read_letter
from worker.core.copies import CopyRules, dead_copy, malformed_copy
from worker.core.finished import Finished
from worker.core.job import Job, Malformed
from worker.core.message import Message, Outgoing, Properties, Undecodable
from worker.core.policy import DeadLetter as Ending
from worker.core.topology import Topology

TOPOLOGY = Topology("jobs")
TRUSTED = frozenset({"worker"})


def letter(headers: Mapping[str, Any], user: str | None = "worker", **properties: Any) -> Any:
    return read_letter(Message(b"{}", Properties(user_id=user, headers=headers, **properties)), TOPOLOGY, TRUSTED)


def death(reason: str, queue: str = "jobs", time: int = 1000) -> dict[str, Any]:
    return {"count": 1, "reason": reason, "queue": queue, "time": time, "exchange": "", "routing-keys": [queue]}


def as_received(copy: Outgoing) -> Message:
    assert isinstance(copy.message.properties, Properties)
    properties = copy.message.properties
    return Message(
        copy.message.body,
        Properties(
            type=properties.type, message_id=properties.message_id, user_id="worker", headers=properties.headers
        ),
    )


def test_a_letter_of_the_worker_says_all_it_says() -> None:
    job = Job(
        "job-1",
        "order.sync",
        b"{}",
        {},
        first_seen=1.0,
        attempt=3,
        steps={"user": Finished(1)},
        history=("3 1970-01-01T00:16:40Z 2.500s http_status",),
        properties=Properties(type="order.sync"),
    )
    copy = dead_copy(job, Ending("http_status", "503", 3), copy_id="copy-1", rules=CopyRules(TOPOLOGY))
    found = read_letter(as_received(copy), TOPOLOGY, TRUSTED)
    assert (found.id, found.message_id, found.type) == ("job-1", "copy-1", "order.sync")
    assert (found.reason, found.detail, found.attempts, found.died_at) == ("http_status", "503", 3, 1002.5)
    assert found.believed
    assert found.answers_to("job-1")
    assert found.answers_to("copy-1")
    assert not found.answers_to("job")


def test_a_letter_of_what_was_no_job() -> None:
    message = Message(b"\xff", Undecodable(b"\x00", "flags: truncated"))
    copy = malformed_copy(
        message, Malformed("m-1", "malformed", "not UTF-8"), copy_id="copy-1", rules=CopyRules(TOPOLOGY)
    )
    found = read_letter(as_received(copy), TOPOLOGY, TRUSTED)
    assert (found.id, found.reason, found.detail, found.attempts) == ("m-1", "malformed", "not UTF-8", 0)
    assert found.died_at is None


@pytest.mark.parametrize(
    ("by_the_broker", "reason"),
    [
        ("expired", "expired"),
        ("delivery_limit", "delivery_limit"),
        ("rejected", "too_large"),
        ("maxlen", None),
    ],
)
def test_a_letter_of_the_broker_has_the_reason_of_its_death(by_the_broker: str, reason: str | None) -> None:
    found = letter({"x-death": [death(by_the_broker)]}, user=None, message_id="m-1")
    assert (found.id, found.reason, found.attempts, found.died_at) == ("m-1", reason, 0, 1000.0)
    assert found.detail


def test_a_letter_says_when_its_job_died() -> None:
    ending, rules = Ending("http_status", "503", 3), CopyRules(TOPOLOGY)
    job = Job("job-1", "t", b"{}", {}, first_seen=1.0, attempt=3, properties=Properties(type="t"))
    copy = dead_copy(job, ending, copy_id="copy-1", rules=rules, died_at=1234.5)
    assert read_letter(as_received(copy), TOPOLOGY, TRUSTED).died_at == 1234.5
    fault = Malformed("m-1", "malformed", "not UTF-8")
    copy = malformed_copy(Message(b"\xff", Properties()), fault, copy_id="copy-1", rules=rules, died_at=1234.5)
    assert read_letter(as_received(copy), TOPOLOGY, TRUSTED).died_at == 1234.5


@pytest.mark.parametrize("claim", ["soon", -1, 1 << 62, True])
def test_an_odd_time_of_death_is_none(claim: object) -> None:
    assert letter({"x-worker-reason": "tls", "x-worker-attempt": 1, "x-worker-died-at": claim}).died_at is None


def test_a_stranger_does_not_say_when() -> None:
    assert letter({"x-worker-reason": "tls", "x-worker-died-at": 1000}, user="somebody").died_at is None


def test_a_job_that_never_ran_died_at_its_first_delivery() -> None:
    headers = {"x-worker-reason": "invalid_payload", "x-worker-attempt": 0, "x-worker-first-seen": 1_500_000}
    assert letter(headers).died_at == 1500.0
    assert letter(headers | {"x-worker-snoozes": 2}).died_at is None


def test_a_wait_that_ended_is_no_death() -> None:
    deaths = [death("rejected", "jobs.suspect", 2000), death("expired", "jobs.wait.5s", 1000)]
    found = letter({"x-death": deaths, "x-worker-id": "job-1", "x-worker-attempt": 4})
    assert (found.id, found.reason, found.attempts, found.died_at) == ("job-1", "too_large", 3, 2000.0)


@pytest.mark.parametrize("time", [10**12, 10**17, -(10**17), 0, -1])
def test_a_time_that_is_no_date_is_none(time: int) -> None:
    """Anybody may publish to the dead queue with an x-death of his own."""
    found = letter({"x-death": [death("expired", "jobs", time)]}, user="somebody", message_id="m-1")
    assert (found.reason, found.died_at) == ("expired", None)
    assert letter({"x-worker-reason": "tls", "x-worker-attempt": 0, "x-worker-first-seen": 10**17}).died_at is None


def test_what_strangers_claim_is_not_believed() -> None:
    headers = {"x-worker-id": "forged", "x-worker-reason": "tls", "x-worker-attempt": 5}
    found = letter(headers, user="somebody", message_id="m-1")
    assert (found.id, found.reason, found.attempts, found.believed) == ("m-1", None, 0, False)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-worker-id": 5, "x-worker-reason": 7, "x-worker-attempt": "many", "x-worker-history": "long"},
        {"x-worker-reason": "bored", "x-worker-history": [1]},
        {"x-worker-reason": "tls", "x-worker-history": ["1 when 2s"], "x-worker-attempt": True},
        {"x-death": "often"},
        {"x-death": [5, {"queue": "other"}, {}]},
        {"x-death": [{"queue": "jobs", "time": "now", "reason": []}]},
    ],
)
def test_odd_headers_do_no_harm(headers: Mapping[str, Any]) -> None:
    found = letter(headers, message_id="m-1")
    assert found.id == "m-1"
    assert found.died_at is None
    assert found.attempts == 0


def test_a_message_that_cannot_be_read_has_an_id_that_stays() -> None:
    first, again, other = (
        read_letter(Message(body, Undecodable(b"\xff", "headers: not UTF-8")), TOPOLOGY, TRUSTED)
        for body in (b"1", b"1", b"2")
    )
    assert first.id == again.id != other.id
    assert first.id.startswith("sha256-")
    assert (first.reason, first.detail) == ("malformed", "undecodable properties: headers: not UTF-8")
