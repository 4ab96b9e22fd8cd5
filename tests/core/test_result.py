"""What a requester is told, and where replies may go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.core.message import Properties
from worker.core.result import RESULT_LIMIT, ReplyRules, Result, Value, encoded, reply_message
from worker.core.topology import Topology


def done(value: Any, fault: str = "") -> Result:
    return Result("job-1", "t", "succeeded", 1, read_value=lambda: Value(value, 0, fault))


def test_a_result_as_it_is_sent() -> None:
    assert done({"a": 1}).as_dict() == {
        "id": "job-1",
        "type": "t",
        "status": "succeeded",
        "attempts": 1,
        "value": {"a": 1},
        "reason": None,
        "detail": None,
    }
    dead = Result("job-1", "t", "dead", 3, "http_status", "status 404").as_dict()
    assert (dead["status"], dead["value"], dead["reason"], dead["detail"]) == (
        "dead",
        None,
        "http_status",
        "status 404",
    )


def test_a_value_that_cannot_travel_is_none_and_the_detail_says_so() -> None:
    told = done(None, "no JSON").as_dict()
    assert (told["value"], told["detail"]) == (None, "no JSON")


def test_a_result_at_the_limit_is_whole_and_one_byte_more_is_cut() -> None:
    room = RESULT_LIMIT - len(encoded(done("").as_dict()))
    whole = done("x" * room)
    assert len(encoded(whole.as_dict())) == RESULT_LIMIT
    assert whole.as_dict()["value"] == "x" * room
    cut = done("x" * (room + 1))
    assert cut.as_dict()["value"] == {"truncated": room + 1 + len('""')}
    assert cut.value == "x" * (room + 1), "a callback function sees the whole"


def test_the_value_is_read_when_it_is_asked_for_and_once() -> None:
    asked: list[int] = []

    def read() -> Value:
        asked.append(1)
        return Value(7, 1)

    result = Result("a", "t", "succeeded", 1, read_value=read)
    assert not asked
    assert (result.value, result.value, result.as_dict()["value"]) == (7, 7, 7)
    assert len(asked) == 1


def test_a_reply_goes_where_it_was_asked_for() -> None:
    asked = Properties(type="t", message_id="m", correlation_id="c-1", reply_to="replies.shop", app_id="shop")
    reply = reply_message(done(1), asked)
    assert reply.queue == "replies.shop"
    assert reply.needed == "if_taken"
    assert json.loads(reply.message.body)["value"] == 1
    assert reply.message.properties == Properties(
        message_id="job-1/reply", correlation_id="c-1", content_type="application/json"
    )


@pytest.mark.parametrize(
    ("queue", "allowed"),
    [
        ("replies.shop", True),
        ("replies.", True),
        ("amq.gen-JzTY20BRgKO-HjmUJj0wLg", True),
        ("amq.rabbitmq.reply-to.g1h2.x==", True),
        ("replies", False),
        ("xreplies.shop", False),
        ("repliesXshop", False),
        ("replies.a\nb", True),
        ("orders", False),
        ("jobs", False),
        ("", False),
    ],
)
def test_where_replies_may_go_by_default(queue: str, allowed: bool) -> None:
    assert ReplyRules(Topology("jobs")).allows(queue) is allowed


@pytest.mark.parametrize("queue", ["jobs", "jobs.dead", "jobs.suspect", "jobs.wait.1s", "jobs.wait.3600s"])
def test_never_into_the_workers_own_queues_whatever_is_allowed(queue: str) -> None:
    rules = ReplyRules(Topology("jobs"), ["*"])
    assert not rules.allows(queue)
    assert rules.allows("jobs.wait.7s"), "none of the ladder"
    assert rules.allows("anything")


def test_a_value_whose_size_is_known_is_not_written_to_be_thrown_away() -> None:
    class Unwritable:
        pass

    result = Result("a", "t", "succeeded", 1, read_value=lambda: Value(Unwritable(), 5_000_000))
    assert result.as_dict()["value"] == {"truncated": 5_000_000}


def test_a_long_detail_is_cut() -> None:
    assert len(Result("a", "t", "dead", 1, "rejected", "x" * 2_000_000).as_dict()["detail"]) == 500
