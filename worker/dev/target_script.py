"""What the target answers, chosen by the path. `?ms=300` delays any of them.

/ok                              200, "ok"
/delay/MS                        the same, later
/status/CODE                     that status
/flaky/N/CODE/KEY                that status N times for this key, then 200
/retry-after/SECONDS/N/KEY       503 with Retry-After N times for this key, then 200
/echo                            what was sent, as JSON
/json                            a small JSON document
/bytes/N                         N bytes
/drip/MS                         100 bytes (?n= for another number), one every MS milliseconds
/gzip/N                          N zero bytes, gzipped
/redirect?to=URL                 302 (?code= for another)
/set-cookie                      200 with a cookie
/close                           the connection closes without an answer
/hang                            never answers
"""

from __future__ import annotations

import functools
import http
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

_PIECE = 64 * 1024
_FOREVER = 1e7
_WITHOUT_BODY = {204, 304}
_SMALL_DOCUMENT = {"id": 7, "name": "seven", "items": [1, 2, 3], "nested": {"deep": True}}


@dataclass(frozen=True)
class Request:
    """What came in, whole. Header names are in lower case; of a repeated query field the last counts."""

    method: str
    target: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    @property
    def parts(self) -> list[str]:
        """The segments of the path, decoded."""
        return [unquote(part) for part in urlsplit(self.target).path.split("/")[1:]]


@dataclass(frozen=True)
class Answer:
    """What goes out, and how."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    filler: int = 0
    """So many more bytes, made while they are sent."""
    delay: float = 0.0
    """Seconds before the first byte."""
    pause: float = 0.0
    """Seconds before each byte of the filler."""
    cut: bool = False
    """Nothing is sent, the connection is closed."""

    @property
    def at_once(self) -> bool:
        """Whether it can be sent in one piece without waiting."""
        return not (self.delay or self.filler or self.cut)

    def head(self) -> bytes:
        """Status line and headers."""
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in self.headers)]
        if self.status not in _WITHOUT_BODY:
            lines.append(f"Content-Length: {len(self.body) + self.filler}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """The body, in pieces to be sent one after another, and of each whether it is the last."""
        yield self.body, self.filler == 0
        size = 1 if self.pause else _PIECE
        for position in range(0, self.filler, size):
            rest = self.filler - position
            yield b"x" * min(size, rest), rest <= size


class Script:
    """The answers; it remembers only how often a key was refused."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()

    def answer(self, request: Request) -> Answer:
        """The answer to a request; a path that makes no sense gets 404 or 400."""
        try:
            answer = self._by_path(request)
            delay = float(request.query.get("ms", 0)) / 1000
        except ValueError as error:
            return Answer(400, f"{request.target}: {error}\n".encode())
        return replace(answer, delay=answer.delay + delay) if delay else answer

    def _by_path(self, request: Request) -> Answer:  # noqa: C901, PLR0911, PLR0912  # one line for each path
        match request.parts:
            case ["ok"]:
                return _OK
            case ["delay", ms]:
                return Answer(body=b"ok\n", delay=float(ms) / 1000)
            case ["status", code]:
                return _status(code)
            case ["flaky", times, code, key]:
                return _status(code) if self._refuses(f"flaky {key}", times) else _OK
            case ["retry-after", seconds, times, key]:
                later = Answer(503, b"later\n", (("Retry-After", seconds),))
                return later if self._refuses(f"retry-after {key}", times) else _OK
            case ["echo"]:
                return _json(_echo(request))
            case ["json"]:
                return _json(_SMALL_DOCUMENT)
            case ["bytes", count]:
                return Answer(headers=(("Content-Type", "application/octet-stream"),), filler=int(count))
            case ["drip", ms]:
                return Answer(filler=int(request.query.get("n", "100")), pause=float(ms) / 1000)
            case ["gzip", count]:
                return Answer(body=_zeros(int(count)), headers=(("Content-Encoding", "gzip"),))
            case ["redirect"]:
                code, to = request.query.get("code", "302"), request.query.get("to", "/ok")
                return replace(_status(code), headers=(("Location", to.encode().decode("latin-1")),))
            case ["set-cookie"]:
                return replace(_OK, headers=(("Set-Cookie", "seen=yes; Path=/"),))
            case ["close"]:
                return Answer(cut=True)
            case ["hang"]:
                return Answer(delay=_FOREVER)
            case _:
                return Answer(404, b"no such path\n")

    def _refuses(self, key: str, times: str) -> bool:
        self._asked[key] += 1
        return self._asked[key] <= int(times)


_OK = Answer(body=b"ok\n", headers=(("Content-Type", "text/plain"),))


def _status(code: str) -> Answer:
    status = int(code)
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is no status from 200 to 599")
    return Answer(status, b"" if status in _WITHOUT_BODY else f"{status}\n".encode())


def _json(document: object) -> Answer:
    return Answer(body=json.dumps(document).encode(), headers=(("Content-Type", "application/json"),))


def _echo(request: Request) -> dict[str, object]:
    return {
        "method": request.method,
        "path": urlsplit(request.target).path,
        "query": request.query,
        "headers": request.headers,
        "body": request.body.decode("utf-8", "replace"),
    }


@functools.lru_cache(maxsize=8)
def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(bytes(min(_PIECE, count - position))) for position in range(0, count, _PIECE)]
    return b"".join([*packed, packer.flush()])
