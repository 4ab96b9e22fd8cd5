"""Whoever the examples talk to: the local target's server, on one address, with answers the test chooses by path."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from worker.dev.ledger import Exchange, LedgerWriter, read_ledger
from worker.dev.ports import free_ports
from worker.dev.target_script import Answer, Request, Script
from worker.dev.target_server import Connection

CUT: Final = Answer(cut=True)
"""The connection is closed once the request is there: whether it was executed, the caller cannot know."""

Reply = int | Answer | Callable[[Request], Answer]
"""A number is an answer of that status without a body."""


def said(document: Any, status: int = 200, *, ms: int = 0) -> Answer:
    """A JSON answer, after so many milliseconds."""
    content = json.dumps(document).encode()
    return Answer(status, content, (("Content-Type", "application/json"),), delay=ms / 1000)


@dataclass(frozen=True)
class Call:
    """A request that reached the partner."""

    request: Request
    exchange: Exchange

    @property
    def line(self) -> str:
        """Method, path and query, such as "GET /products?page=2"."""
        return f"{self.request.method} {self.request.target}"

    @property
    def key(self) -> str | None:
        return self.exchange.key

    @property
    def json(self) -> Any:
        return json.loads(self.request.body)


class _Lines(Script):
    """Answers by the request's line, each one after the other, the last from then on; 404 to all others."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        replies = self.replies.get(f"{request.method} {request.target}", [404])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, int):
            return Answer(reply)
        return reply if isinstance(reply, Answer) else reply(request)


class Partner:
    """Listens as long as the `with` lasts."""

    def __init__(self, ledger: Path) -> None:
        (self.port,) = free_ports(1)
        self._ledger = ledger
        self._script = _Lines()
        self._connections: list[Connection] = []
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="partner")

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def on(self, line: str, *replies: Reply) -> None:
        """From now on a request of this line ("GET /products?page=2") is answered so, one after the other."""
        self._script.replies[line] = list(replies)

    def calls(self, line: str = "") -> list[Call]:
        """All requests so far, in the order in which they came, or those of one line."""
        # The ledger first: what came since then is in the other list only.
        exchanges = read_ledger(self._ledger)
        calls = [Call(request, exchange) for exchange, request in zip(exchanges, self._script.requests, strict=False)]
        return [call for call in calls if line in {"", call.line}]

    def lines(self) -> list[str]:
        """What was requested so far, in order."""
        return [call.line for call in self.calls()]

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        writer = LedgerWriter(self._ledger)
        server = await self._loop.create_server(lambda: self._connection(writer), "127.0.0.1", self.port)
        self._started.set()
        await self._ended.wait()
        server.close()
        for connection in self._connections:
            connection._transport.abort()
        await asyncio.sleep(0)  # until the loop has told them

    def _connection(self, writer: LedgerWriter) -> Connection:
        self._connections.append(Connection(self._script, writer))
        return self._connections[-1]
