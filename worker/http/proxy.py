"""The way out through a proxy that the operator named: it is what is dialled, and it resolves the names."""

from __future__ import annotations

import errno
import socket
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from worker import MaybeSent
from worker.http.guard import Guard
from worker.http.lookups import LookupThreads
from worker.http.resolver import AddrInfo, Undialled, endpoints, is_pinned, open_pinned, pin, results
from worker.http.url import Url

WANTS_LOGIN: Final = "the proxy wants a user and password that it knows (407)"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `host` has no brackets; `user` None is a proxy that asks for nobody."""

    host: str
    port: int
    user: str | None = None
    password: str = field(default="", repr=False)

    @property
    def url(self) -> URL:
        return URL.build(scheme="http", host=self.host, port=self.port)

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy, and nobody else, is to see."""
        if self.user is None:
            return {}
        login = b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {login}"}


class ProxiedResolver(AbstractResolver):
    """What `GuardedResolver` is without a proxy: literals are judged as ever, names by what they say.

    Only the proxy's own name is resolved and only the proxy is dialled. The guard has no say about its address, for
    the operator named it.
    """

    def __init__(self, guard: Guard, names: LookupThreads, proxy: Proxy) -> None:
        self._guard = guard
        self._names = names
        self._proxy = proxy
        self._name = proxy.url.raw_host or ""

    async def admit(self, url: Url) -> None:
        """Blocked when the proxy may not be asked for it."""
        pin((), 0)
        closed = await endpoints(self._guard, self._names, url.host, url.port)
        if url.literal is not None:
            self._guard.check(url.host, url.port, [url.host], closed)
        else:
            self._guard.check_name(url.host, url.port, await self._known_here(url), closed)
        pin([self._name], self._proxy.port)

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 (aiohttp names it; both are asked for)
    ) -> list[ResolveResult]:
        """For aiohttp: the proxy's addresses, an Undialled when this was not admitted, an OSError when it has none."""
        if not is_pinned(host, port):
            raise Undialled("a request went to the proxy that nobody admitted")
        answers = await self._names.addresses(host)
        pin([host, *answers], port)
        return results(host, port, answers)

    async def close(self) -> None:
        """For aiohttp; the threads belong to whoever made them."""

    def open_socket(self, info: AddrInfo) -> socket.socket:
        """For aiohttp: a socket for the proxy's address, an Undialled for any other."""
        return open_pinned(info)

    async def _known_here(self, url: Url) -> list[str]:
        """Where a forbidden endpoint has that port, what the name leads to, if anybody here knows."""
        if not self._guard.has_endpoint(url.port):
            return []
        try:
            return await self._names.addresses(url.host)
        except OSError:
            return []


class ProxyFailed(aiohttp.ClientConnectionError):
    """It was the proxy that failed, before it passed anything on. The text shows nothing of what it said."""


def by_proxy(request: aiohttp.ClientRequest, proxy: Proxy) -> None:
    """Send `request` by the proxy: plain http in its absolute form, https through a tunnel that shows it the name."""
    login = proxy.headers
    if request.is_ssl():
        # aiohttp's own way into a tunnel would look for the dot in the certificate
        request.server_hostname = request.server_hostname or request.host.removesuffix(".")
        request.update_proxy(proxy.url, None, {"User-Agent": request.headers["User-Agent"], **login})
    else:
        request.update_proxy(proxy.url, None, None)
        request.headers.update(login)


def proxy_failed(error: aiohttp.ClientError) -> ProxyFailed | None:
    """What to say of an error while connecting; None when it was not the proxy's."""
    if isinstance(error.__cause__, Undialled):
        return None
    match error:
        case aiohttp.ClientHttpProxyError(status=407):
            return ProxyFailed(WANTS_LOGIN)
        case aiohttp.ClientHttpProxyError(status=status):
            return ProxyFailed(f"the proxy refused to connect ({status})")
        case aiohttp.ClientResponseError() | aiohttp.ServerDisconnectedError():
            return ProxyFailed("the proxy did not answer as one")
        case aiohttp.ClientConnectorDNSError():
            return ProxyFailed("the name of the proxy was not resolved")
        case aiohttp.ClientProxyConnectionError():
            return ProxyFailed(f"the proxy was not reached ({errno.errorcode.get(error.errno or 0, 'closed')})")
    return None


def check_login(proxy: Proxy | None, url: Url, status: int) -> None:
    """A 407 to plain http is the proxy's, as far as the target tells the truth: hence a MaybeSent."""
    if proxy is not None and url.scheme == "http" and status == 407:
        raise MaybeSent(WANTS_LOGIN)
