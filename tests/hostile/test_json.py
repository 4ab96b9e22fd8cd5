"""The JSON corpus: each vector is read, or its fault named in words of ours; nothing escapes, nothing drags."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from typing import Final

import pytest

from tests.hostile.json_corpus import Vector, read_corpus
from worker.core.job import DecodeRules, Job, Malformed, decode
from worker.core.message import Message, Properties

CORPUS: Final = read_corpus()
RULES: Final = DecodeRules(frozenset())
MIB: Final = 1 << 20
SECONDS: Final = 0.1
"""Longest time of one body, on this thread: nobody else gets the loop meanwhile."""

MEMORY: Final = 32 * MIB
"""What 100,000 values may take, the largest that a body may hold."""

OURS: Final = re.compile(
    r"not UTF-8 at byte \d+|starts with a byte order mark|more than (?:64 levels|10000 names|100000 values)"
    r"|a name stands twice in one object|an integer beyond 64 bits|a number too large for a double|a lone surrogate"
    r"|(?:NaN|-?Infinity) is not JSON|not JSON: [A-Z][A-Za-z\\',: ]+ at character \d+"
)
"""Every detail there is: nothing of a body has room in it."""

SAMPLE: Final = (
    rb' {"url" : "http://a/\u00e9\ud83d\ude00", "n": [-1.5e+3, true, null, {}], "t": "' + "é😀".encode() + b'"}'
)


def read(body: bytes) -> Job | Malformed:
    return decode(Message(body, Properties(type="http", message_id="m")), RULES, now=0.0, fresh_id="fresh")


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(CORPUS) >= 250
    assert sum(not vector.fault for vector in CORPUS) >= 50
    assert len({vector.body for vector in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("vector", CORPUS, ids=str)
def test_it_is_read_or_its_fault_is_named(vector: Vector) -> None:
    found = read(vector.body)
    if not vector.fault:
        assert isinstance(found, Job)
        assert found.body == vector.body
        assert json.dumps(found.payload) == json.dumps(json.loads(vector.body))
        return
    assert isinstance(found, Malformed)
    assert found.reason == "malformed"
    assert found.detail.startswith(vector.fault)
    assert OURS.fullmatch(found.detail)


def cheapest(body: bytes) -> float:
    spent = []
    for _ in range(3):
        began = time.thread_time()  # of this thread alone: what else the machine does is no fault of the reader's
        read(body)
        spent.append(time.thread_time() - began)
        if spent[-1] < SECONDS / 4:
            break
    return min(spent)


def test_none_holds_up_the_loop() -> None:
    slow = {str(vector): took for vector in CORPUS if (took := cheapest(vector.body)) > SECONDS}
    assert slow == {}


@pytest.mark.parametrize("vector", [one for one in CORPUS if len(one.body) > 50_000], ids=str)
def test_memory_stays_within_bounds(vector: Vector) -> None:
    tracemalloc.start()
    try:
        read(vector.body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("length", range(1, len(SAMPLE)))
def test_a_sample_cut_off_anywhere_is_no_json(length: int) -> None:
    found = read(SAMPLE[:length])
    assert isinstance(found, Malformed)
    assert re.match("not JSON|not UTF-8", found.detail)
    assert OURS.fullmatch(found.detail)


def test_the_whole_sample_is_read() -> None:
    assert isinstance(read(SAMPLE), Job)


@pytest.mark.parametrize("body", [b"1" * (MIB + 1), b"[" * (MIB + 1), b"\xff" * (16 * MIB)])
def test_what_is_larger_than_a_body_may_be_is_not_even_looked_at(body: bytes) -> None:
    found = read(body)
    assert isinstance(found, Malformed)
    assert (found.reason, found.detail) == ("too_large", f"a body of {len(body)} bytes, the limit is {MIB}")
