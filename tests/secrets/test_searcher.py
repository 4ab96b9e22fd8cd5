"""The search itself: it finds what is planted, in every form, and nothing that may be there."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import pytest
import structlog

from tests.secrets.canaries import Canaries, Sink, Whose, marks_in
from worker.ops.log import configure_logging
from worker.ops.metrics import Metrics

Form = Callable[[str], str]


def _base64_at(start: int) -> Form:
    return lambda value: base64.b64encode(b"u" * start + value.encode() + b"p").decode()


def _urlsafe_at(start: int) -> Form:
    return lambda value: base64.urlsafe_b64encode(b"\xff" * start + value.encode()).decode()


FORMS: Final[dict[str, Form]] = {
    "plain": lambda value: value,
    "upper": str.upper,
    "json": lambda value: json.dumps({"deep": [f"\u00fc{value}"]}),
    "percent": lambda value: "".join(f"%{ord(one):02X}" for one in value),
    "hex": lambda value: f"00{value.encode().hex()}ff",
    "cut": lambda value: f"{value[:9]}...",
    "repr": lambda value: repr(f"a\n{value}".encode()),
    "quoted": lambda value: quote(f"/{value}?", safe=""),
    **{f"base64 at {start}": _base64_at(start) for start in range(4)},
    **{f"urlsafe base64 at {start}": _urlsafe_at(start) for start in range(4)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found(form: str) -> None:
    canaries = Canaries()
    value, other = canaries.operator("password"), canaries.operator("token")
    text = f"before {FORMS[form](value)} after"
    assert [(leak.place, leak.sink) for leak in canaries.leaks([Sink("log", text)])] == [("password", "log")]
    assert not canaries.leaks([Sink("log", "before after")])
    canaries.saw(text)
    assert canaries.idle() == {"token"}
    assert marks_in(f"{value} {other}") == {value[:8], other[:8]}


def test_what_a_sink_holds_by_contract_is_no_leak() -> None:
    canaries = Canaries()
    text = canaries.publisher("body") + canaries.target("answer") + canaries.operator("token")
    allowed = frozenset({Whose.PUBLISHER, Whose.TARGET})
    assert [leak.place for leak in canaries.leaks([Sink("dead letter's body", text, allowed)])] == ["token"]


def test_a_log_line_with_a_url_a_detail_with_a_body_and_a_label_are_caught() -> None:
    """Leaks as somebody might add them, through the real log and the real metrics."""
    canaries = Canaries()
    query, body, path = canaries.publisher("query"), canaries.target("body"), canaries.publisher("path")
    output = io.StringIO()
    sink = configure_logging("debug", output, json=True)
    log = structlog.get_logger("worker.planted")
    log.debug("request.sent", to=["https", f"api.example.com/?api_key={query}"])
    log.warning("job.finished", detail=f"the target said {body}")
    assert sink.close(5)
    metrics = Metrics(["http"])
    metrics.limit_wait(f"api.example.com/{path}", 0.1)
    sinks = [Sink("log", output.getvalue()), Sink("metrics", metrics.text())]
    assert [(leak.place, leak.sink) for leak in canaries.leaks(sinks)] == [
        ("query", "log"),
        ("body", "log"),
        ("path", "metrics"),
    ]
