"""How the result of a function travels as JSON and comes back as what the function promised."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from types import FunctionType
from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter

from worker.core.finished import Element, Finished


class ResultForm:
    """The form of one function's results."""

    def __init__(self, adapter: TypeAdapter[Any] | None) -> None:
        self._adapter = adapter

    def to_json(self, value: Any) -> tuple[Any, int]:
        """`value` as plain JSON, and its size in bytes; a TypeError or ValueError when it cannot be."""
        # Pydantic's warnings would repeat the value; what does not fit the annotation shows when it is read back.
        plain = value if self._adapter is None else self._adapter.dump_python(value, mode="json", warnings=False)
        text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
        return json.loads(text), len(text)

    def from_json(self, value: Any) -> Any:
        return value if self._adapter is None else self._adapter.validate_python(value)

    def travelled(self, name: str, value: Any) -> tuple[Any, int, Any]:
        """The result of step `name` as it is remembered, its size, and as it comes back. A TypeError names the step."""
        try:
            plain, size = self.to_json(value)
        except (TypeError, ValueError) as error:
            kind = type(value).__name__
            raise TypeError(f"step {name!r} returned {kind}, which cannot travel as JSON: {error}") from None
        return plain, size, self.from_json(plain)  # at once: what does not fit now never would

    def read_back(self, done: Finished | Element) -> Any:
        """A remembered result. Whoever released it takes None for one that was dropped."""
        return self.from_json(done.value) if done.kept else None


def result_form(fn: Callable[..., Any]) -> ResultForm:
    """The form for results of `fn`, by its return annotation."""
    # What is made anew for every job (closures, bound methods) would only fill a cache, and be kept alive by it.
    is_lasting = isinstance(fn, FunctionType) and fn.__closure__ is None
    return _lasting(fn) if is_lasting else _form(_annotation(fn))


@functools.lru_cache(maxsize=1024)
def _lasting(fn: Callable[..., Any]) -> ResultForm:
    return _form(_annotation(fn))


def _annotation(fn: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(inspect.unwrap(fn)).get("return", Any)
    except (NameError, TypeError):
        return Any


def _form(annotation: Any) -> ResultForm:
    if annotation is Any or annotation is None or annotation is type(None):
        return ResultForm(None)
    try:
        return _adapted(annotation)
    except (PydanticSchemaGenerationError, TypeError):  # no type that pydantic knows, or one that cannot be hashed
        return ResultForm(None)


@functools.lru_cache(maxsize=1024)
def _adapted(annotation: Any) -> ResultForm:
    return ResultForm(TypeAdapter(annotation))
