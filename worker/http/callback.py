"""The callback of an `http` job: a job of its own that sends the result of the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from worker import ChildJob, Reject, Result, read_json
from worker.http.budget import TemplateFault
from worker.http.payload import HttpJob

_CHILD: Final = "callback"
_HOW: Final = ("method", "timeout", "expect", "redirects", "retry", "auth", "sign")


def callback_of(job: HttpJob, result: Result) -> ChildJob | None:
    """The job that makes the callback; None when there is none to make.

    A Reject when what it is made of is not there: of a dead job there are no results.
    """
    planned = job.plan.callback
    if planned is None:
        return None
    try:
        filled = planned.draft.fill(_results(result.value))
    except TemplateFault as fault:
        raise Reject(f"callback: {fault}", code="template") from None
    how = planned.call.model_dump(mode="json", include=set(_HOW), exclude_none=True)
    told = {"url": filled.url, "headers": dict(filled.headers), **how}
    # Its strings are data from here on: what came out of a result is not read as a template again.
    return ChildJob(_CHILD, "http", {**told, "json": _readable(result.as_dict()), "templates": False})


def _results(value: Any) -> Mapping[str, Any]:
    """The results of the steps that are there to be read."""
    if not isinstance(value, dict):
        return {}
    return {name: result for name, result in value.items() if not _is_dropped(result)}


def _is_dropped(result: Any) -> bool:
    return isinstance(result, dict) and result.keys() == {"truncated"}


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    """The result without its value, if the worker itself would not read it again: too deep, or too many values."""
    text = json.dumps(result["value"], separators=(",", ":"))
    try:
        # In as many brackets as it will stand in.
        read_json(f"[[{text}]]".encode())
    except ValueError:
        return {**result, "value": {"truncated": len(text)}}
    return result
