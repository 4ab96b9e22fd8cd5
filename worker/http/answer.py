"""How one connection's answers are read: aiohttp's way, with what a hostile target gets through it closed."""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import StreamReader

from worker import BadAnswer

MOST_INFORMATIONAL: Final = 5
"""Most 1xx answers before the one that counts."""

_PIECE: Final = 16 << 10  # read at a time: as many answers as fit into it, that nobody asked for, are read with it
_END_OF_HEAD: Final = re.compile(rb"[^\r\n]\r?\n\r?\n")
_LONGEST_END: Final = 4  # bytes of it, less one


class AnswerProtocol(ResponseHandler):
    """Reads the answers of one connection.

    By itself aiohttp reads any number of 1xx answers in one turn of the loop, takes a body that a reset cut short for a
    whole one, lets whoever reads a body wait for ever when it turns out to be no HTTP, and keeps the socket of a peer
    that reads nothing, with all that is still to be written to it, for as long as that peer likes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._informational = 0
        self._in_head = True
        self._until_close = False
        self._closed_by_peer = False
        self._is_lost = False
        self._before = b""  # the last bytes of the head so far
        self._held = b""  # what came while reading was paused

    def set_response_params(self, **params: Any) -> None:
        """For aiohttp: another request goes out."""
        self._informational, self._in_head, self._until_close = 0, True, False
        super().set_response_params(**params)

    @property
    def should_close(self) -> bool:
        """Also when the last request is not on its way yet: its answer came too early to send another behind it."""
        return super().should_close or self._is_unsent

    def data_received(self, data: bytes) -> None:
        """For aiohttp: in pieces, so that what goes beyond the answer is left unread. Nobody asked for it."""
        if self._parser is None or self._upgraded:
            super().data_received(data)
            return
        rest, self._held = self._held + data, b""
        while len(rest) > (end := self._end_of_piece(rest)):
            self._read(rest[:end])
            rest = rest[end:]
            if self._is_over:
                self.force_close()
                return
            if self._reading_paused:
                self._held = rest
                return
        self._read(rest)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """For aiohttp: a head is read."""
        message, _ = data
        self._before = b""
        if 100 <= message.code <= 199 and message.code != 101:
            self._informational += 1
            if self._informational > MOST_INFORMATIONAL:
                self._refuse()
            return
        self._in_head = False
        self._until_close = not message.chunked and "Content-Length" not in message.headers
        super().feed_data(data, size)

    def pause_reading(self) -> None:
        """For aiohttp: there is too much that nobody has taken. Of a lost connection no more can come."""
        if not self._is_lost:
            super().pause_reading()

    def eof_received(self) -> None:
        """For aiohttp: the peer sends no more. Over TLS it must say so: anyone on the way can close a socket."""
        tls = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        self._closed_by_peer = tls is None or _has_close_notify(tls)
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """For aiohttp. A body that goes on until the connection is closed is whole only when the peer closed it."""
        self._is_lost = True
        if self._reading_paused and self.exception() is None:
            self._reading_paused = False
            self.data_received(b"")  # what came before the end, and was not yet read, belongs to the answer
        if self._until_close and (exc is not None or not self._closed_by_peer):
            self._end_body()
        super().connection_lost(exc)

    def close(self) -> None:
        """Never to wait for a peer: only a connection at rest is taken leave of."""
        if self.should_close or self._in_head:
            self.abort()
        else:
            super().close()

    @property
    def _is_unsent(self) -> bool:
        return self.writing_paused or (self.transport is not None and self.transport.get_write_buffer_size() > 0)

    @property
    def _is_over(self) -> bool:
        """Whether there is nothing more to read: the answer is whole, or there will be none."""
        return self.exception() is not None or (not self._in_head and (self._payload is None or self._payload.is_eof()))

    def _end_of_piece(self, data: bytes) -> int:
        """How much is read next. A head is a piece for itself: what is behind it cannot spoil it, or come with it."""
        before = self._before
        head = before + data[:_PIECE] if before else data
        if self._in_head and (end := _END_OF_HEAD.search(head, 0, _PIECE + len(before))):
            return max(1, end.end() - len(before))
        return _PIECE

    def _read(self, piece: bytes) -> None:
        if self._in_head:
            self._before = (self._before + piece)[-_LONGEST_END:]
        super().data_received(piece)
        if self.exception() is not None:
            self._end_body()

    def _refuse(self) -> None:
        self.set_exception(BadHttpMessage("too many informational answers"))
        if self.transport is not None:
            self.transport.abort()

    def _end_body(self) -> None:
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError())


def _has_close_notify(tls: ssl.SSLObject) -> bool:
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False


def read_carefully(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """`connector`, from now on reading all its connections by an AnswerProtocol. To be called in its loop."""
    loop = asyncio.get_running_loop()
    # aiohttp has no other way to say it
    connector._factory = cast("functools.partial[ResponseHandler]", functools.partial(AnswerProtocol, loop))  # noqa: SLF001
    return connector


def checked(answer: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """`answer`, when its status is one that a last answer can have; a BadAnswer for 101, which nobody asked for."""
    if answer.status < 200:
        raise BadAnswer("the answer has a status that ends no request")
    return answer
