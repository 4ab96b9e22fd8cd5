"""The two faces of the engine: `send` (lean), and an `httpx.AsyncClient` for code that speaks httpx."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

from worker import (
    Gate,
    Limits,
    MaybeSent,
    NotSent,
    Reject,
    Request,
    RequestError,
    RequestTimeout,
    Response,
    StatusError,
)
from worker.http.engine import USER_AGENT, Engine
from worker.http.status import is_retried
from worker.http.trail import BadAnswer, NotInTime

# What httpx adds by itself and the engine makes from the body and the URL.
_FRAMING: Final = frozenset({"host", "connection", "content-length", "transfer-encoding"})
_TRANSIENT: Final = (
    RequestError,
    TimeoutError,
    httpx.NetworkError,
    httpx.TimeoutException,
    httpx.RemoteProtocolError,
)


# The errors of the httpx face are httpx's and ours at once: `except httpx.HTTPError` works in a handler, and one that
# nobody catches still says to the runtime what it means.
class ConnectError(NotSent, httpx.ConnectError):
    """Surely not sent."""


class ConnectTimeout(NotSent, httpx.ConnectTimeout):
    """Surely not sent: no connection before the deadline."""


class ReadError(MaybeSent, httpx.ReadError):
    """Sent, and the connection broke."""


class RemoteProtocolError(MaybeSent, httpx.RemoteProtocolError):
    """Sent, and what came is no whole HTTP answer."""


class ReadTimeout(RequestTimeout, httpx.ReadTimeout):
    """Sent, and no whole answer came in time."""


class RejectedRequest(Reject, httpx.TransportError):
    """No repeat can mend it: forbidden address, bad certificate, too large an answer (see `code`)."""


class HttpTransport:
    """The process's way out: fulfils `worker.runtime.transport.Transport`.

    Every request of both faces passes `gate`, which may wait, refuse, count it and add headers.
    """

    def __init__(self, engine: Engine, *, gate: Gate | None = None) -> None:
        self._engine = engine
        self._gate = gate or _open_gate
        self._client: httpx.AsyncClient | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """One `httpx.AsyncClient` for all: no cookies, no environment, no redirects unless a call asks for them.

        The longest of a call's httpx timeouts bounds the whole call; None leaves it to the job's own.
        """
        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=_HttpxFace(self, self._engine.limits),
                timeout=self._engine.limits.timeout,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                max_redirects=3,
                trust_env=False,
            )
        return self._client

    async def send(self, request: Request) -> Response:
        """The answer; see `Engine.send` for what it raises."""
        async with self._gate(request) as marked:
            return await self._engine.send(marked)

    def is_transient(self, error: BaseException) -> bool:
        """Whether a quick repeat may succeed: connection errors, timeouts, and the retried statuses of both faces.

        Not 429, nor 503 with Retry-After: those ask to wait, and that is a Snooze.
        """
        match error:
            case StatusError(response=answer):
                return is_retried(answer.status, answer.headers)
            case httpx.HTTPStatusError(response=answer):
                return is_retried(answer.status_code, answer.headers)
            case Reject():
                return False
            case _:
                return isinstance(error, _TRANSIENT)

    async def self_test(self) -> None:
        """Prove that the address guard is live; a RuntimeError when it is not."""
        await self._engine.self_test()

    async def aclose(self) -> None:
        """End both faces and all connections."""
        if self._client is not None:
            await self._client.aclose()
        await self._engine.aclose()


class _HttpxFace(httpx.AsyncBaseTransport):
    """Takes httpx's requests, gives httpx's responses and errors; bodies are whole in both directions."""

    def __init__(self, transport: HttpTransport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._transport.send(await self._ours(request))
        except (RequestError, Reject) as error:
            raise _httpx_error(error) from None
        except ValueError as error:
            raise httpx.LocalProtocolError(str(error)) from None
        return _httpx_response(response)

    async def _ours(self, request: httpx.Request) -> Request:
        headers = {name: value for name, value in request.headers.items() if name not in _FRAMING}
        body = await self._body(request)
        return Request(request.method, _url(request.url), headers, body, _bound(request, self._limits.timeout))

    async def _body(self, request: httpx.Request) -> bytes | None:
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("a synchronous stream cannot be sent by an asynchronous client")
        content = bytearray()
        async for chunk in request.stream:
            content += chunk
            if len(content) > self._limits.max_request:
                raise ValueError(f"the request's body is above {self._limits.max_request} bytes")
        return bytes(content) or None


def _url(url: httpx.URL) -> str:
    """Without userinfo: httpx has made a header of it already."""
    host = url.raw_host.decode("ascii")
    if not host or url.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("an absolute http or https URL is needed")
    authority = f"[{host}]" if ":" in host else host
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{authority}{port}{url.raw_path.decode('ascii')}"


def _bound(request: httpx.Request, default: float) -> float:
    """The longest phase given: httpx bounds each, the engine the whole. Infinite when all are None."""
    phases: dict[str, float | None] | None = request.extensions.get("timeout")
    if phases is None:
        return default
    return max((seconds for seconds in phases.values() if seconds is not None), default=math.inf)


def _httpx_response(response: Response) -> httpx.Response:
    """A Content-Encoding that is still there was not offered, and httpx would inflate it without bound: left out."""
    headers = [(name, value) for name, value in response.headers.items() if name != "content-encoding"]
    return httpx.Response(response.status, headers=headers, content=response.body)


def _httpx_error(error: RequestError | Reject) -> Exception:
    text = str(error)
    match error:
        case Reject():
            return RejectedRequest(error.detail, code=error.code)
        case RequestTimeout():
            return ReadTimeout(text)
        case NotInTime():
            return ConnectTimeout(text)
        case NotSent():
            return ConnectError(text)
        case BadAnswer():
            return RemoteProtocolError(text)
        case _:
            return ReadError(text)


@asynccontextmanager
async def _open_gate(request: Request) -> AsyncIterator[Request]:
    yield request
