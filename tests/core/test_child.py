"""Child jobs: what is published for another job, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from worker.core.child import ChildJob
from worker.core.job import DecodeRules, Job, decode
from worker.core.message import Properties

PARENT = Job("order-7", "order", b"{}", {}, 0.0)
NOW = 1_700_000_000.0


def sent(child: ChildJob) -> Any:
    outgoing = child.message(PARENT, b'{"a":1}', queue="jobs", now=NOW, traceparent="00-trace")
    job = decode(outgoing.message, DecodeRules(frozenset({"worker"})), now=NOW, fresh_id="fresh")
    assert isinstance(job, Job), job
    return outgoing, job


def test_a_child_is_a_job_like_any_other() -> None:
    outgoing, job = sent(ChildJob("mail", "mail.send", headers={"tenant": "7"}))
    assert outgoing.queue == "jobs"
    assert (job.id, job.type, job.payload, job.attempt) == ("order-7/mail", "mail.send", {"a": 1}, 1)
    assert job.headers == {"traceparent": "00-trace", "tenant": "7"}
    assert (job.not_before, job.deadline) == (None, None)


def test_its_times_count_from_now_and_its_queue_may_be_another() -> None:
    outgoing, job = sent(ChildJob("mail", "mail.send", delay=60, deadline=90, queue="mails"))
    assert outgoing.queue == "mails"
    assert (job.not_before, job.deadline) == (NOW + 60, NOW + 90)


def test_an_id_that_gets_too_long_is_hashed() -> None:
    parent = Job("x" * 200, "order", b"", None, 0.0)
    assert ChildJob("mail", "t").id(parent).startswith("sha256-")
    properties = ChildJob("mail", "t").message(parent, b"1", queue="q", now=NOW, traceparent="").message.properties
    assert isinstance(properties, Properties)
    assert properties.message_id == ChildJob("mail", "t").id(parent)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": ""}, "a child job needs a name"),
        ({"type": ""}, "child job 'c': a type of 1 to 255 bytes is needed"),
        ({"type": "é" * 128}, "child job 'c': a type of 1 to 255 bytes is needed"),
        ({"delay": -1}, r"child job 'c': delay=-1: 0 s to 30 days are possible"),
        ({"delay": float("nan")}, r"child job 'c': delay=nan"),
        ({"delay": 31 * 86400}, r"child job 'c': delay=2678400"),
        ({"delay": 60, "deadline": 60}, "child job 'c': deadline=60: it must lie behind the delay"),
        ({"queue": ""}, "child job 'c': a queue name of 1 to 255 bytes is needed"),
        ({"queue": "q" * 256}, "child job 'c': a queue name of 1 to 255 bytes is needed"),
        ({"headers": {"x-worker-attempt": 1}}, "header 'x-worker-attempt' is the broker's or the worker's to write"),
        ({"headers": {"CC": ["jobs"]}}, "header 'CC' is the broker's or the worker's to write"),
        ({"headers": {"x-death": []}}, "header 'x-death' is the broker's"),
        ({"headers": {"a": {1, 2}}}, "header 'a': text, bytes, a number"),
        ({"headers": {"a": [{"b": object()}]}}, "header 'a': text, bytes, a number"),
        ({"headers": {"a": "\ud800"}}, "header 'a': text, bytes, a number"),
        ({"headers": {"a": 2**63}}, "header 'a': text, bytes, a number"),
        ({"headers": {"n" * 129: 1}}, "a name of at most 128 bytes of text is needed"),
        ({"headers": {7: 1}}, "header '7': a name of at most 128 bytes"),
        ({"headers": {"a": "x" * 40_000}}, "the headers are above 32768 bytes"),
    ],
)
def test_what_cannot_be_published_is_refused_when_it_is_made(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ChildJob(**{"name": "c", "type": "t"} | values)
