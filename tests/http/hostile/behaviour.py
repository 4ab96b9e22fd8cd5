"""What one hostile target does, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.http.hostile.farm import Peer, Script
from worker import Reject

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = OK + b"Content-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Behaviour:
    """`end` is the status of the answer, the name of the error or the code of the Reject; several by "|".

    `tls` names the certificate the target shows, `secure` says that the URL is https. `costly` ones are measured.
    """

    name: str
    script: Script
    end: str
    method: str = "GET"
    body: bytes | None = None
    redirects: int = 0
    tls: str | None = None
    secure: bool = False
    costly: bool = False


def end_of(outcome: Any) -> str:
    """The end of a call by the name that `Behaviour.end` has for it."""
    if isinstance(outcome, Reject):
        return outcome.code
    return type(outcome).__name__ if isinstance(outcome, BaseException) else str(outcome.status)


def says(*pieces: bytes, every: float | None = None, then: str = "close") -> Script:
    """A script: read the request, say `pieces`, and then close, reset, cut (no close_notify) or hang."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*pieces, every=every)
        match then:
            case "reset":
                peer.reset()
            case "cut":
                peer.cut()
            case "hang":
                await peer.hang()

    return script


def floods(piece: bytes, *, first: bytes = b"") -> Script:
    """A script: read the request, and say `piece` for ever."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(first)
        while True:
            await peer.say(piece)

    return script


def drips(pieces: Callable[[int], bytes], *, first: bytes = b"", every: float = 0.03) -> Script:
    """A script: read the request, and say one of `pieces` at a time, for ever."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(first, *(pieces(number) for number in range(10_000)), every=every)

    return script
