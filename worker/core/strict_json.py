"""JSON as it is defined, and nothing more: what parsers disagree on is refused instead of guessed."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 64
MAX_KEYS: Final = 10_000
MAX_VALUES: Final = 100_000
"""Most elements of lists and members of objects, in all."""

MAX_INTEGER: Final = 2**63
MAX_NUMBER_LENGTH: Final = 400


def loads(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises ValueError, with a text that repeats nothing of the body: not UTF-8, not JSON, NaN or infinite numbers
    (also by overflow, as 1e400), integers beyond 64 bits, a name twice in one object, lone surrogates, more than
    64 levels, 10,000 names or 100,000 values.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise ValueError("starts with a byte order mark")
    _check_structure(text)
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def _decode(text: str) -> Any:
    keys = 0

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(items)
        if keys > MAX_KEYS:
            raise ValueError(f"more than {MAX_KEYS} names")
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("a name stands twice in one object")
        return found

    return json.JSONDecoder(
        object_pairs_hook=pairs, parse_int=_integer, parse_float=_number, parse_constant=_constant
    ).decode(text)


# A string without an end matches as well: were it tried anew from each of its quotes, the scan would be quadratic.
# Possessive, because each character the scan could come back to would cost it some hundred bytes.
_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS: Final = re.compile(r"[^\[\]{}]+")
_SPACES: Final = dict.fromkeys(map(ord, " \t\r\n"))
_LEVELS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _check_structure(text: str) -> None:
    """Depth and number of values, before anything is built of them."""
    openings = text.count("[") + text.count("{")
    # Bounds from above, which are enough for nearly every body.
    if openings <= MAX_DEPTH and openings + text.count(",") <= MAX_VALUES:
        return
    bare = _STRING.sub("s", text).translate(_SPACES)  # a letter stands for each, so that ["a"] is not empty
    if _values(bare) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    if _depth(bare) > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels")


def _depth(bare: str) -> int:
    brackets = _NO_BRACKETS.sub("", bare)
    return max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0)


def _values(bare: str) -> int:
    """A value follows each comma, and each bracket that is not closed at once."""
    empty = sum(map(bare.count, ("[]", "{}", "[}", "{]")))
    return bare.count(",") + bare.count("[") + bare.count("{") - empty


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_LENGTH or not -MAX_INTEGER <= (value := int(text)) < 2 * MAX_INTEGER:
        raise ValueError("an integer beyond 64 bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number too large for a double")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check_surrogates(value: Any) -> None:
    match value:
        case str():
            if not value.isascii() and _SURROGATE.search(value):
                raise ValueError("a lone surrogate")
        case dict():
            for name, item in value.items():
                _check_surrogates(name)
                _check_surrogates(item)
        case list():
            for item in value:
                _check_surrogates(item)
