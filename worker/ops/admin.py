"""The admin listener: /live, /ready, /metrics and /jobs on the worker's own loop; /pause and /resume by POST.

Written on asyncio's streams instead of aiohttp.web: that has no bound on how long a connection may say nothing and
none on how many there are, and costs the parent of several processes, which needs no HTTP client, 200 ms and 20 MB.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol

import structlog

from worker.ops.admin_http import (
    HEAD_END,
    LARGEST_HEAD,
    Answer,
    Ask,
    Refused,
    check_host,
    check_method,
    check_no_page,
    json_answer,
    key_of,
    parse_head,
    text_answer,
)

MOST_CONNECTIONS: Final = 64
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LINGER: Final = 1.0

log = structlog.get_logger("worker.admin")


@dataclass(frozen=True, slots=True)
class Check:
    """What a probe is told: 200 if `ok`, else 503, with the detail as JSON."""

    ok: bool
    detail: Mapping[str, Any] = field(default_factory=dict)


class Watched(Protocol):
    """What can be asked about the workers, anew for every request."""

    async def live(self) -> Check: ...
    async def ready(self) -> Check: ...
    async def metrics(self) -> str: ...
    async def jobs(self) -> list[dict[str, Any]]: ...


class AdminSource(Watched, Protocol):
    """What the listener tells, and who takes its orders."""

    async def pause(self, key: str | None) -> dict[str, Any]: ...
    async def resume(self, key: str | None) -> dict[str, Any]: ...


class CannotListen(Exception):
    """The address cannot be bound; the text names the setting and the fix."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: `head` until a request has come whole, `answer` until the source has told, `taken` until it is read."""

    head: float = 5.0
    answer: float = 5.0
    taken: float = 10.0


class AdminListener:
    """Listens on `host` and `port` (0: the system picks one).

    `token` guards orders, and /jobs when `host` is off loopback. It is asked for at each request: it may change.
    """

    def __init__(
        self,
        source: AdminSource,
        host: str,
        port: int,
        *,
        token: Callable[[], str | None] = lambda: None,
        patience: Patience | None = None,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._host = host
        self._port = port
        self._token = token
        self._patience = patience or Patience()
        self._most = most_connections
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._on_loopback = False
        self._source = source
        self._routes: Mapping[str, Callable[[], Awaitable[Answer]]] = {
            "/live": self._live,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/jobs": self._jobs,
        }
        self._orders: Mapping[str, Callable[[str | None], Awaitable[dict[str, Any]]]] = {
            "/pause": source.pause,
            "/resume": source.resume,
        }

    async def start(self) -> tuple[str, int]:
        """Bind and serve; the address that was bound. CannotListen if it is taken or not this machine's."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=LARGEST_HEAD)
        except OSError as error:
            place = f"admin listener {self._host}:{self._port}: {_reason(error)}"
            raise CannotListen(f"{place}; set WORKER_ADMIN to another host:port, to port 0, or to off") from None
        addresses = [socket.getsockname() for socket in self._server.sockets]
        self._on_loopback = all(ipaddress.ip_address(address[0]).is_loopback for address in addresses)
        return addresses[0][0], addresses[0][1]

    async def stop(self) -> None:
        """Take no more connections and end those that are open. May be called twice, or without a start."""
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= self._most:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            await self._exchange(reader, writer)
        except (OSError, TimeoutError):
            pass  # the other side is gone or asleep
        except asyncio.CancelledError:
            pass  # stop(); asyncio logs a cancelled connection as an error
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_body = True
        try:
            async with asyncio.timeout(self._patience.head):
                head = await reader.readuntil(HEAD_END)
            ask = parse_head(head)
            with_body = ask.method != "HEAD"
            answer = await self._answer(ask)
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            text = f"the head of a request may have {LARGEST_HEAD} bytes"
            answer = Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text).answer
        except Refused as refused:
            answer = refused.answer
        async with asyncio.timeout(self._patience.taken):
            writer.transport.set_write_buffer_limits(high=0)  # so that drain() means all of it, not all but 64 KiB
            writer.write(answer.encode(with_body=with_body))
            writer.write_eof()
            await writer.drain()
            await self._linger(reader)

    async def _linger(self, reader: asyncio.StreamReader) -> None:
        """Closing on bytes nobody has read resets the connection, and the other side may never see the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while await reader.read(LARGEST_HEAD):
                    pass

    async def _answer(self, ask: Ask) -> Answer:
        check_host(ask, self._host, on_loopback=self._on_loopback)
        answer = self._chosen(ask)
        try:
            async with asyncio.timeout(self._patience.answer):
                return await answer()
        except TimeoutError:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "no answer in time") from None
        except Exception:
            log.exception("admin.failed", path=ask.path)
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed; the log says why") from None

    def _chosen(self, ask: Ask) -> Callable[[], Awaitable[Answer]]:
        """What answers the request, if whoever asks may have it."""
        order, route = self._orders.get(ask.path), self._routes.get(ask.path)
        if order is not None:
            check_method(ask, "POST")
            check_no_page(ask)
            self._check_token(ask)
            return partial(self._obey, order, key_of(ask))
        check_method(ask, "GET", "HEAD")
        if route is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is only {', '.join((*self._routes, *self._orders))}")
        if ask.path == "/jobs" and not self._on_loopback:
            self._check_token(ask)
        return route

    def _check_token(self, ask: Ask) -> None:
        token = self._token()
        if not token and self._on_loopback:
            return
        if not token:
            raise Refused(HTTPStatus.FORBIDDEN, f"off loopback {ask.path} needs a token: set WORKER_ADMIN_TOKEN")
        scheme, _, given = ask.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
        if scheme.lower() != "bearer" or not right:
            text = f"{ask.path} needs the header Authorization: Bearer <WORKER_ADMIN_TOKEN>"
            raise Refused(HTTPStatus.UNAUTHORIZED, text, {"WWW-Authenticate": "Bearer"})

    async def _live(self) -> Answer:
        return _checked(await self._source.live())

    async def _ready(self) -> Answer:
        return _checked(await self._source.ready())

    async def _metrics(self) -> Answer:
        return text_answer(await self._source.metrics(), _METRICS_TYPE)

    async def _jobs(self) -> Answer:
        return json_answer(await self._source.jobs())

    async def _obey(self, order: Callable[[str | None], Awaitable[dict[str, Any]]], key: str | None) -> Answer:
        return json_answer(await order(key))


def _checked(check: Check) -> Answer:
    status = HTTPStatus.OK if check.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return json_answer({"ok": check.ok, **check.detail}, status)


def _reason(error: OSError) -> str:
    # asyncio puts a sentence of its own around the system's; a failed lookup has no errno of the system's
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror or error)
