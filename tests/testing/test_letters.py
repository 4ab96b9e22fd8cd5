"""A dead letter as `worker dead show ID --json` prints it, run again as a replay runs it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from worker import Context, Registry, Reject
from worker.amqp.codec import decode_properties, encode_properties
from worker.amqp.dead import read_letter
from worker.cli.letters import as_record
from worker.core.message import Message, Properties, Undecodable
from worker.core.topology import Topology
from worker.testing import FakeTarget, JobResult, letter, replay_letter, run_job


def printed(*messages: Message, trusted: str = "worker") -> str:
    """What `worker dead show ID --json` prints."""
    letters = [read_letter(message, Topology("jobs"), frozenset({trusted})) for message in messages]
    return json.dumps([as_record(one) for one in letters], indent=2)


def properties_of(message: Message) -> Properties:
    assert isinstance(message.properties, Properties)
    return message.properties


class Shop:
    """Charges, then ships; ships wrongly until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.jobs: list[tuple[Any, ...]] = []
        self.target = FakeTarget()
        self.charge = self.target.on("POST", "https://pay.example.com/charge").answers(200)
        self.registry = Registry()
        self.registry.handler("order", attempts=3, backoff=(60, 60))(self._order)

    async def _order(self, order: dict[str, Any], context: Context) -> str:
        job = context.job
        self.jobs.append((job.id, job.attempt, job.headers.get("tenant"), job.body, len(job.history)))
        charged = await context.step("charge", self._charge, context)
        if not self.mended:
            raise KeyError("address")
        return f"shipped {order['n']}, {charged}"

    async def _charge(self, context: Context) -> str:
        return str((await context.request("POST", "https://pay.example.com/charge")).status)

    async def die(self) -> JobResult:
        return await run_job(
            self.registry, "order", {"n": 7}, id="o-7", headers={"tenant": "t-1"}, transport=self.target
        )


async def test_a_captured_letter_succeeds_once_the_bug_is_fixed_and_charges_nobody_again(tmp_path: Path) -> None:
    shop = Shop()
    dead = await shop.die()
    assert (dead.reason, dead.attempts, len(shop.charge.requests)) == ("attempts_exhausted", 3, 1)
    assert dead.dead_letter is not None
    text = printed(dead.dead_letter)
    file = tmp_path / "o-7.json"
    file.write_text(text)

    still = await replay_letter(shop.registry, file, transport=shop.target)
    assert (still.status, still.attempts, len(shop.charge.requests)) == ("dead", 3, 1)

    shop.mended = True
    shop.jobs.clear()
    for source in (text, file, str(file), letter(text), dead.dead_letter):
        result = await replay_letter(shop.registry, source, transport=shop.target)
        assert (result.status, result.attempts, result.value) == ("succeeded", 1, "shipped 7, 200")
    assert len(shop.charge.requests) == 1
    assert shop.jobs == [("o-7", 1, "t-1", b'{"n": 7}', 3)] * 5


async def test_what_nobody_vouches_for_is_not_taken_for_a_finished_step() -> None:
    shop = Shop()
    shop.mended = True
    dead = await Shop().die()
    assert dead.dead_letter is not None
    text = printed(dead.dead_letter, trusted="somebody else")
    result = await replay_letter(shop.registry, text, transport=shop.target)
    assert (result.status, len(shop.charge.requests)) == ("succeeded", 1)
    assert shop.jobs[0][-1] == 0


RECORD = {
    "id": "order-7",
    "type": "order",
    "reason": "attempts_exhausted",
    "detail": "16 attempts, the last: KeyError",
    "attempts": 16,
    "died_at": "2026-03-01T12:00:00Z",
    "message_id": "6f1c",
    "size": 7,
    "believed": True,
    "properties": {
        "type": "order",
        "message_id": "6f1c",
        "content_type": "application/json",
        "user_id": "guest",
        "headers": {
            "tenant": "t-1",
            "x-worker-id": "order-7",
            "x-worker-attempt": 16,
            "x-worker-first-seen": 1772366400000,
            "x-worker-deadline": 1772370000000,
            "x-worker-reason": "attempts_exhausted",
            "x-worker-steps": '{"charge":["200"]}',
            "x-worker-history": ["16 2026-03-01T12:00:00Z 0.100s failed: KeyError"],
        },
    },
    "json": {"n": 7},
}
"""As the command prints it."""


async def test_a_record_as_the_command_prints_it() -> None:
    shop = Shop()
    shop.mended = True
    result = await replay_letter(shop.registry, json.dumps([RECORD]), transport=shop.target)
    assert (result.status, result.value) == ("succeeded", "shipped 7, 200")
    assert shop.charge.requests == []
    assert shop.jobs == [("order-7", 1, "t-1", b'{"n":7}', 1)]
    assert properties_of(letter(json.dumps(RECORD))) == properties_of(letter(json.dumps([RECORD])))


@pytest.mark.parametrize(
    "body",
    [
        b'{"n":7}',
        b'{"n": 7}',
        b'{"n":7}\n',
        b'{"n":1,"n":7}',
        b'{"n":7.0}',
        b'{"n":"\\u00e9"}',
        '{"n":"é"}'.encode(),
        b'{"n":"\\ud800"}',
        b"[NaN]",
        b"not JSON",
        b"\xff\x00",
        b"",
        b"[" * 100_000,
    ],
)
def test_the_body_comes_back_byte_for_byte(body: bytes) -> None:
    assert letter(printed(Message(body, Properties(message_id="a")))).body == body


async def test_a_letter_that_is_malformed_stays_so() -> None:
    text = printed(Message(b'{"n":1,"n":7}', Properties(type="order", message_id="a")))
    result = await replay_letter(Shop().registry, text)
    assert (result.status, result.reason) == ("dead", "malformed")


def test_properties_and_headers_come_back_as_they_were() -> None:
    headers = {
        "text": "é",
        "number": -3,
        "float": 1.5,
        "yes": True,
        "none": None,
        "list": [1, "a", {"b": [2]}],
        "bytes": b"\xff\xfe",
        "binary": bytearray(b"\x00\xff"),
        "price": Decimal("12.50"),
    }
    written = Properties("order", "id-1", "application/json", None, "c-1", "replies.a", "1000", 4, 99, "shop", "worker")
    read = decode_properties(encode_properties(replace(written, headers=headers)))
    assert isinstance(read, Properties)
    found = properties_of(letter(printed(Message(b"1", read))))
    assert found == replace(written, headers={**headers, "x-worker-id": "id-1"})
    assert {name: type(value) for name, value in found.headers.items()} == {
        **{name: type(value) for name, value in headers.items()},
        "binary": bytes,
        "x-worker-id": str,
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not the JSON of a dead letter"),
        ("[1]", "not the JSON of a dead letter"),
        ('{"a": 1}', "not the JSON of a dead letter"),
        ("[]", r"0 letters where one is needed"),
        (
            json.dumps([RECORD, {**RECORD, "id": "b"}]),
            r"2 letters where one is needed: id= is one of \['order-7', 'b'\]",
        ),
        (json.dumps([{"id": "a", "reason": "tls"}]), "an entry of a list, without its body; save the output of"),
        (printed(Message(b"", Properties(message_id="a"), announced=20_000_000)), "too large to be shown"),
        (printed(Message(b"1", Undecodable(b"\x00", "truncated"))), "its properties cannot be read"),
    ],
)
async def test_what_cannot_be_replayed_says_why(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        await replay_letter(Registry(), text)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (Message(b"", Properties(message_id="a"), announced=20_000_000), "too large to be copied"),
        (Message(b"1", Undecodable(b"\x00", "truncated")), "its properties cannot be read: truncated"),
    ],
)
async def test_nor_can_a_message_that_is_none(message: Message, fault: str) -> None:
    with pytest.raises(ValueError, match=f"the letter cannot be replayed: .*{fault}"):
        await replay_letter(Registry(), message)


def test_one_of_several_is_chosen_by_its_id_or_its_messages() -> None:
    text = json.dumps([RECORD, {**RECORD, "id": "b", "message_id": "m-b", "json": {"n": 8}}])
    for chosen in ("b", "m-b"):
        assert letter(text, id=chosen).body == b'{"n":8}'
    with pytest.raises(ValueError, match="0 letters"):
        letter(text, id="c")


def test_a_file_that_is_not_there_is_no_letter() -> None:
    with pytest.raises(FileNotFoundError):
        letter("tests/no-such-letter.json")


def test_a_record_tells_the_bytes_only_where_the_json_does_not() -> None:
    compact, spaced = json.loads(
        printed(*(Message(body, Properties(message_id="a")) for body in (b'{"n":7}', b'{"n": 7}')))
    )
    assert "base64" not in compact
    assert spaced["json"] == {"n": 7}
    assert base64.b64decode(spaced["base64"]) == b'{"n": 7}'
    assert "header_types" not in compact


async def test_a_rejected_replay_is_dead_again() -> None:
    registry = Registry()

    @registry.handler("order")
    async def order(payload: Any) -> None:
        raise Reject("never")

    result = await replay_letter(registry, json.dumps(RECORD))
    assert (result.status, result.reason, result.detail) == ("dead", "rejected", "never")
