"""One request over one connection pool: Request -> Response, within limits, with errors that say the truth.

aiohttp's client underneath (tests/benchmarks/engine.py has the figures), with its hazards closed: no silent resend, no
cookies, no redirects or inflating of its own, no requoting, no environment, and no "never sent" for what was sent.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable
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
from worker.http.answer import checked, read_carefully
from worker.http.body import is_inflated, read_body, to_send
from worker.http.connector import Connector, trusted_context
from worker.http.credentials import Credential, Credentials, Extras, Notice
from worker.http.guard import Guard
from worker.http.headers import check_headers, is_token
from worker.http.lookups import LookupThreads
from worker.http.proxy import ProxiedResolver, Proxy, check_login
from worker.http.redirect import LONGEST, redirected
from worker.http.resolver import GuardedResolver
from worker.http.self_test import prove_guard
from worker.http.trail import HEADER_BYTES, HEADER_LINES, TrackedRequest, Trail
from worker.http.url import Url, parse_url

Observer = Callable[[str, str, float], None]
"""Called once per request with its host, its result and its seconds.

The result is `2xx` to `9xx`, `not_sent`, `maybe_sent`, `timeout`, `blocked`, `tls`, `too_large`, `credential`,
`rejected` or `cancelled`.
"""

LedOn = Callable[[Response, Request], Awaitable[None]]
"""Called between two hops with the redirect and what is sent next."""

CLOCK: Final = SystemClock()
_BODILESS: Final = frozenset({"GET", "HEAD"})
_NO_TYPE: Final = ("Content-Type",)  # aiohttp would call every body without a type an octet-stream
_RESULTS: Final = {
    "blocked_address": "blocked",
    "tls": "tls",
    "response_too_large": "too_large",
    "credential": "credential",
}


def _version() -> str:
    try:
        return version("worker")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "0"


USER_AGENT: Final = f"worker/{_version()}"


class Engine:
    """The shared way out of one process. Make it anywhere; use it in one event loop.

    `ssl_context` replaces the system's trust (a private CA), `names` the system's resolver. `on_request` is told about
    every request, `on_credential` about every change of `credentials` that concerns the operator. By `proxy`, if
    there is one, goes everything.
    """

    def __init__(
        self,
        limits: Limits,
        guard: Guard,
        *,
        on_request: Observer | None = None,
        ssl_context: ssl.SSLContext | None = None,
        names: LookupThreads | None = None,
        credentials: Iterable[Credential] = (),
        on_credential: Notice | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.limits = limits
        self.credentials = Credentials(credentials, self._fetch, notice=on_credential, timeout=limits.timeout)
        self._names = names or LookupThreads()
        self._proxy = proxy
        self._resolver = (
            GuardedResolver(guard, self._names) if proxy is None else ProxiedResolver(guard, self._names, proxy)
        )
        self._context = ssl_context or trusted_context()
        self._on_request = on_request or _unobserved
        self._open: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(self, request: Request, led_on: LedOn | None = None) -> Response:
        """The whole answer, whatever its status.

        Raises NotSent, MaybeSent or RequestTimeout; a Reject for a forbidden address, a bad certificate, an answer
        above the cap, or a credential that is not for it; a ValueError for a request that HTTP cannot carry. A redirect
        that is not followed (not asked for, too many, to http, ...) is the answer. A cancellation says by `may_be_sent`
        how far the request had got.
        """
        _check(request)
        host = parse_url(request.url).name
        started = time.monotonic()
        result = "cancelled"
        try:
            self.credentials.check(request)
            response = await self._in_time(request, led_on)
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
        self.credentials.close()
        self._names.close()
        if self._open is not None:
            await self._open.close()

    async def self_test(self) -> None:
        """Prove at start-up that the guard is live; GuardNotLive or GuardNotProven when it is not so."""
        await prove_guard(self._shut, self._session(), proxied=self._proxy is not None)

    def _shut(self, names: LookupThreads, proxy: Proxy | None) -> Engine:
        return Engine(self.limits, Guard(), ssl_context=self._context, names=names, proxy=proxy)

    async def _in_time(self, request: Request, led_on: LedOn | None) -> Response:
        trail = Trail()
        try:
            async with CLOCK.timeout(None if request.timeout == math.inf else request.timeout):
                return await self._follow(request, trail, led_on)
        except TimeoutError:
            raise trail.late(request.timeout) from None
        except asyncio.CancelledError as cancelled:
            if trail.may_be_sent:
                mark_sent(cancelled)
            raise

    async def _follow(self, request: Request, trail: Trail, led_on: LedOn | None) -> Response:
        response = await self._exchange(request, trail)
        for _ in range(min(request.redirects, LONGEST)):
            if (further := redirected(request, response)) is None:
                break
            trail.next_hop()
            if led_on is not None:
                await led_on(response, further)
            request = further
            response = await self._exchange(request, trail)
        return response

    async def _exchange(self, request: Request, trail: Trail) -> Response:
        url = parse_url(request.url)
        hop = functools.partial(self._hop, request, url, trail)
        return await self.credentials.exchange(request, url, hop, trail)

    async def _fetch(self, request: Request, extras: Extras) -> Response:
        """For the credentials, which fetch tokens: past everything that is counted for a job."""
        url, trail = parse_url(request.url), Trail()
        try:
            async with CLOCK.timeout(request.timeout):
                return await self._hop(request, url, trail, extras)
        except TimeoutError:
            raise trail.late(request.timeout) from None

    async def _hop(self, request: Request, url: Url, trail: Trail, extras: Extras) -> Response:
        await self._resolver.admit(url)  # here and not before: it holds until this task asks for another
        try:
            async with self._session().request(
                request.method,
                url.yarl,
                headers={**request.headers, **extras.headers},
                ssl=extras.ssl or True,
                data=to_send(request.body),
                skip_auto_headers=None if request.body is None and request.method in _BODILESS else _NO_TYPE,
                allow_redirects=False,
                middlewares=(trail,),
            ) as answer:
                check_login(self._proxy, url, answer.status)
                body = await read_body(checked(answer), extras.largest or self.limits.max_response)
                return Response(answer.status, _headers(answer), body, url.text)
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            raise trail.named(error) from None

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise NotSent("the engine is closed")
        if self._open is None:
            self._open = aiohttp.ClientSession(
                connector=read_carefully(Connector(self._resolver, self.limits, self._context, self._proxy)),
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
            return _RESULTS.get(error.code, "rejected")
        case RequestTimeout():
            return "timeout"
        case NotSent():
            return "not_sent"
        case _:
            return "maybe_sent"
