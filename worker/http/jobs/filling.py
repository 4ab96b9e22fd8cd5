"""The requests of one attempt as they are sent: filled and encoded, one after the other over all jobs of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from worker.http.jobs.json_pieces import json_pieces
from worker.http.jobs.pace import Pace, pace
from worker.http.jobs.plan import PlannedStep
from worker.http.jobs.request import Filled
from worker.http.templates.budget import MAX_ELEMENT_TEXT, MAX_TEXT, Budget

SMALL_JOB: Final = 8 << 10
"""Bytes of a payload whose literal bodies are encoded at once, in less time than it takes to wait in line."""

_TYPES: Final = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "text": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Ready:
    """A request as it is sent."""

    url: str
    headers: Mapping[str, str]
    body: bytes | None


class Filling:
    """Makes the requests of one attempt. `size` is that of the job's payload, in bytes."""

    def __init__(self, size: int) -> None:
        self._is_small = size <= SMALL_JOB
        self._literal: dict[str, bytes] = {}

    async def ready(self, planned: PlannedStep, results: Mapping[str, Any]) -> Ready:
        """The request of a step, or of an element of it. A TemplateFault when it cannot be filled."""
        draft = planned.draft
        if draft.is_plain and (draft.body_field is None or self._is_small or planned.id in self._literal):
            return await self._ready(planned, results, None)
        async with pace() as turn:
            return await self._ready(planned, results, turn)

    async def _ready(self, planned: PlannedStep, results: Mapping[str, Any], turn: Pace | None) -> Ready:
        text = MAX_TEXT if planned.for_each is None else MAX_ELEMENT_TEXT
        filled = planned.draft.fill(results, Budget(text=text))
        headers = dict(filled.headers)
        for kind in filled.body:
            if kind in _TYPES and all(name.lower() != "content-type" for name in headers):
                headers["Content-Type"] = _TYPES[kind]
        return Ready(filled.url, headers, await self._body(planned, filled, turn))

    async def _body(self, planned: PlannedStep, filled: Filled, turn: Pace | None) -> bytes | None:
        if (known := self._literal.get(planned.id)) is not None:
            return known
        for kind, value in filled.body.items():
            body = await _encoded(kind, value, turn)
            if planned.draft.has_literal_body:  # the same for every element, and every try
                self._literal[planned.id] = body
            return body
        return None


async def _encoded(kind: str, value: Any, turn: Pace | None) -> bytes:
    match kind:
        case "json":
            pieces: list[str] = []
            for piece in json_pieces(value):
                pieces.append(piece)
                if turn is not None:
                    await turn.rest()
            return "".join(pieces).encode()
        case "form":
            return urlencode(value, doseq=True).encode()
        case "text":
            return bytes(value, "utf-8")
        case _:
            return bytes(value)
