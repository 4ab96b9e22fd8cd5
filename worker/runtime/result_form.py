"""How the result of a function travels as JSON and comes back as what the function promised."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from types import FunctionType
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import from_json, to_json

from worker.core.finished import Element, Finished
from worker.runtime.annotations import annotation_of


class ResultForm:
    """The form of one function's results."""

    def __init__(self, adapter: TypeAdapter[Any] | None) -> None:
        self._adapter = adapter

    def to_json(self, value: Any) -> tuple[Any, int]:
        """`value` as plain JSON, and its size in bytes; a TypeError or ValueError when it cannot be."""
        # Pydantic's warnings would repeat the value; what does not fit the annotation shows when it is read back.
        plain = value if self._adapter is None else self._adapter.dump_python(value, mode="json", warnings=False)
        return plain_json(plain)

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


def plain_json(value: Any) -> tuple[Any, int]:
    """A copy of `value` made of JSON's own types, and its size in bytes; a TypeError or ValueError when it is none."""
    try:
        # A quarter of the time of the standard library's, but it also takes sets, bytes, dates and NaN: those differ
        # from what comes back.
        text = to_json(value)
        plain = from_json(text, allow_inf_nan=False)
        if plain == value:
            return plain, len(text)
    except ValueError:
        pass
    slower = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return json.loads(slower), len(slower)


def result_form(fn: Callable[..., Any]) -> ResultForm:
    """The form for results of `fn`, by its return annotation. A TypeError for one that pydantic cannot use."""
    # What is made anew for every job (closures, bound methods) would only fill a cache, and be kept alive by it.
    is_lasting = isinstance(fn, FunctionType) and fn.__closure__ is None
    return _lasting(fn) if is_lasting else _form(fn)


@functools.lru_cache(maxsize=1024)
def _lasting(fn: Callable[..., Any]) -> ResultForm:
    return _form(fn)


def _form(fn: Callable[..., Any]) -> ResultForm:
    try:
        annotation = annotation_of(fn, "return")
    except (NameError, TypeError, AttributeError):
        return ResultForm(None)
    if annotation is Any or annotation is None or annotation is type(None):
        return ResultForm(None)
    try:
        return _adapted(annotation)
    except PydanticUserError as error:
        if error.code == "schema-for-unknown-type":
            return ResultForm(None)
        raise TypeError(f"the return annotation of {getattr(fn, '__qualname__', fn)}: {error.message}") from None
    except TypeError:  # it cannot be hashed
        return ResultForm(TypeAdapter(annotation))


@functools.lru_cache(maxsize=1024)
def _adapted(annotation: Any) -> ResultForm:
    return ResultForm(TypeAdapter(annotation))
