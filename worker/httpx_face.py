"""httpx's API and error tree over any way to send a request of ours; and what is worth a repeat, on both faces.

Shared by the real way out (`worker.http`) and by the scripted one (`worker.testing`), which so agree.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

from worker.core.outcome import Reject
from worker.runtime.crossing import harmless_headers
from worker.runtime.statuses import is_retried
from worker.runtime.transport import (
    BadAnswer,
    Limits,
    MaybeSent,
    NotInTime,
    NotSent,
    Request,
    RequestError,
    RequestTimeout,
    Response,
    StatusError,
    mark_sent,
)

Send = Callable[[Request], Awaitable[Response]]

# What httpx adds by itself and the engine makes from the body and the URL.
_FRAMING: Final = frozenset({"host", "connection", "content-length", "transfer-encoding"})
# Of the address a request was last sent to. httpx hands extensions on to the request that a redirect asks for.
_CAME_FROM: Final = "worker_came_from"
# Whether an earlier hop of the same call was answered.
_ANSWERED: Final = "worker_answered"
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


def httpx_client(send: Send, limits: Limits, *, user_agent: str) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` over `send`: no cookies, no environment, no redirects unless a call asks for them.

    The longest of a call's httpx timeouts bounds the whole call; None leaves it to the job's own. A call names
    credentials of the configuration by `extensions={"auth": "crm", "sign": "partner"}`; httpx hands them on in its
    redirects, so that one to an origin that is not theirs is a Reject here. So is a redirect from https to http, and
    one that takes a body to another origin; there it takes none but harmless headers.
    """
    return httpx.AsyncClient(
        transport=_HttpxFace(send, limits),
        timeout=limits.timeout,
        headers={"User-Agent": user_agent, "Accept-Encoding": "gzip, deflate"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        max_redirects=3,
        trust_env=False,
    )


def is_transient(error: BaseException) -> bool:
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


class _HttpxFace(httpx.AsyncBaseTransport):
    """Takes httpx's requests, gives httpx's responses and errors; bodies are whole in both directions.

    httpx itself follows redirects, and drops no header but Authorization and Cookie: each hop is judged here anew.
    """

    def __init__(self, send: Send, limits: Limits) -> None:
        self._send = send
        self._limits = limits

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._send(await self._ours(request))
        except (RequestError, Reject) as error:
            raise _httpx_error(_of_the_call(request, error)) from None
        except ValueError as error:
            raise httpx.LocalProtocolError(str(error)) from None
        except asyncio.CancelledError as cancelled:
            if _ANSWERED in request.extensions:
                mark_sent(cancelled)
            raise
        request.extensions[_ANSWERED] = True
        return _httpx_response(response)

    async def _ours(self, request: httpx.Request) -> Request:
        url = _url(request.url)
        body = await self._body(request)
        _judge_hop(request, body)
        headers = {name: value for name, value in request.headers.items() if name not in _FRAMING}
        timeout = _bound(request, self._limits.timeout)
        auth, sign = (_credential(request, use) for use in ("auth", "sign"))
        return Request(request.method, url, headers, body, timeout, auth=auth, sign=sign)

    async def _body(self, request: httpx.Request) -> bytes | None:
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("a synchronous stream cannot be sent by an asynchronous client")
        content = bytearray()
        async for chunk in request.stream:
            content += chunk
            if len(content) > self._limits.max_request:
                raise ValueError(f"the request's body is above {self._limits.max_request} bytes")
        return bytes(content) or None


def _of_the_call(request: httpx.Request, error: RequestError | Reject) -> RequestError | Reject:
    """`error` for all hops of a call: once one of them was answered, it is no longer surely not sent."""
    if not isinstance(error, NotSent) or _ANSWERED not in request.extensions:
        return error
    return (RequestTimeout if isinstance(error, NotInTime) else MaybeSent)(f"after a redirect: {error}")


def _judge_hop(request: httpx.Request, body: bytes | None) -> None:
    """A Reject for a redirect that may not be followed. One to another origin loses its headers but the harmless ones.

    In httpx's own request: it makes the next hop's of this one's.
    """
    before: httpx.URL = request.extensions.get(_CAME_FROM, request.url)
    if (before.scheme, request.url.scheme) == ("https", "http"):
        raise Reject("a redirect may not lead from https to http")
    if _origin(before) != _origin(request.url):
        if body is not None:
            raise Reject("a redirect may not take the body to another origin")
        request.headers = httpx.Headers(harmless_headers(request.headers))
    request.extensions[_CAME_FROM] = request.url


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    """httpx has lowered scheme and host, and taken the usual port away."""
    return url.scheme, url.raw_host, url.port


def _credential(request: httpx.Request, use: str) -> str | None:
    """The credential that a call names for `use`."""
    name = request.extensions.get(use)
    if name is not None and not isinstance(name, str):
        raise ValueError(f"extensions[{use!r}] names a credential: it is text, not {type(name).__name__}")
    return name


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
    # as bytes: httpx would take text for ASCII, and a server may send any
    pairs = [(name.encode(), value.encode()) for name, value in response.headers.items() if name != "content-encoding"]
    return httpx.Response(response.status, headers=pairs, content=response.body)


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
