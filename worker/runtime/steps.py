"""Finished steps: run once, remembered, and carried along with the job."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter

from worker.core.job import Finished


class Steps:
    """The finished steps of one job, those of earlier attempts included."""

    def __init__(self, finished: Mapping[str, Finished]) -> None:
        self._finished = dict(finished)
        self._running: set[str] = set()

    @property
    def finished(self) -> Mapping[str, Finished]:
        return self._finished

    def result(self, name: str) -> Finished | None:
        """What an earlier run of the step left; None when it has to run. One that is only marked runs again too."""
        found = self._finished.get(name)
        return found if found is not None and found.kept else None

    def begin(self, name: str) -> None:
        """Claim the name. A ValueError when a step of that name is running: the two would share one result."""
        if name in self._running:
            raise ValueError(f"step {name!r} is running already: give every step of a job its own name")
        self._running.add(name)

    def end(self, name: str) -> None:
        self._running.discard(name)

    def remember(self, name: str, value: Any) -> None:
        """`value` is plain JSON."""
        self._finished[name] = Finished(value)


class ResultForm:
    """How the result of a function travels as JSON and comes back as what the function promised."""

    def __init__(self, adapter: TypeAdapter[Any] | None) -> None:
        self._adapter = adapter

    def to_json(self, name: str, value: Any) -> Any:
        """`value` as plain JSON; a TypeError naming the step when it cannot be."""
        try:
            # Pydantic's warnings would repeat the value; what does not fit the annotation shows when it is read back.
            plain = value if self._adapter is None else self._adapter.dump_python(value, mode="json", warnings=False)
            return json.loads(json.dumps(plain, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"step {name!r} returned {type(value).__name__}, which cannot travel as JSON: {error}"
            ) from None

    def from_json(self, value: Any) -> Any:
        return value if self._adapter is None else self._adapter.validate_python(value)


@functools.lru_cache(maxsize=1024)
def result_form(fn: Callable[..., Any]) -> ResultForm:
    """The form for results of `fn`, by its return annotation."""
    try:
        annotation = get_type_hints(inspect.unwrap(fn)).get("return", Any)
    except (NameError, TypeError):
        annotation = Any
    if annotation is Any or annotation is None or annotation is type(None):
        return ResultForm(None)
    try:
        return ResultForm(TypeAdapter(annotation))
    except PydanticSchemaGenerationError:
        return ResultForm(None)
