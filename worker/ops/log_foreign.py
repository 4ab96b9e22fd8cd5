"""What libraries and the interpreter say, as events: their own words, and nothing of what they had in hand.

Their messages hold arguments of calls, messages of errors, URLs with their queries, and headers of requests and
responses. Kept are the first words, numbers, and places in the code.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final

QUIET: Final = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiohttp": logging.WARNING,
    "asyncio": logging.WARNING,
    "aiormq": logging.CRITICAL,
    "aio_pika": logging.CRITICAL,
}
"""Libraries that log every request, or every connection with its URL, and the least level that is taken from them.

What matters of it we log ourselves.
"""

WARNINGS: Final = "py.warnings"

_FIRST_WORDS: Final = re.compile(r"[^<(\[{\n]*")
_WARNING: Final = re.compile(r"(?P<kind>.*?: (?P<name>\w*Warning): )(?P<words>[^<(\[{\n]*)(?P<rest>[^\n]*)")
_FIXED: Final = frozenset({"DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "SyntaxWarning"})
"""Warnings about code, whose words hold no values."""

_PLACE: Final = re.compile(r" (?:at|in) (/[^\s<>'\"():@?=]*\.py:[0-9]+)")
_MOST_PLACES: Final = 8


def is_foreign(logger: str) -> bool:
    """Whether a standard library logger of this name speaks for what the worker is built on."""
    return logger == WARNINGS or logger.partition(".")[0] in QUIET


def foreign_event(record: logging.LogRecord) -> Mapping[str, Any]:
    """`event`, and where known `at` (places in the code) and `stack` (the way of an error, and its type)."""
    text = _text(record)
    if record.name == WARNINGS:
        return {"event": _of_warning(text)}
    words = _FIRST_WORDS.match(text)
    event: dict[str, Any] = {"event": words[0].strip() if words else ""}
    if places := list(dict.fromkeys(_PLACE.findall(_whole(record))))[:_MOST_PLACES]:
        event["at"] = " > ".join(places)
    if record.exc_info and isinstance(record.exc_info[1], BaseException):
        event["stack"] = way_of(record.exc_info[1])
    elif record.stack_info:
        event["stack"] = record.stack_info
    return event


def way_of(error: BaseException) -> str:
    """A traceback without the error's message and its causes: frames, and the error's type."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return "".join([*traceback.format_tb(error.__traceback__), name])


def _text(record: logging.LogRecord) -> str:
    """The message with its numbers filled in, and `...` for any other argument."""
    message = str(record.msg)
    if not record.args or record.name == WARNINGS:
        return _whole(record)
    arguments: Iterable[Any] = record.args.values() if isinstance(record.args, Mapping) else record.args
    shown = tuple(one if type(one) in (int, float) else _Unsaid() for one in arguments)
    try:
        return message % shown
    except (TypeError, ValueError, KeyError):
        return message


def _whole(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the format, or that cannot be shown
        return str(record.msg)


def _of_warning(text: str) -> str:
    """`file:line: Category: words`; the words as far as no value can be in them."""
    found = _WARNING.match(text)
    if found is None:
        return text.partition(":")[0]
    rest = found["rest"] if found["name"] in _FIXED else ""
    return f"{found['kind']}{found['words']}{rest}".rstrip()


class _Unsaid:
    """Stands for an argument that is not shown."""

    def __repr__(self) -> str:
        return "..."
