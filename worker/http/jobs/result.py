"""What a job keeps of an answer."""

from __future__ import annotations

from typing import Any, Final

from worker import Response, read_json
from worker.http.jobs.plan import PlannedStep
from worker.http.templates.budget import TemplateFault

KEPT_HEADERS: Final = ("content-type", "location", "etag", "retry-after", "x-request-id")
"""Response headers that get into a result."""


def kept_of(planned: PlannedStep, response: Response) -> Any:
    """What a step keeps of an answer: what `save` picks; without it the whole result, of an element the status only."""
    if planned.save is not None:
        try:
            return planned.save.value(result_of(response))
        except TemplateFault as fault:
            raise TemplateFault(f"save: {fault}") from None
    return result_of(response) if planned.for_each is None else {"status": response.status}


def result_of(response: Response) -> dict[str, Any]:
    """What a job keeps of an answer: `json` when it says it is JSON and a job's body could hold it, else `text`."""
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    result: dict[str, Any] = {"status": response.status, "headers": headers}
    if _says_json(headers.get("content-type", "")):
        try:
            # Read as a job's own body is: a reply or a callback made of it can be read again.
            return {**result, "json": read_json(response.body)}
        except ValueError:  # told as text: a target's bad JSON is not the job's fault
            pass
    return {**result, "text": response.text}


def _says_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")
