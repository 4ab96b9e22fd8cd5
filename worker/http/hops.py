"""The calls of one request that is led on to other hosts: to each host is told what became of its own part."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from worker import Call, Request, Response, Snooze
from worker.http.url import parse_url


class Hops:
    """The call that is under way. The first may be held back; a later one waits for its turn, and then goes.

    For what led there has been sent: to turn it back is to send that again.
    """

    __slots__ = ("_call", "_host", "_of_host")

    def __init__(self, of_host: Callable[[str], Call], request: Request) -> None:
        self._of_host = of_host
        self._host = parse_url(request.url).name
        self._call: Call | None = of_host(self._host)

    async def __aenter__(self) -> Self:
        if self._call is not None:
            await self._call.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (call := self._call) is not None:
            self._call = None
            await call.__aexit__(kind, error, trace)

    def answered(self, response: Response) -> None:
        """The last answer is there."""
        if self._call is not None:
            self._call.answered(response.status, response.headers)

    async def led_on(self, response: Response, further: Request) -> None:
        """`response` was a redirect, and `further` is sent next."""
        if (host := parse_url(further.url).name) == self._host:
            return
        self.answered(response)
        await self.__aexit__(None, None, None)
        self._host, call = host, self._of_host(host)
        try:
            await call.__aenter__()
        except Snooze:
            return
        self._call = call
