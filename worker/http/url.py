"""The one reading of a URL: what is judged here is, character for character, what is dialled and sent."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import quote

import idna
from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LONGEST_URL: Final = 8192
"""Characters of a URL as a job sends it, percent-encoded, its query included: above this most servers refuse."""

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?", re.IGNORECASE | re.ASCII
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_KEPT: Final = "!#$%&'()*+,-./:;=?@[]_~"
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST_KNOWN: Final = 1024
"""Characters of URLs that are remembered: a thousand of the longest would be megabytes."""


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL.

    `host` is lower case ASCII without brackets; every spelling of an IP address (`0x7f.1`, `①②⑦.0.0.1`, `[::1]`) has
    become its canonical form, kept in `literal` too. `target` is the path and query as they go out; `yarl` is the
    whole as aiohttp takes it.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str
    literal: Address | None
    text: str = field(init=False)
    yarl: URL = field(init=False)

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if self.literal is not None and self.literal.version == 6 else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        object.__setattr__(self, "text", f"{self.scheme}://{host}{port}{self.target}")
        # taken as it is: to quote again would break signatures, and be a second reading
        object.__setattr__(self, "yarl", URL(self.text, encoded=True))

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def name(self) -> str:
        """The host by the one name that limits and metrics know it by: without the dot that may end it."""
        return self.host.removesuffix(".")

    def __str__(self) -> str:
        return self.text


def parse_url(text: str) -> Url:
    """The URL that `text` says; a ValueError names what is wrong with it without repeating it (it may hold a secret).

    Percent-encoding is kept as it is; a character no URL may hold (a space in a path, ü) is encoded. A fragment is
    dropped. Userinfo is refused: it would travel through logs and be sent nowhere one expects.
    """
    return _known(text) if len(text) <= _LONGEST_KNOWN else _parsed(text)


def _parsed(text: str) -> Url:
    if _UNPRINTABLE.search(text):
        raise ValueError("holds a control character or half a character")
    if (parts := _URL.match(text)) is None:
        raise ValueError("is not an absolute http or https URL")
    if "@" in parts["authority"]:
        raise ValueError("holds a user name or password; use a header instead")
    if (authority := _AUTHORITY.fullmatch(parts["authority"])) is None:
        raise ValueError("has a host or port that cannot be read")
    scheme: Literal["http", "https"] = "https" if parts["scheme"].lower() == "https" else "http"
    host, literal = _host(authority["host"])
    port = int(authority["port"] or _PORTS[scheme])
    if port > 65535:
        raise ValueError("has a port above 65535")
    return Url(scheme, host, port, quote((parts["path"] or "/") + (parts["query"] or ""), safe=_KEPT), literal)


_known: Final = lru_cache(maxsize=1024)(_parsed)


def _host(text: str) -> tuple[str, Address | None]:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    name = _ascii(text).lower()
    if _NAME.fullmatch(name.removesuffix(".")) is None:
        raise ValueError("has a host that cannot be read")
    if _NUMBER.fullmatch(name.removesuffix(".").rpartition(".")[2]):
        return _ipv4(name.removesuffix("."))
    return name, None


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise ValueError("has an international host name that cannot be encoded") from None


def _ipv4(text: str) -> tuple[str, Address]:
    """All that a resolver would take for an IPv4 address (`127.1`, octal, hexadecimal): browsers and curl agree."""
    try:
        address = ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        raise ValueError("has a host that looks like an IP address and is none") from None
    return str(address), address


def _ipv6(text: str) -> tuple[str, Address]:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("has a host in brackets that is no IPv6 address") from None
    if address.scope_id is not None:
        raise ValueError("has an IPv6 address with a zone")
    return str(address), address
