"""The callback of an `http` job: a job of its own that sends the result of the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from worker import ChildJob, Reject, Result, read_json
from worker.http.jobs.payload import HttpJob
from worker.http.jobs.plan import Plan, PlannedStep
from worker.http.templates.budget import TemplateFault

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
        filled = planned.draft.fill(_results(job.plan, result.value))
    except TemplateFault as fault:
        raise Reject(f"callback: {fault}", code="template") from None
    how = planned.call.model_dump(mode="json", include=set(_HOW), exclude_none=True)
    told = {"url": filled.url, "headers": dict(filled.headers), **how}
    # Its strings are data from here on: what came out of a result is not read as a template again.
    return ChildJob(_CHILD, "http", _readable({**told, "json": result.as_dict(), "templates": False}))


def _results(plan: Plan, value: Any) -> Mapping[str, Any]:
    """The results of the steps that are there to be read."""
    if not isinstance(value, dict):
        return {}
    return {one.id: value[one.id] for one in plan.steps if one.id in value and not _is_dropped(one, value[one.id])}


def _is_dropped(planned: PlannedStep, result: Any) -> bool:
    # What `save` picks may look the same, and is a value then: what a callback reads is needed, and not dropped.
    return planned.save is None and isinstance(result, dict) and result.keys() == {"truncated"}


def _readable(payload: dict[str, Any]) -> dict[str, Any]:
    """The job, without the value if the worker would not read it again: too deep, or too many values or names."""
    try:
        read_json(_json(payload))
    except ValueError:
        told = payload["json"]
        return {**payload, "json": {**told, "value": {"truncated": len(_json(told["value"]))}}}
    return payload


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
