"""The connection pool: aiohttp's, with the guard's hooks, and without connections that died in it."""

from __future__ import annotations

import select
import ssl
import weakref
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from worker import Limits
from worker.http.proxy import ProxiedResolver, Proxy, by_proxy, proxy_failed
from worker.http.resolver import GuardedResolver


class Connector(aiohttp.TCPConnector):
    """Hands out connections that are alive as far as anyone can tell.

    A server that closes an idle connection is noticed only when the loop reads; a request sent into that gap ends as
    "maybe sent", which a job that must not be repeated pays for. And aiohttp takes an answer that nobody asked for as
    that of the next request. So the socket is looked at before it is used again: any news means another connection.
    """

    def __init__(
        self,
        resolver: GuardedResolver | ProxiedResolver,
        limits: Limits,
        context: ssl.SSLContext,
        proxy: Proxy | None = None,
    ) -> None:
        super().__init__(
            resolver=resolver,
            socket_factory=resolver.open_socket,
            use_dns_cache=False,
            limit=limits.max_connections,
            limit_per_host=limits.max_connections_per_host,
            keepalive_timeout=limits.idle_timeout,
            ssl=context,
        )
        self._proxy = proxy
        self._polls: weakref.WeakKeyDictionary[ResponseHandler, select.poll] = weakref.WeakKeyDictionary()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        if self._proxy is not None:
            by_proxy(req, self._proxy)
        while True:
            connection = await self._connected(req, traces, timeout)
            if (protocol := connection.protocol) is not None:
                poll = self._polls.get(protocol)
                if poll is None:  # fresh: it may have something to read, TLS session tickets
                    self._watch(connection, protocol)
                    return connection
                if not protocol.should_close and not poll.poll(0):
                    return connection
            connection.close()

    async def _connected(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except aiohttp.ClientError as error:
            if self._proxy is not None and (failed := proxy_failed(error)) is not None:
                raise failed from None
            raise

    def _watch(self, connection: Connection, protocol: ResponseHandler) -> None:
        transport = connection.transport
        number = -1 if transport is None else transport.get_extra_info("socket").fileno()
        if number >= 0:
            poll = self._polls[protocol] = select.poll()
            poll.register(number, select.POLLIN)


def trusted_context(authorities: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, names checked, believing the system's authorities or those of a PEM file instead.

    There is no way to switch the checks off.
    """
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
