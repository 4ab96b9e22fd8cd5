"""Messages that are no jobs: each ends in the dead queue with a reason, and no connection is lost over it."""

from __future__ import annotations

import base64

import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from tests.process.kit import RawProperties, Yard, eventually
from tests.raw_properties import header, long, short, tables
from worker.dev.target import Target

UNDECODABLE = {
    "content_type": b"\x80\0" + short(b"\xff"),
    "content_encoding": b"\x40\0" + short(b"\xc3"),
    "correlation_id": b"\x04\0" + short(b"\xed\xa0\x80"),
    "reply_to": b"\x02\0" + short(b"\xff"),
    "message_id": b"\0\x80" + short(b"\xff\xfe"),
    "type": b"\0\x20" + short(b"\xc3\x28"),
    "app_id": b"\0\x08" + short(b"\xff"),
    "cluster_id": b"\0\x04" + short(b"\xff"),
    "header name": header(b"V", b"\xff\xfe"),
    "header name in a table": header(b"F" + long(short(b"\xff") + b"V")),
    "tables 200 deep": header(tables(200)),
    "tables 2000 deep": header(tables(2000)),
}
"""What the broker passes on and a client cannot read: encoded properties, by what is wrong with them."""


def healthy(yard: Yard, target: Target) -> None:
    """The neighbours are done, each once, on the first connection."""
    (worker,) = yard.workers
    eventually(lambda: len([one for one in target.ledger() if one.ended]) >= len(target.ledger()) > 0, "answers")
    eventually(lambda: worker.ask("/jobs")[1].strip() == "[]", "nothing is in flight")
    assert worker.metrics()["worker_reconnects_total"] == 0
    assert worker.lines("session.lost") == []
    assert worker.lines("replica.died") == []
    assert worker.drain() == 0
    assert yard.left() == {}


def test_undecodable_properties_are_dead_lettered_and_harm_nobody(yard: Yard, target: Target) -> None:
    yard.declare()
    for name, raw in UNDECODABLE.items():
        yard.publish_raw(RawProperties(raw), name.encode())
        yard.publish("http", {"url": f"{target.url}/ok"}, f"beside {name}".replace(" ", "-"))
    worker = yard.start()

    letters = {letter.body.decode(): letter for letter in yard.letters(len(UNDECODABLE)).values()}
    eventually(lambda: len(target.ledger()) >= len(UNDECODABLE), "the neighbours are done")
    healthy(yard, target)

    assert letters.keys() == UNDECODABLE.keys()
    assert {letter.reason for letter in letters.values()} == {"malformed"}
    for name, letter in letters.items():
        assert base64.b64decode(letter.headers["x-worker-raw"]) == UNDECODABLE[name][: 8 * 1024]
        assert letter.detail.startswith("undecodable properties: ")
    assert sorted(one.key or "" for one in target.ledger()) == sorted(
        f"beside-{name.replace(' ', '-')}/request" for name in UNDECODABLE
    )
    assert yard.dead() == 0
    assert len(worker.lines("job.finished")) == 2 * len(UNDECODABLE)


def test_what_is_no_job_is_dead_lettered_with_its_reason(yard: Yard, target: Target) -> None:
    url = {"url": f"{target.url}/ok"}
    yard.declare()
    yard.publish("http", b'{"url": ', "broken-json")
    yard.publish("http", b"\xff\xfe", "no-text")
    yard.publish("http", b'{"url": NaN}', "nan")
    yard.publish("http", b"[" * 100_000, "deep-json")
    yard.publish("http", url, "encoded", content_encoding="gzip")
    yard.publish("http", {"url": "x" * 5000}, "large")
    yard.publish(None, url, "typeless")
    yard.publish("no.such.type", url, "unknown")
    yard.publish("http", {"uri": target.url}, "misspelt")
    yard.publish("http", url, "bad-start", headers={"x-worker-not-before": "tomorrow"})
    yard.publish("http", url, "innocent")
    wanted = {
        "broken-json": "malformed",
        "no-text": "malformed",
        "nan": "malformed",
        "deep-json": "too_large",
        "encoded": "malformed",
        "large": "too_large",
        "typeless": "no_type",
        "unknown": "unknown_type",
        "misspelt": "invalid_payload",
        "bad-start": "malformed",
    }
    yard.start(max_body="4KiB", backoff="50ms..100ms")

    letters = yard.letters(len(wanted))
    healthy(yard, target)
    assert {job: letter.reason for job, letter in letters.items()} == wanted
    assert letters["unknown"].headers["x-worker-attempt"] == 3
    assert len(letters["unknown"].headers["x-worker-history"]) == 3
    assert letters["broken-json"].headers["x-worker-attempt"] == 0
    assert letters["broken-json"].body == b'{"url": '
    assert "url" in letters["misspelt"].detail
    assert [one.key for one in target.ledger()] == ["innocent/request"]


def test_headers_that_leave_no_room_are_left_out_of_the_dead_letter(yard: Yard, target: Target) -> None:
    """120 KiB of headers fit into a frame, and what the worker has to add does not."""
    yard.declare()
    yard.publish("fails", {"a": 1}, "huge", headers={"mine": "x" * 123_000, "small": "kept"}, app_id="shop")
    yard.publish("http", {"url": f"{target.url}/ok"}, "innocent")
    yard.start(backoff="50ms..100ms")

    letter = yard.letters(1)["huge"]
    healthy(yard, target)
    assert letter.reason == "too_large"
    assert "mine" in letter.detail
    assert "mine" not in letter.headers
    assert (letter.body, letter.properties.app_id, letter.properties.type) == (b'{"a": 1}', "shop", "fails")


def test_17_mib_are_refused_without_being_held(yard: Yard, target: Target) -> None:
    yard.declare()
    try:
        yard.publish("http", bytes(17 << 20), "enormous")
    except (ChannelClosedByBroker, ConnectionClosedByBroker):
        pytest.skip("this broker takes no message of 17 MiB")
    yard.publish("http", {"url": f"{target.url}/ok"}, "innocent")
    yard.start()

    eventually(lambda: yard.dead() == 1, "the dead letter")
    healthy(yard, target)
    (letter,) = yard.take(f"{yard.queue}.dead")
    assert len(letter.body) == 17 << 20
    # The broker moved it, for the worker never had it: its own note says why.
    assert [(death["reason"], death["queue"]) for death in letter.headers["x-death"]] == [("rejected", yard.queue)]
