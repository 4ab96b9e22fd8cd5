"""Dead letters as they are understood, and a dead queue that is read without being changed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.amqp.contract import until_known
from worker.amqp.connecting import Access, Connected, Node, Refused, open_connection
from worker.amqp.dead import DeadQueue, read_letter
from worker.amqp.frames import WireProperties
from worker.amqp.publisher import Publisher
from worker.amqp.queues import passive_count, prepare
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


# --- understanding


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


def test_a_job_that_never_ran_died_at_its_first_delivery() -> None:
    headers = {"x-worker-reason": "invalid_payload", "x-worker-attempt": 0, "x-worker-first-seen": 1_500_000}
    assert letter(headers).died_at == 1500.0
    assert letter(headers | {"x-worker-snoozes": 2}).died_at is None


def test_a_wait_that_ended_is_no_death() -> None:
    deaths = [death("rejected", "jobs.suspect", 2000), death("expired", "jobs.wait.5s", 1000)]
    found = letter({"x-death": deaths, "x-worker-id": "job-1", "x-worker-attempt": 4})
    assert (found.id, found.reason, found.attempts, found.died_at) == ("job-1", "too_large", 3, 2000.0)


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


# --- reading


class Place:
    """A dead queue of its own with `n` letters, and ways to look at it."""

    def __init__(self, url: str) -> None:
        self.user = urlsplit(url).username or "guest"
        self.access = Access((Node(url, "broker", self.user),), name="test")
        self.topology = Topology(f"dead-{uuid.uuid4().hex[:8]}")

    async def put(self, *ids: str, body: bytes = b"{}") -> None:
        publisher = Publisher(self.access)
        for job in ids:
            headers = {"x-worker-id": job, "x-worker-reason": "tls"}
            properties = Properties(type="t", message_id=str(uuid.uuid4()), headers=headers)
            await publisher.publish(Outgoing(self.topology.dead_name, Message(body, properties)))
        await publisher.close()

    async def connect(self) -> Connected:
        return await open_connection(self.access, "dead")

    async def dead(self) -> DeadQueue:
        return DeadQueue(await self.connect(), self.topology, frozenset({self.user}))

    async def count(self) -> int | None:
        connected = await self.connect()
        try:
            return await passive_count(connected.amqp, self.topology.dead_name)
        finally:
            await connected.close()

    async def ids(self) -> list[str]:
        dead = await self.dead()
        found = [one.id for one in (await dead.read()).letters]
        await self.over(dead, len(found))
        return found

    async def over(self, dead: DeadQueue, left: int) -> None:
        """Close it, and see `left` letters in the queue: the broker needs a moment to have them all back."""

        async def back() -> bool:
            return await self.count() == left

        await dead.close()
        await until_known(back)


@pytest.fixture
async def place(rabbitmq: Any) -> AsyncIterator[Place]:
    found = Place(rabbitmq.url)
    connected = await found.connect()
    await prepare(connected.amqp, [found.topology.dead], "declare")
    yield found
    channel = await connected.amqp.channel()
    await channel.queue_delete(found.topology.dead_name)
    await connected.close()


async def test_reading_takes_nothing_and_keeps_the_order(place: Place) -> None:
    ids = [f"job-{number}" for number in range(20)]
    await place.put(*ids)
    for _ in range(4):
        assert await place.ids() == ids
    assert await place.count() == 20


async def test_letters_do_not_wear_out(place: Place) -> None:
    # More often than the 20 deliveries a quorum queue grants by default from 4.0 on.
    await place.put("job-1")
    for _ in range(25):
        assert await place.ids() == ["job-1"]


async def test_a_message_that_cannot_be_read_is_a_letter_too(place: Place) -> None:
    connected = await place.connect()
    channel = await connected.amqp.channel()
    content_type = WireProperties(b"\x80\x00\x01\xff", "not-in-it")
    await channel.basic_publish(b"1", routing_key=place.topology.dead_name, properties=content_type)  # type: ignore[arg-type]
    await connected.close()
    await place.put("job-1")
    dead = await place.dead()
    first, second = (await dead.read()).letters
    await place.over(dead, 2)
    assert (first.reason, first.detail) == ("malformed", "undecodable properties: content_type: not UTF-8")
    assert first.message.body == b"1"
    assert second.id == "job-1"
    assert await place.ids() == [first.id, "job-1"]


async def test_a_window_says_how_many_there_are(place: Place) -> None:
    await place.put("a", "b", "c")
    dead = await place.dead()
    reading = await dead.read(window=2)
    assert ([one.id for one in reading.letters], reading.total) == (["a", "b"], 3)
    await place.over(dead, 3)


async def test_bodies_are_kept_where_they_are_wanted(place: Place) -> None:
    await place.put("a", "b", body=b'"large"')
    dead = await place.dead()
    reading = await dead.read(keep_body=lambda one: one.id == "b")
    assert [one.message.body for one in reading.letters] == [b"", b'"large"']
    assert [one.message.size for one in reading.letters] == [7, 7]
    await dead.close()


async def test_only_what_is_taken_is_gone(place: Place) -> None:
    await place.put("a", "b", "c")
    dead = await place.dead()
    reading = await dead.read()
    await dead.take(reading.held[1])
    await dead.flush(reading.held[1])
    await place.over(dead, 2)
    assert await place.ids() == ["a", "c"]


async def test_letters_that_another_reader_holds_are_not_waited_for_for_ever(place: Place) -> None:
    await place.put("a", "b")
    first, second = await place.dead(), await place.dead()
    assert len((await first.read()).letters) == 2
    assert (await second.read()).letters == ()
    await first.close()
    await second.close()


async def test_a_queue_that_is_not_there_is_refused(rabbitmq: Any) -> None:
    nowhere = Place(rabbitmq.url)
    dead = await nowhere.dead()
    with pytest.raises(Refused, match=r"does not exist: is WORKER_QUEUE right\?"):
        await dead.read()
    await dead.close()
