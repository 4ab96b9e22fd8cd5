"""Addresses an operator writes: the broker's nodes, the admin listener, what jobs may reach, origins."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit

from worker.ops.settings.kinds import Kind, shortened
from worker.ops.settings.secret import MASK, Secret

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?"
)
_AUTHORITY: Final = re.compile(r"(\[[^\[\]@]+\]|[^:\[\]@]+)(?::[0-9]{1,5})?")
_HOST_PORT: Final = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5})")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LONGEST_WORD: Final = 255
"""Bytes of a user or a vhost, as AMQP carries them."""
_AMQP_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_WEB_PORTS: Final = {"http": 80, "https": 443}
_QUERY_VALUE: Final = re.compile(r"(?<=[=#])[^&#]{4,}|(?<=[?&])[^=&#]{4,}(?![^&#])")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """One node of the broker. `str()` and `repr()` hide the password; `full` has it and must not be shown."""

    scheme: Literal["amqp", "amqps"]
    host: str
    port: int
    user: str
    password: Secret = field(repr=False)
    vhost: str

    @property
    def full(self) -> str:
        return self._text(quote(self.password.reveal(), safe=""))

    def __str__(self) -> str:
        return self._text(MASK)

    def _text(self, password: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        # an empty path is the vhost "/" for aiormq
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"{self.scheme}://{quote(self.user, safe='')}:{password}@{host}:{self.port}/{vhost}"


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """The proxy that jobs' requests go by. `host` has no brackets; `user` None is a proxy without a login."""

    host: str
    port: int
    user: str | None
    password: Secret = field(repr=False)

    def __str__(self) -> str:
        login = "" if self.user is None else f"{quote(self.user, safe='')}:{MASK}@"
        return f"http://{login}{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where the admin listener is bound. Port 0 lets the system pick one. `host` has no brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        address = _address(self.host)
        return self.host == "localhost" if address is None else address.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HttpAllow:
    """What jobs may reach besides public addresses: networks exactly as they are, and names with private answers."""

    networks: tuple[Network, ...] = ()
    hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join([*map(str, self.networks), *self.hosts]) or "none"


def mask_url(text: str) -> str:
    """`text` without the password and the query of a URL in it, also when the URL is too broken to be read."""
    if found := re.search(r"[?#]", text):
        query = text[found.start() :]
        masked = found[0] + MASK if "@" in query else _QUERY_VALUE.sub(MASK, query)
        return mask_url(text[: found.start()]) + masked
    scheme, mark, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", text)
    login, at, place = rest.rpartition("@")
    if at:
        return f"{scheme}{mark}{login.partition(':')[0]}:{MASK}@{place}"
    host, colon, port = rest.partition(":")
    if not colon or rest.startswith("[") or re.match(r"[0-9]*(/|\Z)", port):
        return text
    return f"{scheme}{mark}{host}:{MASK}"  # what stands there may be a password that lost its host


def _shown(text: str) -> str:
    """A URL that is a secret, as messages show it: not at all when it is none, for then it may be a bare password."""
    return shortened(mask_url(text)) if "://" in text or "@" in text or _HOST_PORT.fullmatch(text) else "the value"


def parse_amqp_url(text: str) -> AmqpUrl:
    """A ValueError shows the URL without its password."""
    trouble = _amqp_trouble(text)
    if trouble:
        raise ValueError(f"{_shown(text)} is not a broker URL: {trouble}")
    parts = urlsplit(text)
    return AmqpUrl(
        scheme="amqps" if parts.scheme == "amqps" else "amqp",
        host=parts.hostname or "",
        port=parts.port or _AMQP_PORTS[parts.scheme],
        user=unquote(parts.username or "guest"),
        password=Secret(unquote("guest" if parts.password is None else parts.password)),
        vhost=unquote(parts.path[1:]) or "/",
    )


def _amqp_trouble(text: str) -> str | None:
    form = "write amqp://user:password@host:5672/vhost, special characters in user, password and vhost as %XX"
    try:
        parts = urlsplit(text)
        port_is_zero = parts.port == 0
    except ValueError:
        return form
    if parts.scheme not in _AMQP_PORTS:
        return "it must start with amqp:// or amqps://"
    if parts.query or parts.fragment:
        return f"nothing may follow the vhost, neither ? nor #; {form}"
    if port_is_zero or not _is_host(parts.hostname or "") or not text.isprintable() or " " in text:
        return form
    if parts.path != "//" and "/" in parts.path[1:]:
        return form
    if "@" in parts.path or parts.netloc.count("@") > 1 or _BAD_ESCAPE.search(text):
        return form
    return _unspeakable(parts)


def _unspeakable(parts: SplitResult) -> str | None:
    """What has the right form, and cannot be said to a broker or to a resolver."""
    for name, value in (("user", parts.username or ""), ("vhost", parts.path[1:])):
        if len(unquote(value).encode()) > _LONGEST_WORD:
            return f"its {name} is longer than {_LONGEST_WORD} bytes"
    if not all(_is_decodable(label) for label in (parts.hostname or "").split(".")):
        return "its host is no name: a part that begins with xn-- must be the code of one"
    return None


def _is_decodable(label: str) -> bool:
    try:
        decoded = label.removeprefix("xn--").encode().decode("punycode")
    except UnicodeError:
        decoded = ""
    return not label.startswith("xn--") or (decoded.isprintable() and not decoded.isascii())


def amqp_urls() -> Kind[tuple[AmqpUrl, ...]]:
    """One URL or a comma list; a comma inside a password does no harm, for a URL begins after a separating one."""

    def parse(text: str) -> tuple[AmqpUrl, ...]:
        return tuple(parse_amqp_url(part.strip()) for part in re.split(r",(?=\s*[A-Za-z]+://)", text))

    return Kind(parse, lambda urls: ",".join(map(str, urls)), many=True, secret=True)


def parse_http_proxy(text: str) -> HttpProxy:
    """A ValueError shows the URL without its password."""
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError:
        parts, port = urlsplit(""), 0
    if not port or not _is_proxy(text, parts):
        form = "write http://host:port or http://user:password@host:port, special characters as %XX"
        raise ValueError(f"{_shown(text)} is not a proxy: {form}")
    host = _web_host(parts.hostname or "", _shown(text))
    user = None if parts.username is None else unquote(parts.username)
    return HttpProxy(host, port, user, Secret(unquote(parts.password or "")))


def _is_proxy(text: str, parts: SplitResult) -> bool:
    if parts.scheme != "http" or parts.path not in ("", "/") or not text.isascii() or not text.isprintable():
        return False
    if parts.query or parts.fragment or parts.netloc.count("@") > 1 or _BAD_ESCAPE.search(text) or " " in text:
        return False
    login, _, authority = parts.netloc.rpartition("@")
    if not _is_authority(authority) or not unquote(login).isprintable():
        return False
    return _is_host(parts.hostname or "") and ":" not in unquote(parts.username or "")


def http_proxy() -> Kind[HttpProxy]:
    return Kind(parse_http_proxy, str, secret=True)


def admin_address() -> Kind[AdminAddress | None]:
    def parse(text: str) -> AdminAddress | None:
        if text.lower() == "off":
            return None
        found = _HOST_PORT.fullmatch(text)
        host = found[1].strip("[]") if found else ""
        if found is None or int(found[2]) > 65535 or not _is_host(host) or (":" in host) != text.startswith("["):
            raise ValueError(f"{shortened(text)} is not host:port, e.g. 127.0.0.1:8080, [::1]:8080, 0.0.0.0:0, or off")
        return AdminAddress(host, int(found[2]))

    return Kind(parse, lambda address: "off" if address is None else str(address))


def http_allow() -> Kind[HttpAllow]:
    def parse(text: str) -> HttpAllow:
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        networks = [entry for entry in entries if _is_network(entry)]
        return HttpAllow(
            networks=tuple(_network(entry) for entry in networks),
            hosts=tuple(_allowed_host(entry) for entry in entries if entry not in networks),
        )

    return Kind(parse, str, many=True, empty=True)


def parse_origin(text: str) -> str:
    """`https://host[:port]` in lower case, the usual port left out. A ValueError for what no request can go to."""
    trouble = f"{shortened(mask_url(text))} is not an origin: write https://host or https://host:port, without a path"
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise ValueError(trouble) from None
    if parts.scheme not in _WEB_PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(trouble)
    if not _is_authority(parts.netloc) or port == 0 or not _is_host(host):
        raise ValueError(trouble)
    host = _web_host(host, shortened(mask_url(text)))
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _WEB_PORTS[parts.scheme]) else f":{port}")


def every_address(networks: Iterable[Network]) -> list[Network]:
    """Those that leave nothing closed: 0.0.0.0/0 and ::/0."""
    return [network for network in networks if network.prefixlen == 0]


def _is_network(entry: str) -> bool:
    return "/" in entry or _address(entry) is not None


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        pass
    try:
        meant = f", perhaps {ipaddress.ip_network(entry, strict=False)}"
    except ValueError:
        meant = ""
    raise ValueError(f"{shortened(mask_url(entry))} is neither a network such as 10.1.0.0/16 nor a host name{meant}")


def _allowed_host(entry: str) -> str:
    # a last label of digits would be read as an address by some resolvers
    if not _is_host(entry) or entry.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError(f"{shortened(mask_url(entry))} is not a host name: without scheme, port, path and wildcard")
    return entry.lower().rstrip(".")


def _is_authority(text: str) -> bool:
    """Whether it is host[:port] as every parser reads it: brackets around IPv6 addresses and nothing else."""
    found = _AUTHORITY.fullmatch(text)
    return found is not None and ("[" in text) == (":" in found[1])


def _web_host(host: str, written: str) -> str:
    """The host as HTTP requests will read it; a ValueError for one that looks like an address and is none.

    `written` is what messages show of the whole. Other spellings of addresses are refused: who reads `127.1` or
    `0x7f000001` in a configuration should not have to know what it means.
    """
    address = _address(host)
    if address is None:
        if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
            raise ValueError(f"{written}: its host ends in a number and is no address; write four numbers up to 255")
        return host.removesuffix(".")
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{written}: an address with a zone cannot be used; write one that holds without it")
    return str(address)


def _is_host(host: str) -> bool:
    return _HOST.fullmatch(host) is not None or _address(host) is not None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
