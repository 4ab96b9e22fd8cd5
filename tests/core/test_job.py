"""The wire format, read: what each property means, which claims are believed, and what is no job at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.finished import Finished, decode_steps, encode_steps
from worker.core.job import (
    MAX_COUNT,
    DecodeRules,
    Job,
    Malformed,
    decode,
    safe_id,
)
from worker.core.message import Message, Properties, Undecodable
from worker.core.outcome import REASONS

NOW = 1_700_000_000.0
MS = 1_700_000_000_000
DAY = 86_400_000
RULES = DecodeRules(trusted_users=frozenset({"worker"}), max_body=1000)
PUBLISHED = Properties(type="t", message_id="m-1")
COPY = replace(PUBLISHED, user_id="worker")


def read(
    properties: Properties | Undecodable = PUBLISHED,
    body: bytes = b"{}",
    *,
    rules: DecodeRules = RULES,
    announced: int = -1,
) -> Job | Malformed:
    return decode(Message(body, properties, announced), rules, now=NOW, fresh_id="fresh")


def job_of(properties: Properties, body: bytes = b"{}", *, rules: DecodeRules = RULES) -> Job:
    found = read(properties, body, rules=rules)
    assert isinstance(found, Job), found
    return found


def published(**headers: Any) -> Properties:
    return replace(PUBLISHED, headers={f"x-worker-{name.replace('_', '-')}": value for name, value in headers.items()})


def copied(**headers: Any) -> Properties:
    return replace(published(**headers), user_id="worker")


def hashed(text: str) -> str:
    return f"sha256-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def test_the_smallest_message_is_a_job() -> None:
    properties = Properties(type="http")
    expected = Job("fresh", "http", b'{"a": 1}', {"a": 1}, first_seen=NOW, properties=properties)
    assert read(properties, b'{"a": 1}') == expected


TYPES: dict[str, tuple[Properties, str | None, str | None]] = {
    "the property": (Properties(type="a"), None, "a"),
    "the property before the header": (Properties(type="a", headers={"x-job-type": "b"}), "c", "a"),
    "the header": (Properties(headers={"x-job-type": "b"}), None, "b"),
    "the header before the default": (Properties(headers={"x-job-type": "b"}), "c", "b"),
    "the default": (Properties(), "c", "c"),
    "an empty property is none": (Properties(type="", headers={"x-job-type": "b"}), None, "b"),
    "an empty header is none": (Properties(headers={"x-job-type": ""}), "c", "c"),
    "a header that is no text is none": (Properties(headers={"x-job-type": 7}), "c", "c"),
    "nothing at all": (Properties(), None, None),
    "a header that is no text and no default": (Properties(headers={"x-job-type": b"b"}), None, None),
}


@pytest.mark.parametrize("name", TYPES)
def test_type(name: str) -> None:
    properties, default, expected = TYPES[name]
    found = read(properties, rules=replace(RULES, default_type=default))
    if expected is None:
        assert isinstance(found, Malformed)
        assert found.reason == "no_type"
        assert "WORKER_DEFAULT_TYPE" in found.detail
    else:
        assert isinstance(found, Job)
        assert found.type == expected


IDS = {
    "visible ASCII": ("order-7/!~", "order-7/!~"),
    "one character": ("a", "a"),
    "200 characters": ("a" * 200, "a" * 200),
    "201 characters": ("a" * 201, hashed("a" * 201)),
    "a space": ("a b", hashed("a b")),
    "a line feed": ("a\nb", hashed("a\nb")),
    "a NUL": ("\0", hashed("\0")),
    "DEL": ("a\x7f", hashed("a\x7f")),
    "an umlaut": ("ä", hashed("ä")),
    "a lone surrogate": ("\ud800", hashed("\ud800")),
}


@pytest.mark.parametrize("name", IDS)
def test_id(name: str) -> None:
    given_id, expected = IDS[name]
    assert safe_id(given_id) == expected
    assert job_of(replace(PUBLISHED, message_id=given_id)).id == expected
    assert job_of(copied(id=given_id)).id == expected


def test_a_hashed_id_can_stand_as_one() -> None:
    assert safe_id(hashed("ä")) == hashed("ä")


@pytest.mark.parametrize("message_id", [None, ""])
def test_a_message_without_an_id_gets_a_fresh_one(message_id: str | None) -> None:
    assert job_of(replace(PUBLISHED, message_id=message_id)).id == "fresh"


def test_a_copy_keeps_the_id_of_its_job() -> None:
    assert job_of(copied(id="job-1")).id == "job-1"
    assert job_of(copied()).id == "m-1"
    assert job_of(copied(id=7)).id == "m-1"


HISTORY = ["1 2026-01-01T00:00:00Z 0.100s failed: E"]
CLAIMS: dict[str, Any] = {
    "id": "job-1",
    "attempt": 4,
    "snoozes": 5,
    "interruptions": 6,
    "first_seen": MS - 1000,
    "steps": '{"user":[{"id":7}],"mail":[]}',
    "history": HISTORY,
}


def test_a_copy_of_ours_is_believed() -> None:
    job = job_of(copied(**CLAIMS))
    assert (job.id, job.attempt, job.snoozes, job.interruptions) == ("job-1", 4, 5, 6)
    assert job.first_seen == NOW - 1
    assert job.steps == {"user": Finished({"id": 7}), "mail": Finished(kept=False)}
    assert job.history == tuple(HISTORY)


@pytest.mark.parametrize("user", [None, "", "Worker", "guest", "worker "])
def test_nobody_else_is_believed(user: str | None) -> None:
    properties = replace(published(**CLAIMS), user_id=user)
    assert job_of(properties) == Job("m-1", "t", b"{}", {}, first_seen=NOW, properties=properties)


def test_whoever_the_operator_trusts_is_believed() -> None:
    rules = replace(RULES, trusted_users=frozenset({"worker", "old-worker"}))
    assert job_of(replace(published(**CLAIMS), user_id="old-worker"), rules=rules).attempt == 4


JUNK: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "true is no attempt": ({"attempt": True}, {"attempt": 1}),
    "text is no attempt": ({"attempt": "3"}, {"attempt": 1}),
    "a fraction is no attempt": ({"attempt": 2.0}, {"attempt": 1}),
    "no attempt is before the first": ({"attempt": 0}, {"attempt": 1}),
    "nor below zero": ({"attempt": -7}, {"attempt": 1}),
    "attempts end": ({"attempt": 10**18}, {"attempt": MAX_COUNT}),
    "true is no snooze": ({"snoozes": True}, {"snoozes": 0}),
    "a negative count is none": (
        {"snoozes": -1, "interruptions": -1, "crashes": -1},
        {"snoozes": 0, "interruptions": 0, "crashes": 0},
    ),
    "true is no crash": ({"crashes": True}, {"crashes": 0}),
    "true was never first seen": ({"first_seen": True}, {"first_seen": NOW}),
    "nor was zero": ({"first_seen": 0}, {"first_seen": NOW}),
    "nor was a fraction": ({"first_seen": 1.5}, {"first_seen": NOW}),
    "nor was the far future": ({"first_seen": 10**14}, {"first_seen": NOW}),
    "steps that are no text": ({"steps": {"a": [1]}}, {"steps": {}}),
    "steps that are no JSON": ({"steps": "{"}, {"steps": {}}),
    "steps that are no object": ({"steps": "[1]"}, {"steps": {}}),
    "steps nested beyond reason": ({"steps": "[" * 100_000}, {"steps": {}}),
    "a step of another form is none": ({"steps": '{"a":1,"b":[1,2],"c":[3]}'}, {"steps": {"c": Finished(3)}}),
    "a history that is no list": ({"history": "1 failed"}, {"history": ()}),
    "an entry that is no text": ({"history": [1, "x", None, b"y"]}, {"history": ("x",)}),
}


@pytest.mark.parametrize("name", JUNK)
def test_a_claim_of_another_form_counts_as_none(name: str) -> None:
    headers, expected = JUNK[name]
    job = job_of(copied(**headers))
    assert {field: getattr(job, field) for field in expected} == expected


def test_not_before_counts_from_anyone_and_its_age_counts_from_then() -> None:
    job = job_of(published(not_before=MS + 60_000))
    assert (job.not_before, job.first_seen) == (NOW + 60, NOW + 60)


def test_a_start_in_the_past_leaves_the_age_alone() -> None:
    job = job_of(published(not_before=MS - 60_000))
    assert (job.not_before, job.first_seen) == (NOW - 60, NOW)


def test_a_copy_that_waits_keeps_its_age() -> None:
    job = job_of(copied(not_before=MS + 60_000, first_seen=MS - 60_000))
    assert (job.not_before, job.first_seen) == (NOW + 60, NOW - 60)


def test_a_deadline_counts_from_anyone() -> None:
    job = job_of(published(deadline=MS + 5_000))
    assert (job.deadline, job.wait_deadline) == (NOW + 5, NOW + 5)


def test_a_deadline_in_the_past_is_a_deadline() -> None:
    assert job_of(published(deadline=0)).deadline == 0.0


def test_milliseconds_may_have_a_fraction_which_is_dropped() -> None:
    assert job_of(published(deadline=MS + 0.75)).deadline == NOW


EXPIRATIONS: dict[str, tuple[str | None, int | None, float | None]] = {
    "none": (None, None, None),
    "a minute": ("60000", None, NOW + 60),
    "nothing": ("0", None, NOW),
    "the longest the broker takes": ("4294967295", None, NOW + 4_294_967.295),
    "the deadline comes first": ("60000", MS + 5_000, NOW + 5),
    "the expiration comes first": ("5000", MS + 60_000, NOW + 5),
    "empty": ("", None, None),
    "no number": ("soon", None, None),
    "negative": ("-1", None, None),
    "digits of another script": ("٣", None, None),
    "more digits than the broker takes": ("9" * 255, None, None),
    "more digits than Python takes": ("9" * 5000, None, None),
}


@pytest.mark.parametrize("name", EXPIRATIONS)
def test_an_expiration_bounds_the_waiting_only(name: str) -> None:
    expiration, deadline, expected = EXPIRATIONS[name]
    properties = replace(published(**({} if deadline is None else {"deadline": deadline})), expiration=expiration)
    job = job_of(properties)
    assert job.wait_deadline == expected
    assert job.deadline == (None if deadline is None else deadline / 1000)


def test_an_expiration_counts_from_the_first_delivery() -> None:
    job = job_of(replace(published(not_before=MS + 60_000), expiration="1000"))
    assert job.wait_deadline == NOW + 61


def fault(properties: Properties | Undecodable, body: bytes = b"{}", announced: int = -1) -> tuple[str, str]:
    found = read(properties, body, announced=announced)
    assert isinstance(found, Malformed), found
    return found.reason, found.detail


NO_MOMENTS: list[Any] = [True, False, "1700000000000", -1, 10**14, float("nan"), float("inf"), [1], {}, b"1"]
MILLISECONDS = "must be a number of milliseconds since 1970"

MALFORMED: dict[str, tuple[Properties | Undecodable, bytes, str, str]] = {
    "undecodable properties": (Undecodable(b"\xff", "truncated"), b"{}", "malformed", "undecodable properties: trunc"),
    "no body": (PUBLISHED, b"", "malformed", "not JSON"),
    "no JSON": (PUBLISHED, b"{", "malformed", "not JSON"),
    "not UTF-8": (PUBLISHED, b"\xff", "malformed", "not UTF-8"),
    "NaN": (PUBLISHED, b"NaN", "malformed", "NaN is not JSON"),
    "no JSON although it says so": (replace(PUBLISHED, content_type="application/json"), b"x", "malformed", "not JSON"),
    "compressed": (replace(PUBLISHED, content_encoding="gzip"), b"{}", "malformed", "content_encoding is set"),
    "even as itself": (replace(PUBLISHED, content_encoding="identity"), b"{}", "malformed", "content_encoding is set"),
    "too large": (PUBLISHED, b" " * 999 + b"{}", "too_large", "a body of 1001 bytes, the limit is 1000"),
    "too large and no job anyway": (Properties(), b"x" * 1001, "too_large", "a body of 1001 bytes"),
    "a start 30 days and a millisecond ahead": (
        published(not_before=MS + 30 * DAY + 1),
        b"{}",
        "malformed",
        "header x-worker-not-before is more than 30 days ahead",
    ),
    "the same from whoever shares our user": (
        copied(not_before=MS + 30 * DAY + 1),
        b"{}",
        "malformed",
        "header x-worker-not-before is more than 30 days ahead",
    ),
    **{
        f"{name} {value!r}": (
            published(**{name: value}),
            b"{}",
            "malformed",
            f"header x-worker-{name.replace('_', '-')} {MILLISECONDS}",
        )
        for name in ("not_before", "deadline")
        for value in NO_MOMENTS
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    properties, body, reason, detail = MALFORMED[name]
    found_reason, found_detail = fault(properties, body)
    assert found_reason == reason
    assert found_detail.startswith(detail)


def test_thirty_days_ahead_is_not_too_far() -> None:
    assert job_of(published(not_before=MS + 30 * DAY)).not_before == NOW + 30 * 86_400


def test_a_copy_waits_as_long_as_its_handler_asked_for() -> None:
    assert job_of(copied(not_before=MS + 90 * DAY, first_seen=MS)).not_before == NOW + 90 * 86_400


def test_a_body_of_the_limit_is_not_too_large() -> None:
    assert job_of(PUBLISHED, b" " * 998 + b"{}").payload == {}


def test_a_body_that_was_only_announced_counts_by_what_was_announced() -> None:
    assert fault(PUBLISHED, b"", announced=20_000_000)[1].startswith("a body of 20000000 bytes")


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/json", "application/octet-stream"])
def test_json_is_tried_whatever_it_is_called(content_type: str | None) -> None:
    assert job_of(replace(PUBLISHED, content_type=content_type)).payload == {}


def test_an_empty_content_encoding_is_none() -> None:
    assert job_of(replace(PUBLISHED, content_encoding="")).payload == {}


def test_a_malformed_message_keeps_its_id_and_what_is_believed_of_its_attempts() -> None:
    assert read(copied(id="job-1", attempt=4), b"x") == Malformed("job-1", "malformed", read_detail(b"x"), 3)
    assert read(published(id="job-1", attempt=4), b"x") == Malformed("m-1", "malformed", read_detail(b"x"), 0)
    assert read(Undecodable(b"", "x")) == Malformed("fresh", "malformed", "undecodable properties: x", 0)


def read_detail(body: bytes) -> str:
    return fault(PUBLISHED, body)[1]


def test_a_job_shows_the_headers_of_its_publisher_only() -> None:
    properties = replace(COPY, headers={"tenant": "7", "x-worker-attempt": 2, "traceparent": "00"})
    assert job_of(properties).headers == {"tenant": "7", "traceparent": "00"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STEPS = st.dictionaries(st.text(), st.builds(Finished, JSON) | st.just(Finished(kept=False)), max_size=5)


@given(STEPS)
def test_steps_come_back_as_they_went(steps: dict[str, Finished]) -> None:
    assert decode_steps(encode_steps(steps)) == steps


TEXT = st.text(st.characters(codec=None), max_size=30)
SHORT = st.none() | TEXT | st.sampled_from(["60000", "worker", "9" * 255])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OURS = st.sampled_from([*(name.replace("_", "-") for name in CLAIMS), "not-before", "deadline", "reason", "detail"])
HEADERS = st.dictionaries(OURS.map("x-worker-{}".format) | st.just("x-job-type") | TEXT, VALUES, max_size=6)
ANY = st.builds(
    Properties,
    type=SHORT,
    message_id=SHORT,
    content_type=SHORT,
    content_encoding=st.none() | TEXT,
    correlation_id=SHORT,
    reply_to=SHORT,
    expiration=SHORT,
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    app_id=SHORT,
    user_id=st.just("worker") | SHORT,
    headers=HEADERS,
)


@given(
    properties=ANY | st.builds(Undecodable, st.binary(), st.text()),
    body=st.sampled_from([b"{}", b"[1]", b'"\\ud800"']) | st.binary(max_size=30),
    announced=st.sampled_from([-1, 0, 10**9]),
)
def test_any_message_is_a_job_or_names_its_fault(
    properties: Properties | Undecodable, body: bytes, announced: int
) -> None:
    found = read(properties, body, announced=announced)
    assert 0 < len(found.id) <= 200
    if isinstance(found, Job):
        assert found.attempt >= 1
        assert found.body == body
        assert found.type
    else:
        assert found.reason in REASONS
        assert found.attempts >= 0
