"""What the figures hang on: the schedule, the name server, and how a run is read."""

from __future__ import annotations

import math
import struct
from collections import Counter

import pytest

from tests.benchmarks.isolation.names import answer_to
from tests.benchmarks.isolation.outage import Outage, labelled
from tests.benchmarks.isolation.publisher import Order, Stream, schedule
from tests.benchmarks.isolation.systems import Used
from tests.benchmarks.isolation.trial import Outcome, timeline

HEADER = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return HEADER + labels + b"\0" + struct.pack("!HH", kind, 1)


def outcome(*latencies: float) -> Outcome:
    return Outcome(len(latencies), len(latencies), sorted(latencies), 1.0, Used(0, 0), 0)


def test_each_job_is_due_at_its_own_moment() -> None:
    order = Order("", "", "", 100.0, 2.0, [Stream("a", "", 1.0, 0.5), Stream("b", "", 3.0, 0.0)])
    found = [(round(due - 100, 2), stream.name, number) for due, stream, number in schedule(order)]
    b = [(0.0, "b", 0), (0.33, "b", 1), (0.67, "b", 2), (1.0, "b", 3), (1.33, "b", 4), (1.67, "b", 5)]
    assert found == sorted([*b, (0.5, "a", 0), (1.5, "a", 1)])


@pytest.mark.parametrize("seconds", [0.0, 0.4, 0.5, 1.5, 1.51, 7.0])
def test_as_many_are_published_as_are_counted(seconds: float) -> None:
    stream = Stream("a", "", 1.0, 0.5)
    assert stream.count(seconds) == len(list(schedule(Order("", "", "", 0.0, seconds, [stream]))))


def test_a_name_has_its_address_and_nothing_else() -> None:
    known = {"b.test": "127.0.0.2"}
    found = answer_to(query("B.test", 1), known)
    assert found[:2] == HEADER[:2]
    assert found.endswith(bytes([127, 0, 0, 2]))
    assert struct.unpack("!HHHHHH", found[:12])[1:] == (0x8580, 1, 1, 0, 0)
    assert struct.unpack("!HHHHHH", answer_to(query("b.test", 28), known)[:12])[1:] == (0x8580, 1, 0, 0, 0)
    assert struct.unpack("!HHHHHH", answer_to(query("c.test", 1), known)[:12])[1:] == (0x8583, 1, 0, 0, 0)


def test_a_percentile_is_the_latency_so_many_do_not_exceed() -> None:
    hundred = outcome(*(n / 100 for n in range(1, 101)))
    assert (hundred.percentile(0.5), hundred.percentile(0.99)) == (0.5, 0.99)
    assert outcome(0.1).percentile(0.99) == 0.1


def test_jobs_that_never_end_are_the_slowest() -> None:
    found = outcome(*[0.1] * 97, math.inf, math.inf, math.inf)
    assert found.unended == 3
    assert found.percentile(0.5) == 0.1
    assert math.isinf(found.percentile(0.99))


def test_events_are_counted_from_the_trouble_on() -> None:
    lines = [{"event": event, "timestamp": f"1970-01-01T00:01:{second}.5Z"} for event, second in MOMENTS]
    assert timeline(lines, 65.0) == ["opened +0.5 s x2", "closed +2.5 s"]


MOMENTS = [("started", "01"), ("opened", "05"), ("opened", "06"), ("closed", "07")]


def test_retries_are_what_is_beyond_the_first_of_each_job() -> None:
    counted = Counter({"calls 2xx": 15, "calls timeout": 3, "callsign x": 9})
    calls = labelled(counted, "calls")
    assert calls == Counter({"2xx": 15, "timeout": 3})
    attempts = Counter({"succeeded": 15, "failed": 1, "snoozed": 40})
    found = Outage(15, 15, calls, attempts, Counter(), 0, 1.0, 0.5, [])
    assert (round(found.retries, 3), round(found.repeated_attempts, 3)) == (0.2, 0.067)
