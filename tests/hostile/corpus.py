"""The AMQP corpus: messages as data, each with what must become of it."""

from __future__ import annotations

import json
import time

from tests.hostile.case import Case
from tests.hostile.corpus_frames import frame_cases
from tests.hostile.corpus_headers import header_cases
from tests.hostile.corpus_properties import property_cases
from tests.hostile.judge import safe_id
from tests.hostile.pieces import properties
from tests.hostile.shots import Shot, marked


def corpus(url: str, queue: str, spare: str) -> list[Shot]:
    """The corpus for a worker of this queue; a job asks for `url` and its number."""
    name, now = queue.encode(), time.time_ns() // 1_000_000
    cases = property_cases(name) | header_cases(name, spare.encode(), now) | frame_cases()
    return [_shot(what, at, case, url) for at, (what, case) in enumerate(cases.items())]


def _shot(name: str, at: int, case: Case, url: str) -> Shot:
    values: dict[str, bytes | int | None] = {
        "type": b"http",
        "message_id": f"case-{at}".encode(),
        "content_type": b"application/json",
        "user_id": b"guest" if case.trusted else None,
        **(case.values or {}),
    }
    given = {key: value for key, value in values.items() if value is not None}
    if case.headers is not None:
        given["headers"] = case.headers
    raw = properties(given) if case.raw is None else case.raw
    body = json.dumps({"url": f"{url}{at}"}).encode() + case.more.encode() if case.body is None else case.body
    message_id = given.get("message_id")
    return Shot(
        name,
        at,
        raw,
        body if case.body == b"" or case.announced is not None else marked(body, at),
        ends=frozenset(case.ends.split()),
        id=safe_id(message_id) if case.raw is None and isinstance(message_id, bytes) and message_id else None,
        copied=case.copied,
        trusted=case.trusted,
        part=case.part,
        announced=case.announced,
    )
