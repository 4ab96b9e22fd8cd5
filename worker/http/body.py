"""A response's body: read and inflated under one cap, so that neither a flood nor a bomb fills the memory."""

from __future__ import annotations

import asyncio
import io
import zlib
from typing import Final

import aiohttp

from worker import Reject

MOST_MEMBERS: Final = 1000
"""Most gzip members one body may be made of."""

_LONG: Final = 256 << 10
_PIECE: Final = 16 << 10  # of a packed body, inflated at a time
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})


class TooLarge(Reject):
    """The answer is above the cap, announced, as it came, or inflated."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is above {limit} bytes", code="response_too_large")


def to_send(body: bytes | None) -> bytes | io.BytesIO | None:
    """`body` as aiohttp takes it: a long one bit by bit, or all of it would lie in the buffer of a slow connection."""
    return io.BytesIO(body) if body is not None and len(body) > _LONG else body


def is_inflated(encoding: str) -> bool:
    """Whether a body of this Content-Encoding is decoded here. Any other (also "gzip, gzip") is handed on as it is."""
    return encoding.strip().lower() in _INFLATED


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body; TooLarge as soon as it is known to be above `limit` bytes, a zlib.error when it is broken."""
    if response.method == "HEAD" or response.status in (204, 304):
        return b""
    if (announced := response.content_length) is not None and announced > limit:
        raise TooLarge("the announced response", limit)
    encoding = response.headers.get("Content-Encoding", "")
    if is_inflated(encoding):
        return await _read_inflated(response.content, encoding, limit)
    return await _read_plain(response.content, limit)


async def _read_plain(content: aiohttp.StreamReader, limit: int) -> bytes:
    body = bytearray()  # and no list: a body that comes byte by byte would be a million of them
    while chunk := await content.readany():
        if len(body) + len(chunk) > limit:
            raise TooLarge("the response", limit)
        body += chunk
    return bytes(body)


async def _read_inflated(content: aiohttp.StreamReader, encoding: str, limit: int) -> bytes:
    inflater = _Inflater(limit, deflate=encoding.strip().lower() == "deflate")
    wire = 0
    while chunk := await content.readany():
        wire += len(chunk)
        if wire > limit:
            raise TooLarge("the response", limit)
        for start in range(0, len(chunk), _PIECE):
            if start:
                await asyncio.sleep(0)  # a few hundred kilobytes can be made to take long, and give nothing
            inflater.feed(chunk[start : start + _PIECE])
    return inflater.finish()


class _Inflater:
    """Inflates what is fed, never more than `limit` bytes; up to MOST_MEMBERS gzip members may follow each other."""

    def __init__(self, limit: int, *, deflate: bool) -> None:
        self._limit = limit
        self._deflate = deflate
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._out = bytearray()
        self._members = 1
        self._fed = False

    def feed(self, data: bytes) -> None:
        if self._deflate and not self._fed and data[0] & 0x0F != 8:  # "deflate" without its zlib header: many servers
            self._stream = zlib.decompressobj(_RAW)
        self._fed = True
        while data:
            self._out += self._stream.decompress(data, self._limit + 1 - len(self._out))
            if len(self._out) > self._limit:
                raise TooLarge("the inflated response", self._limit)
            data = self._stream.unconsumed_tail or self._next_member()

    def finish(self) -> bytes:
        """All of it. A zlib.error when it ends in the middle."""
        if self._fed and not self._stream.eof:
            raise zlib.error("incomplete")
        return bytes(self._out)

    def _next_member(self) -> bytes:
        rest = self._stream.unused_data if self._stream.eof else b""
        if rest:
            self._members += 1
            if self._members > MOST_MEMBERS:  # each costs as much as kilobytes, and can be 20 bytes
                raise zlib.error("too many members")
            self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        return rest
