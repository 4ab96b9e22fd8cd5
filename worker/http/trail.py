"""How far one call has got, and so what its errors may claim: not sent, maybe sent, or not to be mended."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from worker import BadAnswer, CredentialUnavailable, MaybeSent, NotInTime, NotSent, Reject, RequestError, RequestTimeout
from worker.http.body import TooLarge
from worker.http.guard import Blocked
from worker.http.proxy import ProxyFailed
from worker.http.resolver import Undialled

HEADER_LINES: Final = 128
HEADER_BYTES: Final = 16 << 10
"""Most response headers, and the longest of them in bytes."""


class TrackedRequest(aiohttp.ClientRequest):
    """A request that knows whether a connection was given to it: from then on bytes may have left."""

    reached = False

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        self.reached = True
        return await super().send(conn)


class Trail:
    """How far one call has got, redirects included. It is the aiohttp middleware of the call.

    Errors are named here, inside aiohttp's own loop: it sends GET, PUT and DELETE a second time for the errors it
    knows, and knows none of ours.
    """

    def __init__(self) -> None:
        self._request: aiohttp.ClientRequest | None = None
        self._answered = False
        self._lacks_token = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        self._request = request
        try:
            return await handler(request)
        except (aiohttp.ClientError, OSError) as error:
            raise self.named(error) from None

    def next_hop(self) -> None:
        self._answered, self._request = True, None

    def refused(self) -> None:
        """The answer was that nothing was executed, and the hop begins anew: as if it had not been sent before."""
        self._request = None

    @contextmanager
    def waits_for_token(self) -> Iterator[None]:
        """A deadline that passes in here is the token endpoint's. One of the job's would take it for its target's."""
        self._lacks_token = True
        yield
        self._lacks_token = False  # only then: an error ends the call

    @property
    def may_be_sent(self) -> bool:
        return self._answered or (isinstance(self._request, TrackedRequest) and self._request.reached)

    def named(self, error: Exception) -> RequestError | Reject:
        """Our error for aiohttp's, whose text is left out: it may hold addresses or what the server said."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Reject("the certificate of the target is not valid", code="tls")
        if isinstance(error, aiohttp.ClientOSError) and isinstance(error.__cause__, Undialled):
            return Blocked("the target")
        if isinstance(error.__cause__, HttpProcessingError) and _too_long(error):
            return TooLarge("a response header", HEADER_BYTES)
        return _broken(error) if self.may_be_sent else _unconnected(error)

    def late(self, seconds: float) -> RequestError:
        """The error for a deadline that passed."""
        if self.may_be_sent:
            return RequestTimeout(f"no whole answer within {seconds:g} s")
        if self._lacks_token:
            return CredentialUnavailable(f"no token within {seconds:g} s")
        return NotInTime(f"no connection within {seconds:g} s")


def _too_long(error: Exception) -> bool:
    return isinstance(error.__cause__.__cause__ if error.__cause__ else None, LineTooLong)


def _unconnected(error: Exception) -> NotSent:
    if isinstance(error, TimeoutError):
        return NotInTime("no connection in time")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NotSent("the name was not resolved")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return NotSent("the TLS handshake failed")
    if isinstance(error, ProxyFailed):
        return NotSent(str(error))
    return NotSent(f"no connection ({_errno(error)})")


def _broken(error: Exception) -> MaybeSent:
    if isinstance(error, zlib.error):
        return BadAnswer("the compressed body is broken")
    if isinstance(error, aiohttp.ClientResponseError):
        return BadAnswer("the answer is not HTTP")
    if isinstance(error, aiohttp.ClientPayloadError):
        return BadAnswer("the body is cut short or no HTTP")
    return MaybeSent(f"the connection broke ({_errno(error)})")


def _errno(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number, "unknown") if number else "closed"
