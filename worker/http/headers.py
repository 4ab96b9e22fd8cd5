"""Which request headers a job may set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

FORBIDDEN: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"}
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSAFE_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def is_token(text: str) -> bool:
    """Whether HTTP can carry `text` as a header name or a method."""
    return _TOKEN.fullmatch(text) is not None


def header_fault(name: str, value: str) -> str | None:
    """What is wrong with a request header, in words that do not repeat its value; None when it may be sent."""
    if not is_token(name):
        return "is not a header name"
    lower = name.lower()
    if lower in FORBIDDEN or lower.startswith("proxy-"):
        return "is set by the worker and cannot be set by a job"
    if _UNSAFE_VALUE.search(value):
        return "has a value with a control character"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "has a value that is no text"
    return None


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """A ValueError for the first header that cannot be sent."""
    for name, value in headers:
        if fault := header_fault(name, value):
            raise ValueError(f"header {name[:60]!r} {fault}")
