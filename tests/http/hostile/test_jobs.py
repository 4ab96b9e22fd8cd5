"""Hostile targets against real `http` jobs: the reason of the dead letter, in time, and nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.http.hostile.behaviour import GOOD, OK, says
from tests.http.hostile.bodies import GZIP_BOMB, packed
from tests.http.hostile.corpus import CORPUS, Certificates, stand
from tests.http.hostile.farm import Farm
from tests.http.hostile.test_corpus import LATE
from tests.http.targets import MakeEngine
from worker.core.report import AttemptReport
from worker.http.client import HttpTransport
from worker.http.handler import http_registry
from worker.runtime.context import job_gate
from worker.runtime.telemetry import Silent
from worker.testing import Harness, JobResult, run_job

SECONDS = 0.5
PATIENCE = 2.0
"""Real seconds without news after which the harness moves its clock: more than any of these requests takes."""


class Gauges(Silent):
    """Jobs and steps in flight, as the metrics count them, and how each job ended."""

    def __init__(self) -> None:
        self.jobs = self.steps = self.most = 0
        self.ends: dict[str, str] = {}

    def attempt_started(self, type: str) -> None:
        self.jobs += 1

    def attempt_finished(self, report: AttemptReport) -> None:
        self.jobs -= report.ran
        self.ends[report.id] = report.disposition

    def step_started(self) -> None:
        self.steps += 1
        self.most = max(self.most, self.steps)

    def step_ended(self) -> None:
        self.steps -= 1


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


@pytest.fixture
def run(make_engine: MakeEngine) -> Any:
    certificates = Certificates()
    transport = HttpTransport(make_engine(ssl_context=certificates.trusting()), gate=job_gate)

    async def run(payload: dict[str, Any], **options: Any) -> JobResult:
        return await run_job(http_registry(), "http", payload, transport=transport, patience=PATIENCE, **options)

    run.certificates = certificates  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("drips headers", "not_repeated"),
        ("drips a body", "not_repeated"),
        ("says nothing", "not_repeated"),
        ("1xx without end", "not_repeated"),
        ("headers without end", "not_repeated"),
        ("a header of 10 MB", "response_too_large"),
        ("a gzip bomb", "response_too_large"),
        ("a deflate bomb", "response_too_large"),
        ("a body without end", "response_too_large"),
        ("50,000 empty members", "not_repeated"),
        ("two different lengths", "not_repeated"),
        ("101 to websocket", "not_repeated"),
        ("status 999", "http_status"),
        ("closes after the request", "not_repeated"),
        ("reads nothing", "not_repeated"),
        ("an expired certificate", "tls"),
        ("a certificate of another name", "tls"),
        ("a handshake that hangs", "attempts_exhausted"),
        ("noise in place of a handshake", "attempts_exhausted"),
        ("TLS, cut without close_notify", "not_repeated"),
        ("a redirect: to itself", "http_status"),
        ("a redirect: to a private address", "blocked_address"),
        ("a redirect: slower than the deadline, all in all", "not_repeated"),
    ],
)
async def test_a_job_that_may_not_repeat_ends_with_its_reason(farm: Farm, run: Any, name: str, reason: str) -> None:
    """One that may not be repeated tells the most: `not_repeated` is what only MaybeSent becomes."""
    behaviour = next(one for one in CORPUS if one.name == name)
    target = stand(farm, run.certificates, behaviour)
    step: dict[str, Any] = {"url": target.url, "method": behaviour.method, "timeout": SECONDS}
    step |= {"redirects": behaviour.redirects, "retry": {"attempts": 1, "when": "unsent"}}
    if behaviour.body:
        step["text"] = behaviour.body[:900_000].decode()
    began = time.monotonic()
    done = await run(step, attempts=1)
    assert (done.reason, done.attempts) == (reason, 1)
    assert time.monotonic() - began < SECONDS + LATE
    assert len(target.ledger.requests) <= 1 + behaviour.redirects


async def test_nothing_stays_in_flight(farm: Farm, make_engine: MakeEngine) -> None:
    """Two at once: what hangs gives its place back, and a good one gets through behind all of them."""
    certificates = Certificates()
    names = ("says nothing", "drips headers", "1xx without end", "a gzip bomb", "closes at once", "drips a body")
    urls = [stand(farm, certificates, next(one for one in CORPUS if one.name == name)).url for name in names]
    port, _ = farm.open(says(GOOD))
    transport = HttpTransport(make_engine(), gate=job_gate)
    gauges = Gauges()
    harness = Harness(http_registry(), transport=transport, attempts=1, concurrency=2, steps=2, telemetry=gauges)
    async with harness:
        for number, url in enumerate([*urls, f"http://127.0.0.1:{port}/"]):
            harness.publish("http", {"url": url, "timeout": 0.3, "retry": {"attempts": 1}}, id=f"{number}")
        await harness.until_quiet(patience=PATIENCE)
        assert not harness.pipeline.running
    assert (gauges.jobs, gauges.steps, gauges.most) == (0, 0, 2)
    assert gauges.ends.pop(f"{len(urls)}") == "done"
    assert (len(gauges.ends), set(gauges.ends.values())) == (len(urls), {"dead"})


# --- JSON

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"a": 7}', 7),
        (b'{"a": %s}' % DEEP, None),
        (b'{"a": ' + b"9" * 1_000_000 + b"}", None),
        (b'{"a": NaN}', None),
        (b'{"a": 1e400}', None),
        (b'{"a": "\\ud800"}', None),
        (b'{"a": 1, "a": 2}', None),
        ('{"a": 1}'.encode("utf-16"), None),
        (b"\xef\xbb\xbf" + b'{"a": 1}', None),
        (b'{"a": "\xff"}', None),
        (b'{"a": 1', None),
        (b"", None),
        (b"[" + b"1," * 400_000 + b"1]", None),
    ],
    ids=lambda one: repr(one)[:20],
)
async def test_json_is_read_as_a_job_is_or_is_text(farm: Farm, run: Any, body: bytes, kept: Any) -> None:
    """What is no JSON that a job may hold is told as text: `save` and templates find nothing in it."""
    head = OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    port, ledger = farm.open(says(head + body))
    url = f"http://127.0.0.1:{port}/"
    steps = [
        {"id": "one", "url": url, "save": "json.a", "timeout": 5},
        {"id": "two", "url": url, "needs": ["one"], "method": "POST", "json": {"was": "{{ one }}"}, "timeout": 5},
    ]
    done = await run({"steps": steps}, attempts=1)
    assert (done.status, done.reason) == ("succeeded", None), done.detail
    assert done.value["one"] == kept
    assert len(ledger.requests) == 2


async def test_a_charset_that_lies_is_not_believed(farm: Farm, run: Any) -> None:
    body = "ü".encode() + b"\xff"
    head = OK + b"Content-Type: text/plain; charset=utf-16\r\nContent-Length: %d\r\n\r\n" % len(body)
    port, _ = farm.open(says(head + body))
    done = await run({"url": f"http://127.0.0.1:{port}/"}, attempts=1)
    assert done.value["request"]["text"] == "ü\ufffd"


async def test_a_packed_bomb_nobody_unpacks_is_text(farm: Farm, run: Any) -> None:
    port, _ = farm.open(says(packed(b"br", b"x" * 99)))
    done = await run({"url": f"http://127.0.0.1:{port}/"}, attempts=1)
    assert done.value["request"]["text"] == "x" * 99
    assert len(GZIP_BOMB) < 1 << 20


# --- Retry-After


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (b"-5", 1, 4),
        (b"0", 1, 4),
        (b"3", 3, 6),
        (b"1000000000", 3600, 3700),
        (b"9" * 5000, 3600, 3700),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 3600, 3700),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 1, 4),
        (b"garbage", 10, 25),
        (b"1e9", 10, 25),
        (b"", 10, 25),
        (b"\xff\xfe", 10, 25),
    ],
    ids=lambda one: repr(one)[:20],
)
async def test_retry_after_is_clamped(farm: Farm, run: Any, value: bytes, least: float, most: float) -> None:
    asked = _later(b"HTTP/1.1 429 X\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n")
    port, ledger = farm.open(asked)
    done = await run({"url": f"http://127.0.0.1:{port}/"}, attempts=1)
    assert (done.status, done.attempts, done.snoozes) == ("succeeded", 1, 1)
    assert least <= done.seconds <= most
    assert len(ledger.requests) == 2


def _later(first: bytes) -> Any:
    answers = [first, GOOD]

    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(answers.pop(0))

    return script
