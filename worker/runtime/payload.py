"""Why a payload does not fit its annotation, in words for whoever published it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

SHOWN: Final = 5
"""Most faults told of one payload."""

LOOKED_AT: Final = 50
"""Most faults put into words, so that the nearest name is not sought for each of ten thousand."""

LONGEST_NAME: Final = 60
_KINDS: Final = {
    "NoneType": "null",
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "list": "a list",
    "dict": "an object",
}
_NEEDED: Final = {
    "string_type": "a string is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "bool_type": "true or false is needed",
    "list_type": "a list is needed",
    "dict_type": "an object is needed",
    "model_type": "an object is needed",
    "model_attributes_type": "an object is needed",
    "dataclass_type": "an object is needed",
}
_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def explain_validation(error: ValidationError, annotation: Any) -> str:
    """The faults, at most five, each with its JSON path and the kind of value found; never the value itself.

    An unknown field comes with the nearest name that `annotation` knows at that place. Messages of a model's own
    validators are repeated, so they must not hold the value either.
    """
    faults = error.errors(include_url=False)
    told = list(dict.fromkeys(_fault(fault, annotation) for fault in faults[:LOOKED_AT]))
    rest = len(told[SHOWN:]) + len(faults[LOOKED_AT:])
    more = [f"and {rest} more"] if rest else []
    return "; ".join(told[:SHOWN] + more)


def _fault(fault: ErrorDetails, annotation: Any) -> str:
    place = fault["loc"]
    if fault["type"] in _UNKNOWN:
        return f"unknown field {_quoted(place[-1])} at {_path(place[:-1])}{_guess(place, annotation)}"
    if fault["type"] == "missing":
        return f"missing field {_quoted(place[-1])} at {_path(place[:-1])}"
    return f"{_message(fault)} at {_path(place)} (got {_kind(fault['input'])})"


def _message(fault: ErrorDetails) -> str:
    if needed := _NEEDED.get(fault["type"]):
        return needed
    if fault["type"] == "union_tag_invalid":  # pydantic's own message repeats the tag it found
        return f"{fault['ctx']['discriminator']} must be one of {fault['ctx']['expected_tags']}"
    if fault["type"] == "too_long":
        return f"at most {fault['ctx']['max_length']} entries are possible"
    if fault["type"] == "too_short":
        least = fault["ctx"]["min_length"]
        return f"at least {least} {'entry is' if least == 1 else 'entries are'} needed"
    text = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]


def _kind(value: Any) -> str:
    return _KINDS.get(type(value).__name__, f"a value of type {type(value).__name__}")


def _path(place: Sequence[int | str]) -> str:
    return "$" + "".join(_part(part) for part in place)


def _part(part: int | str) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    if part.isidentifier() and len(part) <= LONGEST_NAME:
        return f".{part}"
    return f"[{json.dumps(part[:LONGEST_NAME])}]"


def _quoted(name: int | str) -> str:
    """A name out of the payload, short and without anything that could break a line of a log."""
    return "'" + json.dumps(str(name)[:LONGEST_NAME])[1:-1] + "'"


def _guess(place: Sequence[int | str], annotation: Any) -> str:
    known = sorted({name for one in _annotations_at(annotation, place[:-1]) for name in _fields(one)})
    near = difflib.get_close_matches(str(place[-1])[:LONGEST_NAME], known, n=1)
    return f", did you mean '{near[0]}'?" if near else ""


def _annotations_at(annotation: Any, place: Sequence[int | str]) -> Iterator[Any]:
    """What the annotation says about the value at `place`; several when a union leaves it open."""
    for one in _alternatives(annotation):
        if not place:
            yield one
        elif isinstance(place[0], str) and place[0] in (fields := _fields(one)):
            yield from _annotations_at(fields[place[0]], place[1:])
        elif arguments := typing.get_args(one):
            yield from _annotations_at(arguments[-1 if isinstance(place[0], str) else 0], place[1:])


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for one in typing.get_args(annotation):
            yield from _alternatives(one)
    else:
        yield annotation


def _fields(annotation: Any) -> Mapping[str, Any]:
    """Field names as a payload spells them, with their annotations; none for what has no fields."""
    if not isinstance(annotation, type):
        return {}
    if issubclass(annotation, BaseModel):
        return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation) or hasattr(annotation, "__required_keys__"):  # any make of TypedDict
        return typing.get_type_hints(annotation)
    return {}
