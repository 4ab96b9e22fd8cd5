"""What a context needs to make requests: declared here by its user, fulfilled by `worker.http`."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

if TYPE_CHECKING:
    import httpx


_MAY_BE_SENT: Final = "worker_may_be_sent"


class RequestError(Exception):
    """A request got no usable answer. The subclasses say whether it can have been executed."""


class NotSent(RequestError):
    """Surely not sent (name not resolved, connection refused, no connection in time): safe to repeat."""


class NotInTime(NotSent):
    """No connection before the deadline."""


class CredentialUnavailable(NotSent):
    """No token or certificate to send it with. Says nothing about the target, which nobody has asked."""


class MaybeSent(RequestError):
    """Sent in part or whole, and no whole answer came: the target may have executed it."""


class BadAnswer(MaybeSent):
    """Something came that is no whole HTTP answer."""


class RequestTimeout(MaybeSent):
    """The total deadline passed after sending had begun (before that it is NotSent)."""


class StatusError(RequestError):
    """`Response.raise_for_status()` on a status of 400 or above."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


def mark_sent(cancelled: asyncio.CancelledError) -> None:
    """Note that a request which was cancelled may have been sent.

    On the very object that goes on its way, for whoever ends a timeout tests for that type and no other.
    """
    cancelled.__dict__[_MAY_BE_SENT] = True


def may_be_sent(error: BaseException) -> bool:
    """Whether an error is, or its cause is, the cancellation of a request that may have been sent."""
    return any(one is not None and _MAY_BE_SENT in vars(one) for one in (error, error.__cause__))


class Headers(Mapping[str, str]):
    """Response headers: names compare without case; repeated ones are joined by ", " as HTTP allows."""

    __slots__ = ("_values",)

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            values[key] = f"{values[key]}, {value}" if key in values else value
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine allows itself. Times in seconds, sizes in bytes.

    `timeout` is the total for a request that names none. `connect_timeout` bounds getting a connection: waiting for
    a free one, resolving, connecting, TLS. `max_response` counts on the wire and again once inflated. The
    connections should outnumber the steps in flight, so that the pool never is the limit. An idle connection is
    dropped after `idle_timeout`, before common servers (5 s) drop it under a request that is on its way.
    """

    timeout: float = 10.0
    connect_timeout: float = 5.0
    max_response: int = 1 << 20
    max_request: int = 16 << 20
    max_connections: int = 2000
    max_connections_per_host: int = 1000
    idle_timeout: float = 4.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the engine sends it. `timeout` (seconds) bounds it as a whole, reading the body included.

    `auth` and `sign` name credentials of the configuration: what these add is put in by the engine as it sends, so
    that a request never holds a secret of the operator's.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 10.0
    redirects: int = 0
    auth: str | None = None
    sign: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, its body read and decoded under the response cap."""

    status: int
    headers: Headers
    body: bytes
    url: str

    @property
    def text(self) -> str:
        """The body as UTF-8; what cannot be decoded becomes U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON; a ValueError when it is none."""
        return jsonlib.loads(self.body)

    def raise_for_status(self) -> Response:
        """Itself when the status is below 400, else a StatusError."""
        if self.status >= 400:
            raise StatusError(self)
        return self


Gate = Callable[[Request], AbstractAsyncContextManager[Request]]
"""What every request passes before it is sent: may wait, count, refuse, and hand on the request with more headers."""


class Call(Protocol):
    """A request to a host, from when it is its turn until it has ended.

    Entering raises a Snooze while everything for that host is held back; whatever leaves the block is an end.
    """

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer is there. To be said before the block is left."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Transport(Protocol):
    """One shared way out for every job of the process."""

    @property
    def client(self) -> httpx.AsyncClient:
        """The `httpx.AsyncClient` over the same engine: `context.http`."""

    async def send(self, request: Request) -> Response:
        """The answer; raises a RequestError, or a Reject for what no repeat can mend (address, TLS, size)."""

    def credential_fault(
        self, *, auth: str | None, sign: str | None, url: str | None, headers: Collection[str]
    ) -> str | None:
        """What forbids a request with these headers (names) to use these credentials; None when nothing does.

        `url` is None as long as it is not known. Whatever is sent is judged once more, with its final URL.
        """

    def is_transient(self, error: BaseException) -> bool:
        """Whether a repeat may succeed: connection errors, timeouts, and the statuses that are retried."""

    async def aclose(self) -> None:
        """End all connections."""
