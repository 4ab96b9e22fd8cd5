"""One request over one connection pool: Request -> Response, within limits, with errors that say the truth.

aiohttp's client underneath (tests/benchmarks/engine.py has the figures), with its hazards closed: no silent resend, no
cookies, no redirects or inflating of its own, no requoting, no environment, and no "never sent" for what was sent.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import aiohttp

from worker import (
    Headers,
    Limits,
    NotSent,
    Reject,
    Request,
    RequestError,
    RequestTimeout,
    Response,
    SystemClock,
    mark_sent,
)
from worker.http.body import is_inflated, read_body
from worker.http.connector import Connector, trusted_context
from worker.http.guard import Blocked, Guard
from worker.http.headers import check_headers, is_token
from worker.http.redirect import LONGEST, redirected
from worker.http.resolver import GuardedResolver, LookupThreads, Undialled
from worker.http.trail import HEADER_BYTES, HEADER_LINES, TrackedRequest, Trail
from worker.http.url import parse_url

Observer = Callable[[str, str, float], None]
"""Called once per request with its host, its result and its seconds.

The result is `1xx` to `9xx`, `not_sent`, `maybe_sent`, `timeout`, `blocked`, `tls`, `too_large` or `cancelled`.
"""

CLOCK: Final = SystemClock()
SELF_TEST_SECONDS: Final = 2.0
_BODILESS: Final = frozenset({"GET", "HEAD"})
_NO_TYPE: Final = ("Content-Type",)  # aiohttp would call every body without a type an octet-stream
_RESULTS: Final = {"blocked_address": "blocked", "tls": "tls", "response_too_large": "too_large"}


def _version() -> str:
    try:
        return version("worker")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "0"


USER_AGENT: Final = f"worker/{_version()}"


class Engine:
    """The shared way out of one process. Make it anywhere; use it in one event loop.

    `ssl_context` replaces the system's trust (a private CA), `names` the system's resolver. `on_request` is told about
    every request.
    """

    def __init__(
        self,
        limits: Limits,
        guard: Guard,
        *,
        on_request: Observer | None = None,
        ssl_context: ssl.SSLContext | None = None,
        names: LookupThreads | None = None,
    ) -> None:
        self.limits = limits
        self._names = names or LookupThreads()
        self._resolver = GuardedResolver(guard, self._names)
        self._context = ssl_context or trusted_context()
        self._on_request = on_request or _unobserved
        self._open: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(self, request: Request) -> Response:
        """The whole answer, whatever its status.

        Raises NotSent, MaybeSent or RequestTimeout; a Reject for a forbidden address, a bad certificate or an answer
        above the cap; a ValueError for a request that HTTP cannot carry. A redirect that is not followed (not asked
        for, too many, to http, ...) is the answer. A cancellation says by `may_be_sent` how far the request had got.
        """
        _check(request)
        host = parse_url(request.url).name
        started = time.monotonic()
        result = "cancelled"
        try:
            response = await self._in_time(request)
            result = f"{response.status // 100}xx"
            return response
        except (RequestError, Reject) as error:
            result = _result(error)
            raise
        finally:
            self._on_request(host, result, time.monotonic() - started)

    async def aclose(self) -> None:
        """End all connections; requests in flight fail, later ones are NotSent."""
        self._closed = True
        self._names.close()
        if self._open is not None:
            await self._open.close()

    async def self_test(self) -> None:
        """Prove at start-up that the guard is live; a RuntimeError when an address nobody allowed can be dialled.

        The only address it tries is a listener of its own on loopback, which must not see a connection.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            if not (await self._blocks(url) and await self._dials_nothing_unadmitted(url)):
                raise RuntimeError("the address guard is not live: the HTTP engine reached an address nobody allowed")

    async def _blocks(self, url: str) -> bool:
        shut = Engine(self.limits, Guard(), ssl_context=self._context)
        try:
            await shut.send(Request("GET", url, timeout=SELF_TEST_SECONDS))
        except Blocked:
            return True
        except RequestError:
            return False
        finally:
            await shut.aclose()
        return False

    async def _dials_nothing_unadmitted(self, url: str) -> bool:
        """Past the first hook, as if somebody had removed it: the last one must hold, whatever is allowed."""
        bound = aiohttp.ClientTimeout(total=SELF_TEST_SECONDS)
        try:
            async with self._session().get(url, timeout=bound):
                return False
        except aiohttp.ClientConnectorError as error:
            return isinstance(error.__cause__, Undialled)
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _in_time(self, request: Request) -> Response:
        trail = Trail()
        try:
            async with CLOCK.timeout(None if request.timeout == math.inf else request.timeout):
                return await self._follow(request, trail)
        except TimeoutError:
            raise trail.late(request.timeout) from None
        except asyncio.CancelledError as cancelled:
            if trail.may_be_sent:
                mark_sent(cancelled)
            raise

    async def _follow(self, request: Request, trail: Trail) -> Response:
        response = await self._exchange(request, trail)
        for _ in range(min(request.redirects, LONGEST)):
            if (further := redirected(request, response)) is None:
                break
            trail.next_hop()
            request = further
            response = await self._exchange(request, trail)
        return response

    async def _exchange(self, request: Request, trail: Trail) -> Response:
        url = parse_url(request.url)
        await self._resolver.admit(url)
        try:
            async with self._session().request(
                request.method,
                url.yarl,
                headers=request.headers,
                data=request.body,
                skip_auto_headers=None if request.body is None and request.method in _BODILESS else _NO_TYPE,
                allow_redirects=False,
                middlewares=(trail,),
            ) as answer:
                body = await read_body(answer, self.limits.max_response)
                return Response(answer.status, _headers(answer), body, url.text)
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            raise trail.named(error) from None

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise NotSent("the engine is closed")
        if self._open is None:
            self._open = aiohttp.ClientSession(
                connector=Connector(self._resolver, self.limits, self._context),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self.limits.connect_timeout),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate"},
                auto_decompress=False,
                trust_env=False,
                request_class=TrackedRequest,
                max_line_size=HEADER_BYTES,
                max_field_size=HEADER_BYTES,
                max_headers=HEADER_LINES,
            )
        return self._open


def _unobserved(host: str, result: str, seconds: float) -> None:
    """Nobody counts."""


def _check(request: Request) -> None:
    if not is_token(request.method) or request.method.upper() == "CONNECT":
        raise ValueError(f"method {request.method[:20]!r} cannot be sent")
    check_headers(request.headers.items())


def _headers(answer: aiohttp.ClientResponse) -> Headers:
    """The response's headers; of an inflated body not those that described its packed form."""
    pairs = [(_text(name), _text(value)) for name, value in answer.raw_headers]
    if is_inflated(answer.headers.get("Content-Encoding", "")):
        pairs = [pair for pair in pairs if pair[0].lower() not in ("content-encoding", "content-length")]
    return Headers(pairs)


def _text(raw: bytes) -> str:
    """Not as aiohttp decodes: its surrogates would break the first log line or JSON they get into."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _result(error: RequestError | Reject) -> str:
    match error:
        case Reject():
            return _RESULTS[error.code]
        case RequestTimeout():
            return "timeout"
        case NotSent():
            return "not_sent"
        case _:
            return "maybe_sent"
