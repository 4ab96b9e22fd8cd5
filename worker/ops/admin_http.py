"""As much HTTP/1.1 as probes, scrapers and operators need: one request per connection. Pure: bytes in, bytes out."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_plus

HEAD_END: Final = b"\r\n\r\n"
LARGEST_HEAD: Final = 8 * 1024
LONGEST_KEY: Final = 255
_MOST_HEADERS: Final = 64

_REQUEST: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*)")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?")

# Names no stranger's DNS can point here: of one label, or inside a cluster. Containers scrape each other by them.
_INSIDE: Final = re.compile(r"[a-z0-9_-]+|[a-z0-9._-]+\.svc(\.cluster\.local)?")


class Refused(Exception):
    """A request that is answered with an error. `text` says what would be right."""

    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.answer = json_answer({"error": text}, status, headers)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request's head. Header names are in lower case; `path` is without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """`encode` makes it bytes; the connection ends after it."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, with_body: bool = True) -> bytes:
        lines = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        start = f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n{head}\r\n".encode("ascii")
        return start + self.body if with_body else start


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(json.dumps(value, default=str).encode() + b"\n", "application/json", status, headers or {})


def text_answer(text: str, content_type: str) -> Answer:
    return Answer(text.encode("utf-8", "backslashreplace"), content_type)


def parse_head(head: bytes) -> Ask:
    """The head of a request, its empty line included. Refused when it is none, however close it comes."""
    first, *lines = head.removesuffix(HEAD_END).decode("latin-1").split("\r\n")
    request = _REQUEST.fullmatch(first)
    if request is None or len(lines) > _MOST_HEADERS:
        raise Refused(HTTPStatus.BAD_REQUEST, "not a request that is understood here")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise Refused(HTTPStatus.BAD_REQUEST, "a header is malformed or given twice")
        headers[header[1].lower()] = header[2].strip()
    path, _, query = request[2].partition("?")
    return Ask(request[1], path, headers, query)


def check_method(ask: Ask, *allowed: str) -> None:
    """Refused when the path does not take this method."""
    if ask.method not in allowed:
        text = f"{ask.method} is not taken here: use {allowed[0]}"
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, text, {"Allow": ", ".join(allowed)})


def check_no_page(ask: Ask) -> None:
    """Refused when a web page asks: any page may post to any address, and its browser says that it is one."""
    if any(name in ask.headers for name in ("origin", "sec-fetch-site", "referer")):
        raise Refused(HTTPStatus.FORBIDDEN, "orders are not taken from web pages")


def key_of(ask: Ask) -> str | None:
    """What `?key=` names, None without a query. Refused when it names none, or something else is asked for."""
    if not ask.query:
        return None
    name, _, value = ask.query.partition("=")
    key = unquote_plus(value, errors="replace")
    if name != "key" or "&" in value or not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        text = (
            f"the query is ?key=KEY, of 1 to {LONGEST_KEY} characters, percent-encoded; without it everything is meant"
        )
        raise Refused(HTTPStatus.BAD_REQUEST, text)
    return key


def check_host(ask: Ask, bound: str, *, on_loopback: bool) -> None:
    """Refused when the request was meant for another name: a web page that had its name lead here sends its own.

    Taken are IP addresses, `localhost`, the name the listener was bound to, and off loopback the names that only exist
    inside a network: of one label, and those of cluster services.
    """
    found = _HOST.fullmatch(ask.headers.get("host", ""))
    name = found[1].lower().removesuffix(".") if found else ""
    if name == "localhost" or name == bound.lower() or _is_address(name):
        return
    if not on_loopback and _INSIDE.fullmatch(name):
        return
    text = "this Host is not served here: ask by IP address, localhost or the name WORKER_ADMIN binds"
    raise Refused(HTTPStatus.MISDIRECTED_REQUEST, text)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
