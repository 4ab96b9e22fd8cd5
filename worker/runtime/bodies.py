"""From the arguments of `context.request` to what is sent."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

UNSET: Final[Any] = object()
"""For `json`, where None is a value."""


def has_header(headers: Mapping[str, str], name: str) -> bool:
    """Whether a header is there; `name` in lower case."""
    return any(key.lower() == name for key in headers)


def encoded_body(
    json: Any, form: Mapping[str, Any] | None, text: str | None, body: bytes | None
) -> tuple[str | None, bytes | None]:
    """The content type and the bytes of at most one kind of body. A ValueError when more than one is given."""
    given = [json is not UNSET, form is not None, text is not None, body is not None]
    if sum(given) > 1:
        raise ValueError("give at most one of json, form, text and body")
    if json is not UNSET:
        return "application/json", jsonlib.dumps(json, separators=(",", ":"), allow_nan=False).encode()
    if form is not None:
        return "application/x-www-form-urlencoded", urlencode(form, doseq=True).encode()
    if text is not None:
        return "text/plain; charset=utf-8", text.encode()
    return None, body


def with_query(url: str, query: Mapping[str, Any] | None) -> str:
    """`url` with `query` behind the query it has; lists give a name several times."""
    if not query:
        return url
    parts = urlsplit(url)
    joined = "&".join(part for part in (parts.query, urlencode(query, doseq=True)) if part)
    return urlunsplit(parts._replace(query=joined))
