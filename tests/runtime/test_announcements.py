"""Replies and callbacks: sent when a job has ended for good, confirmed before the ack, and never in its way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel, computed_field, field_validator

from tests.runtime.toys import RecordingBroker, Stage, raising
from worker import ChildJob, Context, Registry, Reject, Result, Retry
from worker.core.broker import PublishFailed
from worker.core.job import Job
from worker.core.message import Message, Outgoing, Properties
from worker.core.outcome import Rejected
from worker.core.policy import DeadLetter
from worker.runtime.attempt import Attempt
from worker.runtime.telemetry import Silent
from worker.testing import Harness
from worker.testing.clock import let_run

ASKS: dict[str, Any] = {"reply_to": "replies.shop", "correlation_id": "c-1"}


class Told(Silent):
    """What telemetry hears of replies and callbacks."""

    def __init__(self) -> None:
        self.replies: list[str] = []
        self.callbacks_failed = 0

    def reply_ended(self, result: str) -> None:
        self.replies.append(result)

    def callback_failed(self) -> None:
        self.callbacks_failed += 1


def harness_of(registry: Registry) -> Harness:
    harness = Harness(registry, telemetry=Told())
    harness.broker.declare("replies.shop")
    return harness


def told(harness: Harness) -> Told:
    assert isinstance(harness.telemetry, Told)
    return harness.telemetry


def replies(harness: Harness) -> list[Any]:
    return [json.loads(message.body) for message in harness.broker.messages("replies.shop")]


def ends_as(end: Any) -> Registry:
    stage = Stage(end, backoff=(10, 10), attempts=2)
    stage.go.set()
    return stage.registry


@pytest.mark.parametrize(
    ("end", "told_of"),
    [
        (lambda: {"a": 1}, ("succeeded", 1, {"a": 1}, None, None)),
        (lambda: None, ("succeeded", 1, None, None, None)),
        (raising(Reject("no")), ("dead", 1, None, "rejected", "no")),
        (raising(Retry("broken")), ("dead", 2, None, "attempts_exhausted", "2 attempts, the last: broken")),
    ],
    ids=["value", "nothing", "rejected", "exhausted"],
)
async def test_the_requester_is_told_how_it_ended(end: Any, told_of: tuple[Any, ...]) -> None:
    async with harness_of(ends_as(end)) as harness:
        harness.publish("job", id="job-1", **ASKS)
        await harness.until_quiet()
        (reply,) = replies(harness)
        status, attempts, value, reason, detail = told_of
        assert reply == {
            "id": "job-1",
            "type": "job",
            "status": status,
            "attempts": attempts,
            "value": value,
            "reason": reason,
            "detail": detail,
        }
        (message,) = harness.broker.messages("replies.shop")
        assert isinstance(message.properties, Properties)
        assert (message.properties.correlation_id, message.properties.message_id) == ("c-1", "job-1/reply")
        assert told(harness).replies == ["sent"]


async def test_a_value_that_is_no_json_is_said_and_the_job_is_done() -> None:
    async with harness_of(ends_as(lambda: {1, 2})) as harness:
        harness.publish("job", **ASKS)
        await harness.until_quiet()
        (reply,) = replies(harness)
        assert (reply["status"], reply["value"]) == ("succeeded", None)
        assert reply["detail"] == "the handler returned set, which cannot travel as JSON (TypeError)"


class Answer(BaseModel):
    id: int


async def test_a_typed_value_travels_by_its_annotation() -> None:
    registry = Registry()

    @registry.handler("job")
    async def job(_payload: Any) -> list[Answer]:
        return [Answer(id=7)]

    async with harness_of(registry) as harness:
        harness.publish("job", **ASKS)
        await harness.until_quiet()
        assert replies(harness)[0]["value"] == [{"id": 7}]


@pytest.mark.parametrize(
    ("type", "body", "reason", "id"),
    [("job", b"{", "malformed", "m-1"), (None, b"{}", "no_type", "m-1"), ("unheard-of", b"{}", "unknown_type", "m-1")],
)
async def test_whoever_sends_what_is_no_job_is_told_too(type: str | None, body: bytes, reason: str, id: str) -> None:
    async with harness_of(Registry()) as harness:
        harness.broker.put(body, Properties(type=type, message_id=id, **ASKS))
        await harness.until_quiet()
        (reply,) = replies(harness)
        assert (reply["id"], reply["status"], reply["reason"]) == (id, "dead", reason)
        assert len(harness.broker.dead) == 1


async def test_reply_and_dead_letter_are_confirmed_before_the_ack() -> None:
    harness = harness_of(ends_as(raising(Reject("no"))))
    broker = harness.broker = RecordingBroker(harness.clock)
    broker.declare("replies.shop")
    async with harness:
        harness.publish("job", **ASKS)
        await harness.until_quiet()
        assert broker.calls == [
            "publish replies.shop",
            "confirmed replies.shop",
            "publish jobs.dead",
            "confirmed jobs.dead",
            "ack",
        ]


async def test_a_wait_is_no_end() -> None:
    async with harness_of(ends_as(raising(Retry(after=10)))) as harness:
        harness.publish("job", **ASKS)
        await let_run()
        assert not replies(harness)
        await harness.until_quiet()
        assert len(replies(harness)) == 1


@pytest.mark.parametrize(
    ("queue", "result"), [("jobs", "refused"), ("orders", "refused"), ("replies.gone", "undeliverable")]
)
async def test_a_reply_that_may_not_or_cannot_be_delivered_does_not_fail_the_job(queue: str, result: str) -> None:
    async with harness_of(ends_as(lambda: 1)) as harness:
        harness.publish("job", reply_to=queue)
        await harness.until_quiet()
        assert told(harness).replies == [result]
        assert not harness.broker.dead
        assert harness.broker.empty


async def test_a_reply_queue_that_refuses_holds_nothing_up() -> None:
    async with harness_of(ends_as(lambda: 1)) as harness:
        harness.broker.refusing.add("replies.shop")
        harness.publish("job", **ASKS)
        await let_run()
        assert told(harness).replies == ["undeliverable"]
        assert harness.broker.empty


class BrokenOnce(RecordingBroker):
    """The connection breaks under the first publish: nobody knows whether it arrived."""

    broken = False

    async def publish(self, outgoing: Outgoing) -> None:
        if not self.broken:
            self.broken = True
            raise PublishFailed("the publishing connection broke")
        await super().publish(outgoing)


async def test_a_reply_that_is_not_confirmed_is_sent_again_before_the_ack() -> None:
    harness = harness_of(ends_as(lambda: 1))
    broker = harness.broker = BrokenOnce(harness.clock)
    broker.declare("replies.shop")
    async with harness:
        harness.publish("job", **ASKS)
        await let_run()
        assert "ack" not in broker.calls
        await harness.until_quiet()
        assert broker.calls == ["publish replies.shop", "confirmed replies.shop", "ack"]
        assert told(harness).replies == ["sent"]


async def test_a_redelivery_after_a_lost_session_sends_the_reply_once() -> None:
    stage = Stage(lambda: 1)
    async with harness_of(stage.registry) as harness:
        harness.publish("job", id="a", **ASKS)
        await let_run()
        harness.broker.lose_session()
        stage.go.set()
        await let_run()
        assert not replies(harness), "its delivery is void: it waits for its redelivery"
        harness.broker.reconnect()
        await harness.until_quiet()
        assert len(replies(harness)) == len(stage.runs) == 1


# Callbacks.


class Order(BaseModel):
    id: int
    to: str | None = None


def with_callback(callback: Any, end: Any = lambda: {"done": True}) -> tuple[Registry, list[Any]]:
    registry, children = Registry(), []

    @registry.handler("job", callback=callback, backoff=(10, 10), attempts=2)
    async def job(_order: Order) -> Any:
        return end()

    @registry.handler("told")
    async def child(payload: Any, context: Context) -> None:
        children.append((context.job.id, payload))

    return registry, children


def tell(order: Order, result: Result) -> ChildJob | None:
    return None if order.to is None else ChildJob("callback", "told", {"to": order.to, "result": result.as_dict()})


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (lambda: 1, "succeeded", None),
        (raising(Reject("no")), "dead", "rejected"),
        (raising(Retry()), "dead", "attempts_exhausted"),
    ],
    ids=["done", "rejected", "exhausted"],
)
async def test_a_callback_is_a_job_of_its_own(end: Any, status: str, reason: str | None) -> None:
    registry, children = with_callback(tell, end)
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": 7, "to": "me"}, id="a")
        await harness.until_quiet()
    ((child_id, payload),) = children
    assert child_id == "a/callback"
    assert (payload["to"], payload["result"]["status"], payload["result"]["reason"]) == ("me", status, reason)


async def test_a_job_without_one_has_none_and_its_value_is_not_even_looked_at() -> None:
    class Unreadable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError

    registry, children = with_callback(tell, Unreadable)
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": 7})
        await harness.until_quiet()
    assert not children


async def test_the_callback_is_confirmed_before_the_ack_and_holds_the_ack_while_it_is_not() -> None:
    registry, children = with_callback(tell)
    harness = harness_of(registry)
    broker = harness.broker = RecordingBroker(harness.clock)
    async with harness:
        broker.refusing.add("jobs")
        harness.publish("job", {"id": 7, "to": "me"})
        await let_run()
        assert "ack" not in broker.calls
        broker.refusing.clear()
        await harness.until_quiet()
        assert broker.calls[: broker.calls.index("ack") + 1][-2:] == ["confirmed jobs", "ack"]
    assert len(children) == 1


@pytest.mark.parametrize("fault", [ValueError("x"), Reject("no template"), SystemExit(3), asyncio.CancelledError()])
async def test_a_callback_that_fails_is_counted_and_changes_nothing(fault: BaseException) -> None:
    def fails(_order: Order, _result: Result) -> ChildJob | None:
        raise fault

    registry, _ = with_callback(fails)
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": 7}, **ASKS)
        await harness.until_quiet()
        assert told(harness).callbacks_failed == 1
        assert replies(harness)[0]["status"] == "succeeded"
        assert not harness.broker.dead


async def test_an_invalid_payload_has_no_callback_and_a_reply() -> None:
    registry, children = with_callback(tell)
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": "x", "to": "me"}, **ASKS)
        await harness.until_quiet()
        assert replies(harness)[0]["reason"] == "invalid_payload"
    assert not children


async def test_one_that_never_ran_is_told_of_as_well() -> None:
    registry, children = with_callback(tell)
    async with harness_of(registry) as harness:
        late = round((harness.clock.now() - 1) * 1000)
        harness.publish("job", {"id": 7, "to": "me"}, id="a", headers={"x-worker-deadline": late}, **ASKS)
        await harness.until_quiet()
        assert [(reply["reason"], reply["attempts"]) for reply in replies(harness)] == [("expired", 0)]
    assert [(child_id, payload["result"]["reason"]) for child_id, payload in children] == [("a/callback", "expired")]


async def test_a_callback_that_would_be_malformed_is_not_published() -> None:
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    registry, children = with_callback(lambda _order, _result: ChildJob("callback", "told", deep))
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": 7})
        await harness.until_quiet()
        assert told(harness).callbacks_failed == 1
        assert not harness.broker.dead
    assert not children


async def test_a_serializer_that_fails_changes_nothing_for_a_job_that_is_done() -> None:
    class Bad(BaseModel):
        id: int

        @computed_field
        def total(self) -> int:
            raise KeyError("total")

    async with harness_of(ends_as(lambda: Bad(id=1))) as harness:
        harness.publish("job", **ASKS)
        await harness.until_quiet()
        (reply,) = replies(harness)
        assert (reply["status"], reply["value"]) == ("succeeded", None)
        assert "which cannot travel as JSON" in reply["detail"]
        assert not harness.broker.dead


async def test_a_drain_while_a_callback_is_not_confirmed_leaves_no_dead_letter_behind_it() -> None:
    registry, _ = with_callback(tell, raising(Reject("no")))
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": 7, "to": "me"})
        harness.broker.refusing.add("jobs")
        await let_run()
        assert harness.pipeline.held == 1
        harness.pipeline.stop_starting()
        await harness.broker.stop_consuming()
        harness.pipeline.give_back()
        harness.pipeline.settler.give_up()
        await let_run()
        assert not harness.broker.dead
        assert len(harness.broker.messages("jobs")) == 1


async def test_a_callback_into_a_queue_that_is_not_there_holds_nothing_up() -> None:
    registry, _ = with_callback(lambda _order, _result: ChildJob("c", "t", queue="nowhere"))
    async with harness_of(registry) as harness:
        harness.publish("job", {"id": 7})
        await harness.until_quiet()
        assert told(harness).callbacks_failed == 1


async def test_a_killer_has_a_reply_and_its_validator_is_not_tried_again() -> None:
    tried: list[int] = []

    class Killer(BaseModel):
        id: int

        @field_validator("id")
        @classmethod
        def kills(cls, value: int) -> int:
            tried.append(value)
            return value

    registry = Registry()

    async def handler(order: Any) -> None:
        return None

    handler.__annotations__["order"] = Killer
    registry.handler("job", callback=lambda _order, _result: ChildJob("c", "t"))(handler)
    job = Job("a", "job", b"", {"id": 1}, 0.0, properties=Properties(reply_to="replies.shop"))
    harness = harness_of(registry)
    async with harness:
        pipeline = harness.pipeline
        dead = DeadLetter("crashed_worker", "a worker died", 1)
        attempt = Attempt.without_run(job, Rejected("crashed_worker"))
        messages = pipeline._conclusions.announcements.of(dead, attempt, registry.find("job"), may_validate=False)
    assert [message.queue for message in messages] == ["replies.shop"]
    assert not tried


async def test_many_replies_at_once() -> None:
    async with harness_of(ends_as(lambda: 1)) as harness:
        for number in range(50):
            harness.publish("job", id=f"{number}", reply_to="replies.shop", correlation_id=f"c-{number}")
        await harness.until_quiet()
        found: list[Message] = harness.broker.messages("replies.shop")
        assert {
            message.properties.correlation_id for message in found if isinstance(message.properties, Properties)
        } == {f"c-{number}" for number in range(50)}
        await asyncio.sleep(0)
