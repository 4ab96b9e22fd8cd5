"""Finished steps: run once, remembered, and carried along with the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

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
        return self._finished | {name: fan.finished for name, fan in self._fans.items()}

    def result(self, name: str) -> Finished | None:
        """What an earlier run of the step left; None when it has to run."""
        return self._finished.get(name)

    def begin(self, name: str) -> None:
        """Claim the name. A ValueError when it is in use: the two would share one result."""
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
            return self._fans[name].finished.dropped or None
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
        self._dropped = elements.dropped
        self.needed = True

    @property
    def finished(self) -> Elements:
        return Elements(dict(self._done), self.needed, self._dropped)

    def result(self, number: int, item: bytes) -> Element | None:
        """What an earlier run of the element left; None when it has to run, or its item is another one."""
        found = self._done.get(number)
        return found if found is not None and found.digest == item else None

    def remember(self, number: int, item: bytes, value: Any, size: int) -> None:
        """`value` is plain JSON of `size` bytes. A Reject when all results together take more than a job may keep."""
        self._steps.count(size)
        self._done[number] = Element(item, value, size=size)


def item_digest(item: Any) -> bytes:
    """What tells `item` from others: by its JSON, or by its type alone where it has none."""
    try:
        return digest(to_json(item, fallback=_type_name))
    except (ValueError, PydanticSerializationError):
        return digest(_type_name(item).encode())


def _type_name(value: Any) -> str:
    return type(value).__qualname__
