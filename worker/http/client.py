"""The two faces of the engine: `send` (lean), and an `httpx.AsyncClient` for code that speaks httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from worker import Call, Gate, Request, Response, httpx_client, is_transient
from worker.http.engine import USER_AGENT, Engine
from worker.http.hops import Hops

if TYPE_CHECKING:
    import httpx


class HttpTransport:
    """The process's way out: fulfils `worker.runtime.transport.Transport`.

    Every request of both faces passes `gate`, which may wait, refuse, count it and add headers, and then `call`, which
    may hold back what goes to its host and is told how it ended; one for each host that it is led on to.
    """

    def __init__(self, engine: Engine, *, gate: Gate | None = None, call: Callable[[str], Call] | None = None) -> None:
        self._engine = engine
        self._gate = gate or _open_gate
        self._call = call
        self._client: httpx.AsyncClient | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """One `httpx.AsyncClient` for all; see `httpx_client`."""
        if self._client is None:
            self._client = httpx_client(self.send, self._engine.limits, user_agent=USER_AGENT)
        return self._client

    async def send(self, request: Request) -> Response:
        """The answer; see `Engine.send` for what it raises."""
        async with self._gate(request) as marked:
            if self._call is None:
                return await self._engine.send(marked)
            async with Hops(self._call, marked) as hops:
                response = await self._engine.send(marked, hops.led_on)
                hops.answered(response)
                return response

    def credential_fault(
        self, *, auth: str | None, sign: str | None, url: str | None, headers: Collection[str]
    ) -> str | None:
        """What forbids a request with these headers to use these credentials; see `Credentials.fault`."""
        return self._engine.credentials.fault(auth=auth, sign=sign, url=url, headers=headers)

    def is_transient(self, error: BaseException) -> bool:
        """Whether a quick repeat may succeed; see `worker.is_transient`."""
        return is_transient(error)

    async def self_test(self) -> None:
        """Prove that the address guard is live; a RuntimeError when it is not."""
        await self._engine.self_test()

    async def aclose(self) -> None:
        """End both faces and all connections."""
        if self._client is not None:
            await self._client.aclose()
        await self._engine.aclose()


@asynccontextmanager
async def _open_gate(request: Request) -> AsyncIterator[Request]:
    yield request
