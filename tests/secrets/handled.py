"""Jobs for the handlers of handlers.py, each with a secret of its own to fail with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from tests.secrets.canaries import Canaries
from tests.secrets.plays import DONE, SPENT, UNFIT, Play
from tests.secrets.targets import Target, answer

FAILING: Final = (
    "raises",
    "raises-a-group",
    "raises-in-a-thread",
    "raises-in-a-process",
    "httpx-status",
    "httpx-userinfo",
    "httpx-header",
    "request-header",
    "request-url",
    "request-method",
    "request-status",
    "step-annotation",
    "step-no-json",
    "fails-in-a-key",
    "orphans",
    "untidy",
    "blocks",
)
FUSSY: Final = ("number", "word", "uuid", "link", "short", "shaped")
WAITS: Final = "waits"


def handled_plays(canaries: Canaries, target: Target) -> Iterator[Play]:
    """One job for each way to fail, and one that waits until `target` is released."""
    target.answers["/own"] = answer("200 OK", canaries.target("answer nobody read"), "X-Long: yes")
    target.hang("/hang", answer("200 OK", canaries.target("late answer")))
    for way in FAILING:
        url = f"{target.url}/own" if way == "untidy" else f"{target.url}/none"
        yield _play(way, SPENT, way, secret=canaries.publisher(f"handler: {way}"), url=url)
    for name in FUSSY:
        yield _play(f"fussy-{name}", UNFIT, "fussy", **{name: canaries.publisher(f"payload: {name}")})
    validated = canaries.publisher("payload: validator")
    yield _play("validator", SPENT, "fails-in-a-validator", secret=validated)
    yield _play(WAITS, DONE, WAITS, secret=canaries.publisher("handler: in flight"), url=f"{target.url}/hang")


def _play(id: str, end: str, type: str, **payload: str) -> Play:
    return Play(id, json.dumps(payload).encode(), end, type=type)
