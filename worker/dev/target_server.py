"""The server behind target.py: HTTP/1.1 with keep-alive on the standard library's event loop.

Each connection is answered in turn. What needs no waiting is answered in the callback that read it, so that one core
serves thousands of requests a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from worker.dev.ledger import LedgerWriter
from worker.dev.target_script import Answer, Request, Script

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 1024 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadRequestError(Exception):
    """What was read is no HTTP."""


class Reader:
    """Bytes in, requests out."""

    def __init__(self, invite: Callable[[], None]) -> None:
        self._invite = invite  # called when the client waits to be asked for the body
        self._buffer = bytearray()
        self._body = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data

    def take(self) -> Request | None:
        """The next request, if it is there as a whole. Raises BadRequestError."""
        if self._head is None and not self._read_head():
            return None
        assert self._head is not None
        method, target, headers = self._head
        chunked = "transfer-encoding" in headers
        if not (self._read_chunks() if chunked else self._read_length(int(headers.get("content-length", 0)))):
            return None
        body, self._body, self._head = bytes(self._body), bytearray(), None
        query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        return Request(method, target, headers, query, body)

    def _read_head(self) -> bool:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BadRequestError("headers without an end")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + len(_HEAD_END)]
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequestError(first)
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if not headers.get("content-length", "0").isdigit():
            raise BadRequestError("Content-Length")
        self._head = (words[0], words[1], headers)
        if "expect" in headers:
            self._invite()
        return True

    def _read_length(self, length: int) -> bool:
        if len(self._buffer) < length:
            return False
        self._body = self._buffer[:length]
        del self._buffer[:length]
        return True

    def _read_chunks(self) -> bool:
        while True:
            line_end = self._buffer.find(b"\r\n")
            if line_end < 0:
                return False
            try:
                size = int(self._buffer[:line_end].split(b";")[0], 16)
            except ValueError as error:
                raise BadRequestError("chunk") from error
            start, end = line_end + 2, line_end + 2 + size
            if len(self._buffer) < end + 2:
                return False
            self._body += self._buffer[start:end]
            del self._buffer[: end + 2]
            if size == 0:
                return True


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, script: Script, ledger: LedgerWriter) -> None:
        self._script = script
        self._ledger = ledger
        self._reader = Reader(lambda: self._transport.write(_CONTINUE))
        self._transport: asyncio.Transport
        self._port = 0
        self._writable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._port = transport.get_extra_info("peername")[1]
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._go_on()

    def _go_on(self) -> None:
        """Answer what is there, up to the first request that has to wait."""
        try:
            while self._task is None and not self._transport.is_closing():
                request = self._reader.take()
                if request is None:
                    return
                self._serve(request)
        except BadRequestError as error:
            self._transport.write(Answer(400, f"{error}\n".encode(), (("Connection", "close"),)).head())
            self._transport.close()

    def _serve(self, request: Request) -> None:
        number = self._ledger.start(request.method, request.target, request.headers, len(request.body), self._port)
        answer = self._script.answer(request)
        if answer.at_once:
            self._ledger.end(number, answer.status)
            self._transport.write(answer.head() + (answer.body if request.method != "HEAD" else b""))
            self._close_if_asked(request)
        else:
            self._task = asyncio.get_running_loop().create_task(self._serve_slowly(request, answer, number))

    async def _serve_slowly(self, request: Request, answer: Answer, number: str) -> None:
        try:
            await asyncio.sleep(answer.delay)
            await self._send(request, answer, number)
        except asyncio.CancelledError:  # the client is gone, or this server goes
            self._ledger.end(number, None)
            raise
        self._task = None
        self._close_if_asked(request)
        self._go_on()

    async def _send(self, request: Request, answer: Answer, number: str) -> None:
        if answer.cut:
            self._ledger.end(number, None)
            self._transport.close()
            return
        self._transport.write(answer.head())
        for piece, last in answer.pieces() if request.method != "HEAD" else [(b"", True)]:
            if answer.pause and piece:
                await asyncio.sleep(answer.pause)
            await self._writable.wait()
            if last:
                self._ledger.end(number, answer.status)
            self._transport.write(piece)

    def _close_if_asked(self, request: Request) -> None:
        if request.headers.get("connection", "").lower() == "close":
            self._transport.close()
