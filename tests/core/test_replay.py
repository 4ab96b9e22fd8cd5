"""The copy that goes back to the work queue: what it keeps, what it forgets, what it must not believe."""

from __future__ import annotations

import pytest

from worker.core.finished import Finished
from worker.core.job import DecodeRules, Job, decode
from worker.core.message import Message, Outgoing, Properties, Undecodable
from worker.core.replay import NotReplayable, replay_copy

BODY = b'{ "n" : 1 }'
STEPS = '{"user":[{"id":1}]}'
LETTER = Properties(
    type="order.sync",
    message_id="copy-1",
    content_type="application/json",
    correlation_id="c",
    reply_to="replies.me",
    expiration="5",
    priority=3,
    timestamp=17,
    app_id="shop",
    user_id="worker",
    headers={
        "tenant": "t-1",
        "traceparent": "00-1-2-01",
        "x-death": [{"queue": "jobs"}],
        "x-delivery-count": 2,
        "x-worker-id": "job-1",
        "x-worker-attempt": 16,
        "x-worker-snoozes": 4,
        "x-worker-first-seen": 1000,
        "x-worker-not-before": 1000,
        "x-worker-deadline": 1000,
        "x-worker-steps": STEPS,
        "x-worker-history": ["16 2026-01-01T00:00:00Z 1.000s http_status"],
        "x-worker-reason": "attempts_exhausted",
        "x-worker-detail": "503",
        "x-worker-raw": "AA==",
    },
)


def replay(message: Message, *, believed: bool = True) -> Outgoing:
    return replay_copy(message, queue="jobs", job_id="job-1", copy_id="copy-2", believed=believed)


def test_the_copy_keeps_the_job_and_starts_it_again() -> None:
    copy = replay(Message(BODY, LETTER))
    assert (copy.queue, copy.message.body) == ("jobs", BODY)
    assert copy.message.properties == Properties(
        type="order.sync",
        message_id="copy-2",
        content_type="application/json",
        correlation_id="c",
        reply_to="replies.me",
        priority=3,
        timestamp=17,
        app_id="shop",
        headers={
            "tenant": "t-1",
            "traceparent": "00-1-2-01",
            "x-worker-id": "job-1",
            "x-worker-attempt": 1,
            "x-worker-steps": STEPS,
            "x-worker-history": ["16 2026-01-01T00:00:00Z 1.000s http_status"],
        },
    )


def test_a_worker_reads_it_as_a_young_job_with_finished_steps() -> None:
    message = replay(Message(BODY, LETTER)).message
    assert isinstance(message.properties, Properties)
    arrived = Message(message.body, Properties(type="t", user_id="worker", headers=message.properties.headers))
    job = decode(arrived, DecodeRules(frozenset({"worker"})), now=5e9, fresh_id="fresh")
    assert isinstance(job, Job)
    assert (job.id, job.attempt, job.snoozes, job.first_seen) == ("job-1", 1, 0, 5e9)
    assert (job.deadline, job.wait_deadline, job.not_before) == (None, None, None)
    assert job.steps == {"user": Finished({"id": 1})}


def test_steps_that_a_stranger_claims_do_not_come_back_under_our_name() -> None:
    copy = replay(Message(BODY, LETTER), believed=False)
    assert isinstance(copy.message.properties, Properties)
    assert copy.message.properties.headers == {
        "tenant": "t-1",
        "traceparent": "00-1-2-01",
        "x-worker-id": "job-1",
        "x-worker-attempt": 1,
    }


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (Message(BODY, Undecodable(b"\xff", "headers: not UTF-8")), "cannot be read: headers: not UTF-8"),
        (Message(b"", LETTER, announced=20 << 20), "20971520 bytes is too large"),
    ],
)
def test_what_cannot_be_copied_whole_is_refused(message: Message, said: str) -> None:
    with pytest.raises(NotReplayable, match=said):
        replay(message)
