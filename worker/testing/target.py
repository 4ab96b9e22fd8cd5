"""A scripted stand-in for what a handler's requests go to: in memory, so that the moved clock works."""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from worker.core.outcome import Reject
from worker.runtime.bodies import UNSET, encoded_body, has_header
from worker.runtime.clock import Clock, SystemClock
from worker.runtime.context import job_call, job_gate
from worker.runtime.transport import Headers, Limits, MaybeSent, NotSent, Request, RequestTimeout, Response, mark_sent

if TYPE_CHECKING:
    import httpx

USER_AGENT: Final = "worker/testing"
_FOLLOWED: Final = frozenset({301, 302, 303, 307, 308})


class OffScript(AssertionError):
    """A request nobody has scripted an answer for. The test fails with it, whatever the handler makes of it."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came in. `at` is the time on the clock, in epoch seconds.

    `auth` and `sign` are the names of the credentials it would have used: here are no secrets, and no headers of them.
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    at: float
    auth: str | None = None
    sign: str | None = None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the URL; of one that is there twice the last value."""
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    @property
    def key(self) -> str | None:
        """Its Idempotency-Key."""
        return self.headers.get("idempotency-key")

    def json(self) -> Any:
        """The body as JSON; a ValueError when it is none."""
        return jsonlib.loads(self.body)


class Answer:
    """A whole answer. At most one of `json`, `text` and `body`; `after` is how long it takes, in seconds."""

    __slots__ = ("after", "body", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        *,
        json: Any = UNSET,
        text: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        after: float = 0.0,
    ) -> None:
        kind, content = encoded_body(json, None, text, body)
        self.status = status
        named = dict(headers or {})
        if kind and not has_header(named, "content-type"):
            named["content-type"] = kind
        self.headers = Headers(list(named.items()))
        self.body = content or b""
        self.after = after


@dataclass(frozen=True, slots=True)
class Refused:
    """No connection: surely not sent (`worker.NotSent`)."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection breaks after the request went out: maybe executed (`worker.MaybeSent`)."""


@dataclass(frozen=True, slots=True)
class Hangs:
    """No answer ever: the request ends at its timeout, or at that of its step."""


Reply = int | Answer | Refused | Broken | Hangs | Exception
"""A number is an answer of that status without a body; an exception is raised as it is."""

Replying = Reply | Callable[[Received], Reply]


@dataclass(slots=True)
class Script:
    """What one kind of request is answered with. `requests` are those that came for it."""

    method: str
    url: str
    requests: list[Received] = field(default_factory=list)
    _replies: list[Replying] = field(default_factory=lambda: [200])
    _given: int = 0

    def answers(self, *replies: Replying) -> Script:
        """Give these one after the other, and the last one from then on.

        A status, an `Answer`, `Refused()`, `Broken()`, `Hangs()`, an exception to raise, or a function that gets the
        request and returns one of these.
        """
        if not replies:
            raise ValueError(f"{self}: answers() needs at least one")
        for reply in replies:
            if isinstance(reply, type) or not (isinstance(reply, Reply) or callable(reply)):
                raise TypeError(f"{self}: {reply!r} is no answer: give a status, an Answer, Refused(), Broken(), ...")
        self._replies, self._given = list(replies), 0
        return self

    def matches(self, method: str, url: str) -> bool:
        """Whether it is for such a request."""
        return self.method in ("*", method) and _pattern(self.url).fullmatch(_with_path(url)) is not None

    def next(self, request: Received) -> Reply:
        self.requests.append(request)
        reply = self._replies[min(self._given, len(self._replies) - 1)]
        self._given += 1
        return reply if isinstance(reply, Reply) else reply(request)

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


class FakeTarget:
    """Every host there is, as far as it is scripted. Hand it to `run_job()` or `Harness` as their `transport`.

    Fulfils `worker.runtime.transport.Transport` for `context.request` and for `context.http`. Requests pass the gate
    of their job as real ones do: they carry Idempotency-Key and traceparent, take a step's place and count. Redirects
    are not followed: script the last answer. Limits of size and the address guard are the engine's, and not here.

    Requests may name any credential, or those of `credentials` only; to which origins these may go is not judged.
    """

    def __init__(self, *, credentials: Collection[str] | None = None) -> None:
        self.clock: Clock = SystemClock()
        """The time that answers take; `run_job()` and `Harness` put their own here."""
        self.requests: list[Received] = []
        """All that came in, in its order."""
        self._credentials = credentials
        self._scripts: list[Script] = []
        self._faults: list[AssertionError] = []
        self._client: httpx.AsyncClient | None = None

    def on(self, method: str, url: str) -> Script:
        """Script the answers to such requests; 200 without a body until `answers()` says more.

        `*` as the method is any; in the URL it stands for any text without "/" and "?". A URL without a query is any
        query's. What is scripted later outweighs what was scripted earlier.
        """
        script = Script(method.upper(), url)
        self._scripts.insert(0, script)
        return script

    def check(self) -> None:
        """Raise what should fail the test: a request off the script, or what a function of the script asserted."""
        if self._faults:
            raise self._faults[0]

    @property
    def client(self) -> httpx.AsyncClient:
        """The `httpx.AsyncClient` over the same scripts: `context.http`."""
        if self._client is None:
            from worker.httpx_face import httpx_client

            self._client = httpx_client(self.send, Limits(), user_agent=USER_AGENT)
        return self._client

    async def send(self, request: Request) -> Response:
        """The scripted answer, or the error that the script names."""
        async with job_gate(request) as marked, job_call(urlsplit(marked.url).hostname or "") as call:
            response = await self._answer(marked)
            call.answered(response.status, response.headers)
            return response

    async def _answer(self, request: Request) -> Response:
        self._check_credentials(request)
        reply = self._reply(self._received(request), request)
        late = self.clock.timeout(None if math.isinf(request.timeout) else request.timeout)
        try:
            async with late:
                return await self._played(reply, request)
        except TimeoutError:
            if not late.expired():
                raise
            raise RequestTimeout(f"no whole answer within {request.timeout:g} s") from None
        except asyncio.CancelledError as cancelled:
            mark_sent(cancelled)
            raise

    def credential_fault(
        self,
        *,
        auth: str | None,
        sign: str | None,
        url: str | None,  # noqa: ARG002 - the protocol's signature
        headers: Collection[str],  # noqa: ARG002 - the protocol's signature
    ) -> str | None:
        """As the real way out says it of a name that nobody has configured."""
        unknown = (name for name in (auth, sign) if name is not None and not self._knows(name))
        return next((f"no credential named {name!r} is configured" for name in unknown), None)

    def is_transient(self, error: BaseException) -> bool:
        """As the real way out: connection errors, timeouts, and the statuses that are retried."""
        from worker.httpx_face import is_transient

        return is_transient(error)

    async def aclose(self) -> None:
        """End the httpx face."""
        if self._client is not None:
            await self._client.aclose()

    def _knows(self, name: str) -> bool:
        return self._credentials is None or name in self._credentials

    def _check_credentials(self, request: Request) -> None:
        fault = self.credential_fault(
            auth=request.auth, sign=request.sign, url=request.url, headers=request.headers.keys()
        )
        if fault is not None:
            raise Reject(fault, code="credential")

    def _received(self, request: Request) -> Received:
        headers = Headers(list(request.headers.items()))
        body, now = request.body or b"", self.clock.now()
        received = Received(request.method, request.url, headers, body, now, request.auth, request.sign)
        self.requests.append(received)
        return received

    def _reply(self, received: Received, request: Request) -> Reply:
        script = next((one for one in self._scripts if one.matches(received.method, received.url)), None)
        if script is None:
            raise self._off(f"{received.method} {received.url} is not scripted", self._known())
        try:
            reply = script.next(received)
        except AssertionError as error:
            self._faults.append(error)
            raise
        if not isinstance(reply, Reply):
            raise self._off(f"the function for {script} returned {reply!r}", "it must return a status, an Answer, ...")
        if isinstance(reply, Answer) and reply.status in _FOLLOWED and request.redirects:
            raise self._off(f"{script} is answered by a redirect", "FakeTarget follows none: script the last answer")
        return reply

    async def _played(self, reply: Reply, request: Request) -> Response:
        match reply:
            case int():
                return Response(reply, Headers([]), b"", request.url)
            case Answer():
                await self.clock.sleep(reply.after)
                body = b"" if request.method == "HEAD" else reply.body
                return Response(reply.status, reply.headers, body, request.url)
            case Refused():
                raise NotSent("no connection (ECONNREFUSED)")
            case Broken():
                raise MaybeSent("the connection broke (ECONNRESET)")
            case Hangs():
                never: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
                return await never
            case Exception():
                raise reply

    def _off(self, what: str, why: str) -> OffScript:
        error = OffScript(f"{what}; {why}")
        self._faults.append(error)
        return error

    def _known(self) -> str:
        return f"scripted: {', '.join(str(one) for one in reversed(self._scripts)) or 'nothing'}"


def _pattern(url: str) -> re.Pattern[str]:
    any_query = "" if "?" in url else r"(\?.*)?"
    return re.compile("[^/?]*".join(map(re.escape, _with_path(url).split("*"))) + any_query)


def _with_path(url: str) -> str:
    """A URL that ends with its host means the path "/"."""
    return re.sub(r"^([^/?]*//[^/?#]*)(?=$|[?#])", r"\1/", url)
