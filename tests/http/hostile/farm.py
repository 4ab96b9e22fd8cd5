"""Hostile targets: real servers on loopback in a thread of their own, so that they cost the engine's loop nothing.

Each keeps a ledger of what really reached it, which judges what the engine says about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Ledger:
    """What reached one target: connections, bytes of requests (what TLS carried, not TLS), whole requests."""

    connections: int = 0
    read: int = 0
    requests: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)


class Peer:
    """One connection as the target has it. `number` counts from 0."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ledger: Ledger) -> None:
        self.reader, self.writer, self.ledger = reader, writer, ledger
        self.number = ledger.connections
        ledger.connections += 1

    async def request(self) -> str:
        """The next whole request, by its first line."""
        line = await self.head()
        length = next((row[15:] for row in self.ledger.heads[-1].split("\r\n") if row.startswith("Content-Length:")), 0)
        await self.reader.readexactly(int(length))
        self.ledger.requests.append(line)
        return line

    async def head(self) -> str:
        """The next request up to its body, by its first line."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.ledger.heads.append(head)
        return head.partition("\r\n")[0]

    async def say(self, *pieces: bytes, every: float | None = None) -> None:
        for number, piece in enumerate(pieces):
            if every is not None and number:
                await asyncio.sleep(every)
            self.writer.write(piece)
            await self.writer.drain()

    def reset(self) -> None:
        """A real RST: what was said before it arrives before it."""
        number = self.writer.get_extra_info("socket")
        number.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def cut(self) -> None:
        """Close the socket without a word: over TLS without its close_notify."""
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Until the farm is closed, or the other side is gone."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass
        await asyncio.Event().wait()


Script = Callable[[Peer], Awaitable[None]]


class Farm:
    """The thread, and the servers in it. To be used as a context."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listeners: list[_Listener] = []
        self._servers: list[asyncio.Server] = []
        self._writers: list[asyncio.StreamWriter] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def open(self, script: Script, tls: ssl.SSLContext | None = None) -> tuple[int, Ledger]:
        """A server that runs `script` for every connection: its port, and what will have reached it."""
        return asyncio.run_coroutine_threadsafe(self._open(script, tls), self._loop).result(10)

    async def _open(self, script: Script, tls: ssl.SSLContext | None) -> tuple[int, Ledger]:
        ledger = Ledger()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            # The callback of asyncio.start_server would log a cancellation as an error.
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
                try:
                    await script(Peer(reader, writer, ledger))
                finally:
                    if not writer.is_closing():  # a TLS transport that is closed twice can no longer be aborted
                        writer.close()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_Counting(ledger, self._loop), accept, loop=self._loop)

        listener = _Listener()
        self._listeners.append(listener)
        self._servers.append(await self._loop.create_server(protocol, sock=listener, ssl=tls, backlog=512))
        return int(listener.getsockname()[1]), ledger

    async def _close(self) -> None:
        """Until every connection is closed, also one that is not yet through its handshake, or was just accepted.

        Those have no writer: asyncio's own tasks hold them. A socket that is left to the garbage collector when the
        loop ends is a warning in whichever test that runs in.
        """
        for listener in self._listeners:
            self._loop.remove_reader(listener)  # a server that is closed at once loses what it has just accepted
        while (tasks := asyncio.all_tasks() - {asyncio.current_task()}) or any(one.is_busy for one in self._listeners):
            await asyncio.sleep(0)  # nor may a task be cancelled before its first step: it would lose its socket
            for task in tasks:
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()
        for server in self._servers:
            server.close()


class _Listener(socket.socket):
    """Listens on loopback, and remembers whom it has accepted."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._accepted: list[socket.socket] = []
        self.bind(("127.0.0.1", 0))

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        self._accepted.append(accepted)
        return accepted, address

    @property
    def is_busy(self) -> bool:
        """Whether a connection is still open."""
        return any(one.fileno() >= 0 for one in self._accepted)


class _Counting(asyncio.StreamReader):
    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=1 << 16, loop=loop)
        self._ledger = ledger

    def feed_data(self, data: bytes) -> None:  # type: ignore[override] # from a socket it is always bytes
        self._ledger.read += len(data)
        super().feed_data(data)
