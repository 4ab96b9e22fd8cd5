"""The judge sees each broken promise, and none where there is none; without a broker."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from tests.hostile.judge import Evidence, judge
from tests.hostile.pieces import array, properties, record, table, text, whole
from tests.hostile.shots import Shot
from tests.hostile.wire import Answer, Taken

JOB = Shot("job", 1, properties({"type": b"http", "message_id": b"m1"}), b'{"url":1}', id="m1")
BAD = Shot("bad", 2, properties({"message_id": b"m2"}), b"{", frozenset({"malformed"}), id="m2")
RAW = Shot("raw", 3, b"\x20\0" + b"\0\0\0\4\1\xffL\2", b"raw")
COPIED = Shot("copied", 4, b"\0\0", b"copied", copied=True)
TWINS = [Shot(f"twin {number}", number, b"\0\0", b"") for number in (5, 6)]
SHOTS = [JOB, BAD, RAW, COPIED, *TWINS]

OURS = {b"x-worker-reason": text(b"malformed"), b"x-worker-attempt": whole(0)}


def letter(body: bytes, id: bytes, **more: bytes) -> Taken:
    entries = {**OURS, b"x-worker-id": text(id), **{f"x-{name}".encode(): value for name, value in more.items()}}
    return Taken(properties({"headers": table(entries)}), body)


REWRITTEN = {"worker-raw": text(base64.b64encode(RAW.raw.replace(b"L\2", b"l\1")))}
GOOD = {
    "bad": letter(b"{", b"m2"),
    "raw": letter(b"raw", b"fresh", **REWRITTEN),
    "copied": letter(b"copied", b"fresh"),
    "twin 5": letter(b"", b"fresh"),
    "twin 6": letter(b"", b"fresh"),
}


def kinds(
    letters: Mapping[str, Taken | None] | None = None,
    *,
    more: tuple[Taken, ...] = (),
    effects: Mapping[int, int] | None = None,
    copies: Mapping[bytes, int] | None = None,
    answers: Mapping[str, Answer] | None = None,
) -> set[str]:
    """What the judge says when these letters, requests, copies and answers differ from what is right."""
    changed = {**GOOD, **(letters or {})}
    return judge(
        Evidence(
            [(shot, (answers or {}).get(shot.name, "confirmed")) for shot in SHOTS],
            [one for one in changed.values() if one is not None] + list(more),
            {b"copied": 1} if copies is None else copies,
            {1: 1} if effects is None else effects,
            [],
        )
    ).kinds


def test_all_is_well() -> None:
    assert kinds() == set()
    assert kinds({"bad": None}, answers={"bad": "refused"}) == {"wrong end"}  # of that one it was not foreseen
    assert kinds({"raw": None}, answers={"raw": "refused"}) == set()


BY_THE_BROKER = Taken(
    properties({"headers": table({b"x-death": array(record({b"reason": text(b"expired")}))})}), RAW.body
)
NO_REASON = Taken(properties({"headers": table({b"x-worker-id": text(b"m2"), b"x-worker-attempt": whole(0)})}), b"{")


def test_the_brokers_own_dead_letters_have_their_reason_from_it() -> None:
    assert kinds({"raw": BY_THE_BROKER}) == set()
    assert kinds({"bad": Taken(BY_THE_BROKER.raw, b"{")}) == {"wrong end"}


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (kinds({"bad": None}), "lost"),
        (kinds(effects={}), "lost"),
        (kinds({"twin 5": None}), "lost"),
        (kinds(effects={1: 2}), "twice"),
        (kinds(more=(GOOD["bad"],)), "twice"),
        (kinds(more=(GOOD["twin 5"],)), "twice"),
        (kinds({"bad": letter(b"", b"m2")}), "lost"),
        (kinds(more=(letter(b"of nobody", b"m2"),)), "altered"),
        (kinds({"raw": letter(b"raw", b"fresh", **{"worker-raw": text(base64.b64encode(b"\x20\0"))})}), "altered"),
        (kinds({"bad": NO_REASON}), "no reason"),
        (kinds({"bad": letter(b"{", b"m2", **{"worker-reason": text(b"odd")})}), "no reason"),
        (kinds({"bad": letter(b"{", b"m2", **{"worker-reason": text(b"expired")})}), "wrong end"),
        (kinds({"bad": letter(b"{", b"forged")}), "id"),
        (kinds({"bad": letter(b"{", b"m2", **{"worker-attempt": whole(7)})}), "believed"),
        (kinds({"bad": letter(b"{", b"m2", **{"delivery-count": whole(1)})}), "headers"),
        (kinds({"bad": None}, effects={1: 1, 2: 1}), "wrong end"),
        (kinds(effects={1: 1, 2: 1}), "both"),
        (kinds({"bad": None}, effects={1: 1, 2: 1}, answers={"bad": "refused"}), "ghost"),
        (kinds({"bad": None}, answers={"bad": "nack"}), "answer"),
        (kinds(copies={}), "copies"),
        (kinds(copies={b"copied": 2}), "copies"),
        (kinds(copies={b"copied": 1, b"{": 1}), "copies"),
        (kinds({"bad": Taken(b"\x20\0\0\0\0\2\1h", b"{")}), "unreadable"),
    ],
)
def test_a_broken_promise_is_seen(found: set[str], kind: str) -> None:
    assert kind in found
