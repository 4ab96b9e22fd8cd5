"""One log line from one event: bounded, escaped, and never an exception."""

from __future__ import annotations

import json
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Final

LONGEST_KEY: Final = 64
LONGEST_VALUE: Final = 256
LONGEST_EVENT: Final = 4096
LONGEST_TRACE: Final = 32 * 1024
_MOST_ENTRIES: Final = 50
_DEEPEST: Final = 4

Line = Callable[[MutableMapping[str, Any]], bytes]
"""Renders an event with `event`, `level` and anything else; the result ends with a newline."""

_OWN: Final = frozenset({"timestamp", "level", "logger", "event", "exception", "stack"})
# One that goes on to the next space: what is found within it is found once, whatever it is full of.
_URL: Final = re.compile(r"(:(?://|\\/\\/))(\S+)")
_QUERY: Final = re.compile(r"[?#]")
_BEHIND: Final = "'\"<>()[]{},.;:"
"""What may stand behind a URL and is no part of it."""
_LOOKED_AT: Final = 1024
"""Characters behind what is shown."""

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode

_RESET: Final = "\x1b[0m"
_COLOURS: Final = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}


def json_line(event: MutableMapping[str, Any]) -> bytes:
    """All in ASCII: no terminal sequence and no odd line separator survives."""
    return _encode(_head(event) | _rest(event)).encode("ascii") + b"\n"


def console_line(event: MutableMapping[str, Any], *, colour: bool) -> bytes:
    """For people. Nothing in a value can begin a line of its own: traces are indented, the rest is escaped."""
    head = _head(event)
    traces = [head.pop(key) for key in ("exception", "stack") if key in head]
    paint = _painted if colour else _plain
    level = str(head["level"])
    words = [
        paint(str(head["timestamp"]), "\x1b[2m"),
        paint(f"{level:<8}", _COLOURS.get(level, "")),
        paint(_visible(str(head["event"])), "\x1b[1m"),
    ]
    words += [f"{paint(_visible(key), _CYAN)}={_word(value)}" for key, value in _rest(event).items()]
    if "logger" in head:
        words.append(paint(f"[{_visible(str(head['logger']))}]", "\x1b[2m"))
    lines = [" ".join(words), *(f"    {_visible(line)}" for trace in traces for line in str(trace).split("\n"))]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


_CYAN: Final = "\x1b[36m"


def _head(event: MutableMapping[str, Any]) -> dict[str, object]:
    """What every line has, and traces; taken out of `event`."""
    head: dict[str, object] = {
        "timestamp": timestamp(time.time()),
        "level": event.pop("level", "info"),
        "event": _event(event.pop("event", "")),
    }
    if logger := event.pop("logger", None):
        head["logger"] = _cut(str(logger), LONGEST_VALUE)
    if trace := _trace(event.pop("exc_info", None)):
        head["exception"] = trace
    if stack := event.pop("stack", None):
        head["stack"] = _bounded_trace(str(stack))
    return head


def _rest(event: Mapping[str, Any]) -> dict[str, object]:
    """The event's own values; one that has the name of a head's field gets a `_`, so that none is lost."""
    return {
        (f"{key}_" if key in _OWN else _key(key)): (
            value if type(value) is int or type(value) is bool or value is None else _clean(value, 0)
        )
        for key, value in event.items()
    }


def _key(key: Any) -> str:
    if type(key) is str and len(key) <= LONGEST_KEY and ":" not in key:
        return key
    return _cut(masked(str(key)), LONGEST_KEY)


def _clean(value: Any, depth: int) -> object:
    """`value` as JSON can carry it, no longer than it may be."""
    if isinstance(value, str):
        return _told(value)
    if value is None or value is True or value is False or type(value) is int:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {_key(key): _clean(entry, depth + 1) for key, entry in list(value.items())[:_MOST_ENTRIES]}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_clean(entry, depth + 1) for entry in list(value)[:_MOST_ENTRIES]]
    return _told(_shown(value))


def _told(text: str, most: int = LONGEST_VALUE) -> str:
    """A text as a value. Of a long one only as much is looked at as may be shown, and a little more."""
    if len(text) <= most:
        return masked(text)
    start = text[: most + _LOOKED_AT]
    if len(start) < len(text) and (found := _URL.search(start, _last_word(start))):
        start = f"{start[: found.end(1)]}***"  # who knows how it goes on
    return f"{masked(start)[:most]}... ({len(text)} characters)"


def _last_word(text: str) -> int:
    """Where it begins."""
    return max(text.rfind(space) for space in " \t\r\n") + 1


def _shown(value: Any) -> str:
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 - a handler's object may do anything; the line matters more
        return f"<{type(value).__name__} that cannot be shown>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _event(event: Any) -> str:
    return _told(event if isinstance(event, str) else _shown(event), LONGEST_EVENT)


def masked(text: str) -> str:
    """Without logins, queries and fragments of URLs: libraries put whole URLs into their messages.

    Of a login with a password the user is left. What might be a login counts as one.
    """
    return _URL.sub(_masked_url, text) if "://" in text or ":\\/\\/" in text else text


def _masked_url(found: re.Match[str]) -> str:
    url = found[2].rstrip(_BEHIND)
    cut = _QUERY.search(url)
    place, more = (url[: cut.start()], url[cut.start() :]) if cut else (url, "")
    login, at, host = place.rpartition("@")
    if at:
        place = f"{_user(login)}***@{host}"
    elif "@" in more:  # a login with such a sign in it, or an address in the query
        place = f"{_user(place)}***" if ":" in place or "/" not in place else f"{place.partition('/')[0]}/***"
    return f"{found[1]}{place}{more[:1]}{'***' if more[1:] else ''}{found[2][len(url) :]}"


def _user(login: str) -> str:
    user, colon, _ = login.partition(":")
    return f"{user}:" if colon else ""


def _trace(exc_info: Any) -> str:
    if not exc_info:
        return ""
    kind, error, trace = _exception(exc_info)
    if kind is None:
        return ""
    return _bounded_trace("".join(traceback.format_exception(kind, error, trace)))


def _exception(exc_info: Any) -> tuple[type[BaseException] | None, BaseException | None, TracebackType | None]:
    if isinstance(exc_info, BaseException):
        return type(exc_info), exc_info, exc_info.__traceback__
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        return exc_info
    return sys.exc_info()


def _bounded_trace(text: str) -> str:
    """Its beginning and its end, which names the error."""
    text = masked(text.rstrip("\n"))
    if len(text) <= LONGEST_TRACE:
        return text
    half = LONGEST_TRACE // 2
    return f"{text[:half]}\n... ({len(text)} characters) ...\n{text[-half:]}"


_second: tuple[int, str] = (0, "")


def timestamp(now: float) -> str:
    """Epoch seconds as UTC in ISO 8601, to the microsecond."""
    global _second  # noqa: PLW0603 - a cache of the last second's text, replaced as a whole
    whole = int(now)
    cached = _second
    if cached[0] != whole:
        cached = _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{cached[1]}.{int((now - whole) * 1_000_000):06d}Z"


def _visible(text: str) -> str:
    """Control, direction and separator characters as escapes, so that they change nothing on a screen."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _word(value: object) -> str:
    text = _visible(value if isinstance(value, str) else str(value))
    return text if text and not (set(text) & set(' "=')) else '"' + text.replace('"', '\\"') + '"'


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{_RESET}" if colour else text


def _plain(text: str, _colour: str) -> str:
    return text
