"""Finished steps: run once, remembered, and carried along with the job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import to_json

from worker.core.finished import Element, Elements, Finished, Step, digest
from worker.core.outcome import Reject

KEPT_LIMIT: Final = 8 * 1024 * 1024
"""What all kept results of a job may take as JSON, in bytes."""


class Steps:
    """The finished steps of one job, those of earlier attempts included."""

    def __init__(self, finished: Mapping[str, Step]) -> None:
        self._finished = {name: step for name, step in finished.items() if isinstance(step, Finished)}
        self._fans = {name: Fan(self, step) for name, step in finished.items() if isinstance(step, Elements)}
        self._running: set[str] = set()
        self._kept = 0

    @property
    def finished(self) -> Mapping[str, Step]:
        """What travels with the job."""
        return self._finished | {name: fan.finished for name, fan in self._fans.items() if fan.any_done}

    def result(self, name: str) -> Finished | None:
        """What an earlier run of the step left; None when it has to run."""
        return self._finished.get(name)

    def begin(self, name: str) -> None:
        """Claim the name. A ValueError when it is in use: the two would share one result."""
        _check_name(name)
        if name in self._running:
            raise ValueError(f"step {name!r} is running already: give every step of a job its own name")
        if name in self._fans:
            raise ValueError(f"{name!r} is a map of this job: give every step and map its own name")
        self._running.add(name)

    def end(self, name: str) -> None:
        self._running.discard(name)

    def remember(self, name: str, value: Any, size: int) -> None:
        """`value` is plain JSON of `size` bytes. A Reject when all results together take more than a job may keep."""
        self.count(size)
        self._finished[name] = Finished(value, size=size)

    def fan(self, name: str) -> Fan:
        """The memory of a fan-out, whose name is claimed as a step's is."""
        _check_name(name)
        if name in self._finished or name in self._running:
            raise ValueError(f"{name!r} is a step or a map of this job already: give each its own name")
        self._running.add(name)
        return self._fans.setdefault(name, Fan(self, Elements()))

    def release(self, name: str) -> None:
        """The result is needed no more: where it does not fit, the mark that the step is done travels alone."""
        if name in self._fans:
            self._fans[name].needed = False
        elif (done := self._finished.get(name)) is not None:
            self._finished[name] = Finished(done.value, done.kept, needed=False, size=done.size)

    def dropped(self, name: str) -> int | None:
        """How many bytes of result did not travel; None when the result is there, or the step is not done."""
        if name in self._fans:
            return self._fans[name].dropped or None
        done = self._finished.get(name)
        return None if done is None or done.kept else done.size

    def count(self, size: int) -> None:
        """Make room for `size` bytes of result, or raise a Reject."""
        self._kept += size
        if self._kept > KEPT_LIMIT:
            raise Reject(f"the results of the job are above {KEPT_LIMIT} bytes", code="result_too_large")


class Fan:
    """The finished elements of one fan-out, each known by its number and its item."""

    def __init__(self, steps: Steps, elements: Elements) -> None:
        self._steps = steps
        self._done = dict(elements.done)
        self.dropped = elements.dropped
        """Bytes of result that did not travel."""
        self.needed = True

    @property
    def any_done(self) -> bool:
        return bool(self._done)

    @property
    def finished(self) -> Elements:
        return Elements(dict(self._done), self.needed, self.dropped)

    def result(self, number: int, item: bytes) -> Element | None:
        """What an earlier run of the element left; None when it has to run, or its item is another one."""
        found = self._done.get(number)
        return found if found is not None and found.digest == item else None

    def remember(self, number: int, item: bytes, value: Any, size: int) -> None:
        """`value` is plain JSON of `size` bytes. A Reject when all results together take more than a job may keep."""
        self._steps.count(size)
        self._done[number] = Element(item, value, size=size)


def item_digest(name: str, item: Any) -> bytes:
    """What tells `item` of the map `name` from others: its JSON, where a part that has none counts by its type.

    A TypeError for an item that has none at all: it could not be told from the others.
    """
    nameless = False

    def by_type(part: Any) -> str:
        nonlocal nameless
        nameless = nameless or part is item
        return type(part).__qualname__

    try:
        content = to_json(item, bytes_mode="base64", fallback=by_type)
    except ValueError:  # lone surrogates, which UTF-8 cannot hold
        content = json.dumps(item, default=by_type).encode("ascii")
    if nameless:
        kind = type(item).__name__
        raise TypeError(f"an item of map {name!r} is {kind}, which is no JSON: give what tells it apart, as (id, item)")
    return digest(content)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a step must be text, not {name!r}")
