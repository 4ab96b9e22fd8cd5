"""Copies: what they keep, lose and gain; what they drop when the header is too large, and in which order."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core import finished
from worker.core.copies import (
    HISTORY_LIMIT,
    CopyRules,
    TooManyHeaders,
    dead_copy,
    forgets,
    history_entry,
    malformed_copy,
    suspect_copy,
    wait_copy,
)
from worker.core.finished import Element, Elements, Finished, Step, decode_steps, digest
from worker.core.job import DecodeRules, Job, Malformed, decode
from worker.core.message import Message, Outgoing, Properties, Undecodable
from worker.core.policy import DeadLetter, Park
from worker.core.topology import Topology
from worker.core.wire_size import entry_size, header_frame_size

NOW = 1_700_000_000.0
MS = 1_700_000_000_000
RULES = CopyRules(Topology("jobs"))
PARK = Park(75.0, 5, 3, 2, "retry")
LETTER = DeadLetter("http_status", "status 404", 4)

OWN = {"tenant": "7", "traceparent": "00-1", "x-job-type": "t", "x-retries": 1, "nested": {"a": [1, "b"]}}
THE_BROKERS = {
    "CC": ["a"],
    "BCC": ["b"],
    "x-death": [{"queue": "jobs"}],
    "x-deathly": 1,
    "x-first-death-queue": "jobs",
    "x-first-death-reason": "expired",
    "x-last-death-exchange": "",
    "x-delivery-count": 3,
    "x-acquired-count": 4,
    "x-opt-anything": "1",
}
THE_WORKERS = {"x-worker-id": "forged", "x-worker-attempt": 99, "x-worker-steps": "{}", "x-worker-unheard-of": 1}
PROPERTIES = Properties(
    type="t",
    message_id="m-1",
    content_type="application/json",
    correlation_id="c-1",
    reply_to="replies.1",
    expiration="60000",
    priority=3,
    timestamp=1_600_000_000,
    app_id="shop",
    user_id="guest",
    headers=OWN | THE_BROKERS | THE_WORKERS,
)
JOB = Job(
    "job-1",
    "t",
    b'{ "a":\t1}\r\n',
    {"a": 1},
    first_seen=NOW - 100.0004,
    attempt=4,
    snoozes=2,
    interruptions=1,
    wait_deadline=NOW + 500,
    steps={"user": Finished({"id": 7}), "mail": Finished(kept=False)},
    history=("1 failed", "2 failed", "3 failed"),
    properties=PROPERTIES,
)
KEPT = replace(PROPERTIES, message_id="fresh", expiration=None, user_id=None)
"""The properties of every copy, but for the headers."""

TRAVELS = {
    "x-worker-id": "job-1",
    "x-worker-first-seen": MS - 100_000,
    "x-worker-deadline": MS + 500_000,
    "x-worker-steps": '{"user":[{"id":7}],"mail":[]}',
    "x-worker-history": ["1 failed", "2 failed", "3 failed"],
}


def park(job: Job, rules: CopyRules = RULES, park: Park = PARK) -> Outgoing:
    return wait_copy(job, park, copy_id="fresh", due=NOW + park.delay, rules=rules)


def bury(job: Job, rules: CopyRules = RULES, letter: DeadLetter = LETTER) -> Outgoing:
    return dead_copy(job, letter, copy_id="fresh", rules=rules)


def isolate(job: Job, rules: CopyRules = RULES) -> Outgoing:
    return suspect_copy(job, copy_id="fresh", rules=rules)


def headers_of(copy: Outgoing) -> dict[str, Any]:
    assert isinstance(copy.message.properties, Properties)
    return dict(copy.message.properties.headers)


COPIES: dict[str, tuple[Outgoing, str, dict[str, Any]]] = {
    "a wait copy names the attempt that runs next": (
        park(JOB),
        "jobs.wait.60s",
        TRAVELS
        | {
            "x-worker-attempt": 5,
            "x-worker-snoozes": 3,
            "x-worker-interruptions": 2,
            "x-worker-not-before": MS + 75_000,
        },
    ),
    "a suspect runs the attempt it would have run": (
        isolate(replace(JOB, not_before=NOW + 0.5)),
        "jobs.suspect",
        TRAVELS
        | {
            "x-worker-attempt": 4,
            "x-worker-snoozes": 2,
            "x-worker-interruptions": 1,
            "x-worker-not-before": MS + 500,
        },
    ),
    "a suspect that may run has no start": (
        isolate(JOB),
        "jobs.suspect",
        TRAVELS | {"x-worker-attempt": 4, "x-worker-snoozes": 2, "x-worker-interruptions": 1},
    ),
    "a wait copy carries on how often a delivery was lost": (
        park(replace(JOB, crashes=2)),
        "jobs.wait.60s",
        headers_of(park(JOB)) | {"x-worker-crashes": 2},
    ),
    "a suspect carries it on too": (
        isolate(replace(JOB, crashes=2)),
        "jobs.suspect",
        headers_of(isolate(JOB)) | {"x-worker-crashes": 2},
    ),
    "a dead letter names the attempts made and why": (
        bury(JOB),
        "jobs.dead",
        TRAVELS
        | {
            "x-worker-attempt": 4,
            "x-worker-snoozes": 2,
            "x-worker-reason": "http_status",
            "x-worker-detail": "status 404",
        },
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copy(name: str) -> None:
    copy, queue, added = COPIES[name]
    assert copy == Outgoing(queue, Message(JOB.body, replace(KEPT, headers=OWN | added)))


def test_a_job_that_never_ran_is_dead_with_no_attempt_made() -> None:
    assert headers_of(bury(JOB, letter=replace(LETTER, attempts=0)))["x-worker-attempt"] == 0


def test_what_a_job_has_not_a_copy_has_not() -> None:
    bare = Job("a", "t", b"{}", {}, first_seen=NOW, properties=Properties(type="t"))
    assert set(headers_of(bury(bare, letter=DeadLetter("tls", "", 1)))) == {
        "x-worker-id",
        "x-worker-attempt",
        "x-worker-first-seen",
        "x-worker-snoozes",
        "x-worker-reason",
    }


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_wait_below_the_ladder_goes_straight_back(delay: float) -> None:
    assert park(JOB, park=replace(PARK, delay=delay)).queue == "jobs"


# Messages that are no job.

MALFORMED = Malformed("m-1", "malformed", "not JSON: Expecting value at character 0", 2)


def malformed(message: Message, fault: Malformed = MALFORMED, rules: CopyRules = RULES) -> Outgoing:
    return malformed_copy(message, fault, copy_id="fresh", rules=rules)


def test_a_message_that_is_no_job_is_kept_with_what_can_be_read() -> None:
    body = b"\xff\0\r\n"
    copy = malformed(Message(body, replace(PROPERTIES, content_encoding="gzip")))
    added = {
        "x-worker-id": "m-1",
        "x-worker-attempt": 2,
        "x-worker-reason": "malformed",
        "x-worker-detail": "not JSON: Expecting value at character 0",
    }
    # Without its encoding nobody could read the body again.
    expected = replace(KEPT, content_encoding="gzip", headers=OWN | added)
    assert copy == Outgoing("jobs.dead", Message(body, expected))


@pytest.mark.parametrize("size", [0, 3, 8192, 8193, 100_000])
def test_undecodable_properties_travel_raw_up_to_8_kib(size: int) -> None:
    raw = bytes(number % 256 for number in range(size))
    copy = malformed(Message(b"body", Undecodable(raw, "truncated")))
    headers = headers_of(copy)
    assert base64.b64decode(headers.pop("x-worker-raw"), validate=True) == raw[:8192]
    assert set(headers) == {"x-worker-id", "x-worker-attempt", "x-worker-reason", "x-worker-detail"}
    assert copy.message == Message(b"body", Properties(message_id="fresh", headers=headers_of(copy)))


# The budget.


def budget(copy: Outgoing) -> int:
    """The least budget that takes the copy, the user that the connection adds included."""
    properties = copy.message.properties
    assert isinstance(properties, Properties)
    return header_frame_size(replace(properties, user_id="u" * 255))


def within(header_budget: int) -> CopyRules:
    return replace(RULES, header_budget=header_budget)


def test_the_budget_is_the_frame_of_rabbitmq_less_8_kib() -> None:
    assert CopyRules(Topology("jobs")).header_budget == 131_072 - 8_192


def test_a_copy_that_just_fits_loses_nothing() -> None:
    whole = bury(JOB)
    assert bury(JOB, within(budget(whole))) == whole


def test_the_history_goes_first_and_the_oldest_of_it() -> None:
    letter = headers_of(bury(JOB, within(budget(bury(JOB)) - 1)))
    assert letter["x-worker-history"] == ["2 failed", "3 failed"]
    assert letter.keys() == headers_of(bury(JOB)).keys()


def test_the_detail_goes_next() -> None:
    without_history = budget(bury(replace(JOB, history=())))
    letter = headers_of(bury(replace(JOB, history=("x" * 120,) * 50), within(without_history)))
    assert headers_of(bury(JOB)).keys() - letter.keys() == {"x-worker-history"}
    letter = headers_of(bury(replace(JOB, history=("x" * 120,) * 50), within(without_history - 1)))
    assert headers_of(bury(JOB)).keys() - letter.keys() == {"x-worker-history", "x-worker-detail"}


def test_steps_go_last_and_the_largest_first() -> None:
    steps = {"small": Finished(1), "large": Finished("x" * 1000), "middle": Finished("x" * 100)}
    job = replace(JOB, steps=steps, history=())
    least = budget(park(job))
    assert not forgets(park(job, within(least)), job)
    copy = park(job, within(least - 1))
    assert forgets(copy, job)
    assert list(decode_steps(headers_of(copy)["x-worker-steps"])) == ["small", "middle"]
    nothing = park(job, within(budget(park(replace(job, steps={})))))
    assert "x-worker-steps" not in headers_of(nothing)
    assert forgets(nothing, job)


def test_a_step_that_is_only_marked_is_not_forgotten() -> None:
    job = replace(JOB, steps={"mail": Finished(kept=False)})
    assert decode_steps(headers_of(park(job))["x-worker-steps"]) == job.steps
    assert not forgets(park(job), job)


def test_finished_steps_stay_under_64_kib_whatever_the_budget() -> None:
    job = replace(JOB, steps={f"{number}": Finished("x" * 1000) for number in range(100)})
    text = headers_of(park(job, within(10_000_000)))["x-worker-steps"]
    assert 62 * 1024 < len(text) < 64 * 1024


def test_the_steps_of_a_wide_fan_out_are_not_written_anew_for_each_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    really = finished._text

    def count(step: Step) -> str:
        nonlocal written
        written += 1
        return really(step)

    monkeypatch.setattr("worker.core.finished._text", count)
    steps = {f"push/{number}": Finished({"status": 200, "id": "é" * 40}) for number in range(10_000)}
    copy = park(replace(JOB, steps=steps))
    assert 64_000 < len(headers_of(copy)["x-worker-steps"]) < 64 * 1024
    assert written <= 2 * len(steps)


def test_results_nobody_needs_give_way_to_the_history_and_the_detail() -> None:
    job = replace(JOB, steps={"user": Finished("x" * 1000, needed=False)})
    whole = budget(bury(job))
    letter = headers_of(bury(job, within(whole - 1)))
    assert {"x-worker-history", "x-worker-detail"} <= letter.keys()
    assert decode_steps(letter["x-worker-steps"]) == {"user": Finished(kept=False, size=1002)}
    assert not forgets(park(job, within(whole - 1)), job)


def test_history_and_detail_give_way_to_results_that_are_needed() -> None:
    job = replace(JOB, steps={"user": Finished("x" * 1000)})
    letter = headers_of(bury(job, within(budget(bury(replace(job, history=()))) - 1)))
    assert {"x-worker-history", "x-worker-detail"}.isdisjoint(letter)
    assert decode_steps(letter["x-worker-steps"]) == job.steps


def test_an_element_that_does_not_travel_is_forgotten_too() -> None:
    done = {number: Element(digest(b"item"), f"{number}" + "x" * 1000) for number in range(100)}
    job = replace(JOB, steps={"push": Elements(done)})
    assert forgets(park(job), job)
    few = replace(JOB, steps={"push": Elements({number: done[number] for number in range(10)})})
    assert not forgets(park(few), few)


def test_the_history_keeps_the_last_hundred() -> None:
    history = tuple(f"{number} failed" for number in range(HISTORY_LIMIT + 5))
    assert headers_of(park(replace(JOB, history=history)))["x-worker-history"] == list(history[5:])


def test_a_detail_is_cut() -> None:
    letter = headers_of(bury(JOB, letter=replace(LETTER, detail="é" * 5000)))
    assert letter["x-worker-detail"] == "é" * 500


def test_what_no_header_can_carry_is_replaced() -> None:
    # A handler's text with a lone surrogate could never be published: the delivery would be held for ever.
    assert headers_of(bury(JOB, letter=replace(LETTER, detail="a\ud800b")))["x-worker-detail"] == "a?b"
    assert history_entry(JOB, "failed: \udfff", started=NOW, seconds=0.1).endswith("failed: ?")


HUGE = {"huge": "x" * 130_000, "big": b"x" * 50_000, "small": "x"}
GREEDY = replace(JOB, properties=replace(PROPERTIES, headers=OWN | HUGE))


@pytest.mark.parametrize("make", [park, isolate], ids=["wait copy", "suspect"])
def test_headers_that_leave_no_room_are_named_the_largest_first(make: Any) -> None:
    with pytest.raises(TooManyHeaders) as refused:
        make(GREEDY)
    assert refused.value.names[:2] == ["huge", "big"]
    assert set(refused.value.names) == OWN.keys() | HUGE.keys()


def test_the_dead_letter_of_such_a_job_keeps_all_but_these_headers_and_names_them() -> None:
    letter = bury(GREEDY, letter=DeadLetter("too_large", "the headers are too large", 0))
    headers = headers_of(letter)
    assert headers.pop("x-worker-detail").startswith("headers left out: huge, big, ")
    assert headers == TRAVELS | {"x-worker-attempt": 0, "x-worker-snoozes": 2, "x-worker-reason": "too_large"}
    assert letter.message == Message(JOB.body, replace(KEPT, headers=headers_of(letter)))


def test_the_same_goes_for_a_message_that_is_no_job() -> None:
    letter = malformed(Message(b"x", GREEDY.properties))
    headers = headers_of(letter)
    assert headers.keys() == {"x-worker-id", "x-worker-attempt", "x-worker-reason", "x-worker-detail"}
    assert headers["x-worker-detail"].startswith("headers left out: huge, big, ")
    assert headers["x-worker-detail"].endswith("; not JSON: Expecting value at character 0")


def test_the_headers_left_out_are_named_even_where_steps_take_all_the_room() -> None:
    greedy = replace(GREEDY, steps={f"{number}": Finished("x" * 90) for number in range(300)})
    for header_budget in range(10_000, 10_100):
        letter = headers_of(bury(greedy, within(header_budget)))
        assert "x-worker-steps" in letter
        assert letter["x-worker-detail"].startswith("headers left out: huge, big, ")


def test_of_many_headers_left_out_ten_are_named_shortly() -> None:
    many = {f"{number:03}-{'n' * 200}": "x" * 1000 for number in range(150)}
    letter = bury(replace(JOB, properties=replace(PROPERTIES, headers=many)))
    detail = headers_of(letter)["x-worker-detail"]
    assert "and 140 more; status 404" in detail
    assert len(detail) <= 500


# Any job at all.

ENTRY = st.text(max_size=100)
TEXT = st.none() | st.text(st.characters(codec="ascii"), max_size=255)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ENTRY, inner, max_size=4),
    max_leaves=6,
)
NAMES = ENTRY | st.sampled_from([*THE_BROKERS, *THE_WORKERS, *TRAVELS])
SIZED = st.integers(0, 70_000).map("x".__mul__)
RESULTS = st.builds(Finished, st.none() | st.integers() | st.text() | SIZED) | st.just(Finished(kept=False))
JOBS = st.builds(
    Job,
    st.just("job-1"),
    st.just("t"),
    st.binary(max_size=20).map(lambda raw: b'"' + base64.b64encode(raw) + b'"'),
    st.none(),
    first_seen=st.integers(1, 4 * MS).map(lambda ms: ms / 1000),
    attempt=st.integers(1, 1_000_000),
    snoozes=st.integers(0, 1_000_000),
    interruptions=st.integers(0, 1_000_000),
    not_before=st.none() | st.integers(0, 4 * MS).map(lambda ms: ms / 1000),
    wait_deadline=st.none() | st.integers(0, 4 * MS).map(lambda ms: ms / 1000),
    steps=st.dictionaries(ENTRY, RESULTS, max_size=6),
    history=st.lists(st.text(max_size=120), max_size=HISTORY_LIMIT).map(tuple),
    properties=st.builds(
        Properties,
        type=st.just("t"),
        message_id=TEXT,
        content_type=TEXT,
        correlation_id=TEXT,
        reply_to=TEXT,
        expiration=st.none() | st.just("60000"),
        priority=st.none() | st.integers(0, 255),
        timestamp=st.none() | st.integers(0, 2**40),
        app_id=TEXT,
        user_id=st.sampled_from([None, "guest", "worker"]),
        headers=st.dictionaries(NAMES, VALUES | SIZED, max_size=6),
    ),
)
BUDGETS = st.sampled_from([24_576, 65_536 - 8192, 131_072 - 8192])
TRUSTING = DecodeRules(trusted_users=frozenset({"worker"}))


ROOM_OF_OURS = 3 * 1024
"""More than the properties and what the worker must add can take."""


def own_size(job: Job) -> int:
    return sum(entry_size(name, value) for name, value in job.headers.items())


def delivered(copy: Outgoing) -> Job:
    """The copy as it comes back, under the user of the connection that published it."""
    assert isinstance(copy.message.properties, Properties)
    message = replace(copy.message, properties=replace(copy.message.properties, user_id="worker"))
    job = decode(message, TRUSTING, now=NOW, fresh_id="other")
    assert isinstance(job, Job), job
    return job


@given(job=JOBS, header_budget=BUDGETS)
def test_a_wait_copy_fits_and_comes_back_as_the_job_or_is_refused(job: Job, header_budget: int) -> None:
    try:
        copy = park(job, within(header_budget))
    except TooManyHeaders:
        assert own_size(job) > header_budget - ROOM_OF_OURS
        return
    assert budget(copy) <= header_budget
    back = delivered(copy)
    assert (back.id, back.body, back.attempt, back.snoozes, back.interruptions) == ("job-1", job.body, 5, 3, 2)
    assert back.first_seen == job.first_seen
    assert (back.not_before, back.deadline, back.wait_deadline) == (NOW + 75, job.wait_deadline, job.wait_deadline)
    assert back.steps.items() <= job.steps.items()
    assert forgets(copy, job) == (back.steps != job.steps)
    assert back.history == job.history[len(job.history) - len(back.history) :]


@given(job=JOBS, header_budget=BUDGETS)
def test_a_suspect_comes_back_as_it_is(job: Job, header_budget: int) -> None:
    try:
        copy = isolate(job, within(header_budget))
    except TooManyHeaders:
        return
    assert budget(copy) <= header_budget
    back = delivered(copy)
    assert (back.attempt, back.snoozes, back.interruptions) == (job.attempt, job.snoozes, job.interruptions)
    assert (back.first_seen, back.not_before, back.deadline) == (job.first_seen, job.not_before, job.wait_deadline)


@given(job=JOBS, header_budget=BUDGETS, detail=st.text(st.characters(codec=None)))
def test_a_dead_letter_can_always_be_written(job: Job, header_budget: int, detail: str) -> None:
    copy = bury(job, within(header_budget), replace(LETTER, detail=detail))
    assert budget(copy) <= header_budget
    assert copy.message.body == job.body
    headers = headers_of(copy)
    assert headers["x-worker-reason"] == "http_status"
    assert headers["x-worker-id"] == "job-1"
    kept = {name for name in headers if not name.startswith("x-worker-")}
    lost = {name for name in job.headers if name not in THE_BROKERS} - kept
    assert not lost or headers["x-worker-detail"].startswith("headers left out: ")


@given(
    properties=JOBS.map(lambda job: job.properties) | st.builds(Undecodable, st.binary(max_size=20_000), st.text()),
    body=st.binary(max_size=50),
    header_budget=BUDGETS,
)
def test_the_dead_letter_of_any_message_can_be_written(
    properties: Properties | Undecodable, body: bytes, header_budget: int
) -> None:
    copy = malformed(Message(body, properties), rules=within(header_budget))
    assert budget(copy) <= header_budget
    assert copy.message.body == body
    assert headers_of(copy)["x-worker-reason"] == "malformed"
