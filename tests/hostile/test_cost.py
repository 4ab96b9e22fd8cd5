"""What the headers of one message may cost: nobody else gets the loop meanwhile."""

from __future__ import annotations

import time
from typing import Final

import pytest

from tests.hostile.pieces import KINDS, array, deep, properties, record, table, text
from worker.amqp.codec import decode_properties, encode_properties
from worker.core.copies import CopyRules, malformed_copy
from worker.core.job import DecodeRules, Job, Malformed, decode
from worker.core.message import Message, Properties
from worker.core.topology import Topology

RULES: Final = DecodeRules(frozenset({"worker"}))
COPIES: Final = CopyRules(Topology("jobs"))
SECONDS: Final = 0.05

TABLES: Final = {
    "118,000 voids": table({b"h": array(*[b"V"] * 118_000)}),
    "58,000 booleans": table({b"h": array(*[b"t\1"] * 58_000)}),
    "19,000 decimals": table({b"h": array(*[KINDS["D"]] * 19_000)}),
    "23,000 empty tables": table({b"h": array(*[record({})] * 23_000)}),
    "23,000 empty arrays": table({b"h": array(*[array()] * 23_000)}),
    "17,000 headers": table({str(one).encode(): b"V" for one in range(17_000)}),
    "one name 50,000 times": table({b"": b"V"}) * 50_000,
    "tables within each other": table({b"h": deep(b"F", 14_000)}),
    "brackets as finished steps": table({b"x-worker-steps": text(b"[" * 118_000)}),
    "digits as finished steps": table({b"x-worker-steps": text(b'{"a":[' + b"9" * 118_000 + b"]}")}),
    "12,000 finished steps": table(
        {b"x-worker-steps": text(b"{%b}" % b",".join(b'"%d":[]' % one for one in range(12_000)))}
    ),
    "a fan-out of a billion": table(
        {b"x-worker-steps": text(b'{"a":{"n":"' + b"/" * 80_000 + b'","h":"","v":[[1000000000]],"d":0}}')}
    ),
    "23,000 entries of history": table({b"x-worker-history": array(*[text(b"")] * 23_000)}),
}


def dead(raw: bytes, body: bytes) -> None:
    """The way of a message into the dead queue."""
    message = Message(body, decode_properties(raw))
    found = decode(message, RULES, now=1e9, fresh_id="fresh")
    malformed = found if isinstance(found, Malformed) else Malformed(found.id, "malformed", "for the test")
    copy = malformed_copy(message, malformed, copy_id="copy", rules=COPIES).message
    assert isinstance(copy.properties, Properties)
    assert len(encode_properties(copy.properties)) < COPIES.header_budget


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("user", [b"worker", b"mallory"])
def test_no_table_of_a_frame_holds_up_the_loop(name: str, user: bytes) -> None:
    raw = properties({"type": b"http", "message_id": b"m", "user_id": user, "headers": TABLES[name]})
    assert 60_000 < len(raw) < COPIES.header_budget + 8 * 1024
    spent = []
    for _ in range(3):
        began = time.thread_time()  # of this thread alone: what else the machine does is no fault of ours
        dead(raw, b"{}")
        spent.append(time.thread_time() - began)
    assert min(spent) < SECONDS


def test_what_is_tried_is_a_job_where_it_can_be_read() -> None:
    raw = properties({"type": b"http", "headers": TABLES["118,000 voids"]})
    assert isinstance(decode(Message(b"{}", decode_properties(raw)), RULES, now=1e9, fresh_id="fresh"), Job)
