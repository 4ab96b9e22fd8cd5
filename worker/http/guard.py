"""Which addresses a job may reach: pure decisions on resolved addresses. `resolver.py` asks them at every connect."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from worker import Reject
from worker.http import names
from worker.http.url import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(entry) for entry in text.split())


# Not `ipaddress.is_global`: on 3.11.7 it calls NAT64, 6to4, multicast and Azure's 168.63.129.16 public.
_DENIED_IPV4: Final = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24"
    " 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    " 168.63.129.16/32"
)
_ROUTED_IPV6: Final = ipaddress.IPv6Network("2000::/3")
# Protocol assignments with Teredo, ORCHID and benchmarking; documentation; 6to4; documentation again.
_DENIED_IPV6: Final = _networks("2001::/23 2001:db8::/32 2002::/16 3fff::/20")
# What a host name entry opens. Loopback and link-local are not in it, and metadata addresses that are, are taken out.
_PRIVATE: Final = _networks("10.0.0.0/8 100.64.0.0/10 172.16.0.0/12 192.168.0.0/16 fc00::/7")
_METADATA: Final = _networks(
    "100.100.100.200 fd00:ec2::/32 fd20:ce::254 fd00:42::42 fd00:c1::a9fe:a9fe fd00:a9fe:a9fe::1"  # the clouds' own
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_LOOPBACK: Final = {4: ipaddress.ip_address("127.0.0.1"), 6: ipaddress.ip_address("::1")}
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


class Blocked(Reject):
    """The job may not reach this host. The text is the same whatever lies behind the name."""

    def __init__(self, host: str) -> None:
        super().__init__(f"the address of {host} is not allowed", code="blocked_address")
        self.host = host


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and port nobody may reach: the broker's, the admin listener's."""

    host: str
    port: int


Endpoints = Iterable[tuple[str, int]] | Callable[[], Iterable[tuple[str, int]]]


@lru_cache(maxsize=64)
def _endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(_plain(host.strip("[]")), port)


def is_own(address: Address) -> bool:
    """Whether the address is this machine's: whatever can be bound here is. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return address.is_loopback
    return True


class Guard:
    """Public addresses only, and what the operator opened; deny by default.

    `allow_networks`: CIDRs that are open, whatever they hold, on any port. `allow_hosts`: names whose private answers
    are open too, on any port, never loopback, link-local or metadata. `forbidden_endpoints`: (host or IP, port) pairs
    that stay closed even then; a function where they may change. A ValueError names an entry that cannot be read.
    """

    def __init__(
        self,
        allow_networks: Iterable[str] = (),
        allow_hosts: Iterable[str] = (),
        forbidden_endpoints: Endpoints = (),
        *,
        is_own: Callable[[Address], bool] = is_own,
    ) -> None:
        self._networks = tuple(_network(entry) for entry in allow_networks)
        self._hosts = frozenset(_plain(name) for name in allow_hosts)
        fixed = () if callable(forbidden_endpoints) else tuple(forbidden_endpoints)
        self._forbidden = forbidden_endpoints if callable(forbidden_endpoints) else lambda: fixed
        self._is_own = is_own

    @property
    def _endpoints(self) -> list[Endpoint]:
        return [_endpoint(host, port) for host, port in self._forbidden()]

    def endpoint_names(self, port: int) -> list[str]:
        """Host names of forbidden endpoints on this port: their addresses must be known before `check`."""
        return [one.host for one in self._endpoints if one.port == port and _address(one.host) is None]

    def check(self, host: str, port: int, answers: Iterable[str], endpoints: Iterable[str] = ()) -> None:
        """Blocked unless every one of `answers`, the resolved addresses of `host`, may be reached on `port`.

        One denied answer denies them all: which one would be dialled is not the job's to choose. `endpoints` are the
        addresses `endpoint_names` resolved to.
        """
        addresses = [_address(answer) for answer in answers]
        closed = [address for text in endpoints if (address := _address(text))]
        name = _plain(host)
        if not addresses or not all(one and self._allows(name, port, one, closed) for one in addresses):
            raise Blocked(host)

    def check_name(self, host: str, port: int, answers: Iterable[str] = (), endpoints: Iterable[str] = ()) -> None:
        """Blocked unless a proxy may be asked for the name `host`: it resolves the name, and nothing here sees to what.

        Names of internal networks need to be listed; those of this machine and of metadata services stay closed even
        then. `answers` are the addresses of `host` as far as they are known here, for they may be an endpoint's.
        """
        name = _plain(host)
        addresses = [address for text in answers if (address := _address(text))]
        closed = [address for text in endpoints if (address := _address(text))]
        if port == 0 or names.is_never_open(name) or self._is_endpoint(name, port, addresses, closed):
            raise Blocked(host)
        if name not in self._hosts and (names.is_internal(name) or not _is_usual(port)):
            raise Blocked(host)

    def has_endpoint(self, port: int) -> bool:
        """Whether a forbidden endpoint is on this port."""
        return any(one.port == port for one in self._endpoints)

    def _allows(self, name: str, port: int, address: Address, closed: list[Address]) -> bool:
        if port == 0 or self._is_endpoint(name, port, [address], closed):
            return False
        if any(_within(address, network) for network in self._networks):
            return True
        if name in self._hosts:
            return _is_public(address) or _is_private(address)
        return _is_usual(port) and _is_public(address)

    def _is_endpoint(self, name: str, port: int, addresses: list[Address], resolved: list[Address]) -> bool:
        here = [one for one in self._endpoints if one.port == port]
        if any(one.host == name for one in here):
            return True
        closed = [found for one in here if (found := _address(one.host)) is not None] + resolved if here else []
        return any(self._same(address, one) for address in addresses for one in closed)

    def _same(self, address: Address, endpoint: Address) -> bool:
        """One address, or two of this machine: a listener on 0.0.0.0 answers on every one of them."""
        there = _dialled(endpoint)
        return any(
            here == there or (self._is_own(here) and self._is_own(there))
            for here in (_dialled(address), *_carried(address))
        )


def _is_usual(port: int) -> bool:
    return port in (80, 443) or port >= 1024


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        raise ValueError(f"{entry!r} is not a CIDR: {error}") from None


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address this one really leads to: mapped, or through the well-known NAT64 prefix."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def _dialled(address: Address) -> Address:
    """Where the kernel really connects to: an unspecified address means loopback."""
    real = _embedded(address) or address
    return _LOOPBACK[real.version] if real.is_unspecified else real


def _carried(address: Address) -> list[Address]:
    """IPv4 addresses that a tunnel, relay or translator may take this one to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    number = int(address)
    lowest = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    carried: list[Address | None] = [address.sixtofour, *(address.teredo or ())]
    if number >> 32 == 0 or (number >> 32) & 0xFFFFFFFF in _ISATAP or address in _LOCAL_NAT64:
        carried.append(lowest)
    return [_dialled(one) for one in carried if one is not None]


def _within(address: Address, network: Network) -> bool:
    embedded = _embedded(address)
    return address in network or (embedded is not None and embedded in network)


def _is_public(address: Address) -> bool:
    if (embedded := _embedded(address)) is not None:
        return _is_public(embedded)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _DENIED_IPV4)
    if address not in _ROUTED_IPV6 or any(address in network for network in _DENIED_IPV6):
        return False
    return _isatap_is_public(address)


def _isatap_is_public(address: ipaddress.IPv6Address) -> bool:
    """An ISATAP interface id carries an IPv4 address that a tunnel on this network would reach."""
    if (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP:
        return True
    return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))


def _is_private(address: Address) -> bool:
    real = _embedded(address) or address
    return any(real in network for network in _PRIVATE) and not any(real in network for network in _METADATA)
