"""A TCP proxy in a process of its own: python -m tests.faults.proxy HOST PORT; and what it does to the bytes.

    delay    seconds each chunk is late, each way          rate     bytes a second, each way
    slice    bytes written at once, at most                stall    "up" (to the server), "down", "both" or ""
    cut      close after so many bytes more, both ways     refuse   end new connections at once

Orders come as JSON lines on standard input, each answered by a line: settings as above, or "reset" (RST to both ends of
every connection) or "close" (FIN). It ends when its input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

CHECKOUT: Final = Path(__file__).parents[2]
CHUNK: Final = 64 * 1024
RST: Final = struct.pack("ii", 1, 0)
BACKLOG: Final = 1024 * 1024
"""Bytes on their way that are late; beyond them the sender has to wait."""


@dataclass(frozen=True)
class Manner:
    """How bytes are passed on."""

    delay: float = 0.0
    rate: float = 0.0
    slice: int = 0
    stall: str = ""
    cut: int = -1
    refuse: bool = False


class Proxy:
    """The process, owned. `with Proxy(host, port) as proxy:` starts and ends it."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.proxy", host, str(port)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self.port = int(self._answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def url(self, amqp_url: str) -> str:
        """The same URL, by way of the proxy."""
        head, _, tail = amqp_url.rpartition(":")
        return f"{head}:{self.port}/{tail.partition('/')[2]}"

    def set(self, **manner: Any) -> None:
        """From now on in this manner; what is not named is as usual."""
        self._tell({"set": manner})

    def heal(self) -> None:
        self.set()

    def reset(self) -> None:
        """RST to both ends of every connection."""
        self._tell({"end": "reset"})

    def close(self) -> None:
        """FIN to both ends of every connection."""
        self._tell({"end": "close"})

    @property
    def seen(self) -> int:
        """Connections so far."""
        return int(self._tell({"ask": "seen"}))

    def _tell(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f"{json.dumps(order)}\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Server:
    """In the process: passes on, and does what it is told."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.manner = Manner()
        self.changed = asyncio.Event()
        self.seen = 0
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def order(self, order: dict[str, Any]) -> str:
        if "set" in order:
            self.manner = replace(Manner(), **order["set"])
            self.changed.set()
            self.changed = asyncio.Event()
        elif "end" in order:
            for pair in list(self._pairs):
                self._end(pair, reset=order["end"] == "reset")
        return str(self.seen)

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.manner.refuse:
            self.seen += 1
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        self._pairs.add(pair)
        self.seen += 1
        try:
            await asyncio.gather(
                Way(self, "up", reader, far_writer, pair).run(), Way(self, "down", far_reader, writer, pair).run()
            )
        finally:
            self._pairs.discard(pair)
            self._end(pair, reset=False)

    def spend(self, size: int, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        """Count bytes against the ones that may still pass."""
        if self.manner.cut >= 0:
            self.manner = replace(self.manner, cut=max(0, self.manner.cut - size))
            if self.manner.cut == 0:
                self.manner = replace(self.manner, cut=-1)
                self._end(pair, reset=True)

    @staticmethod
    def _end(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], *, reset: bool) -> None:
        for end in pair:
            if reset:
                _reset(end)
            else:
                end.close()


def _reset(end: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        end.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    end.transport.abort()


class Way:
    """One direction of one connection."""

    def __init__(
        self,
        server: Server,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        self._server = server
        self._name = name
        self._reader = reader
        self._writer = writer
        self._pair = pair
        self._late: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._moved = asyncio.Event()
        self._is_over = False

    async def run(self) -> None:
        sending = asyncio.create_task(self._send())
        with contextlib.suppress(OSError):
            await self._read()
        self._is_over = True
        self._moved.set()
        with contextlib.suppress(OSError):
            await sending

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._flowing()
            data = await self._reader.read(CHUNK)
            if not data:
                return
            self._late.append((loop.time() + self._server.manner.delay, data))
            self._bytes += len(data)
            self._moved.set()
            while self._bytes > BACKLOG:
                self._moved.clear()
                await self._moved.wait()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._late:
                if self._is_over:
                    self._writer.close()
                    return
                self._moved.clear()
                await self._moved.wait()
            due, data = self._late.popleft()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._pieces(data)
            self._bytes -= len(data)
            self._moved.set()

    async def _pieces(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            await self._flowing()
            manner = self._server.manner
            size = len(data) - position
            size = min(size, manner.slice) if manner.slice else size
            size = min(size, max(1, int(manner.rate / 50))) if manner.rate else size
            size = min(size, manner.cut) if manner.cut > 0 else size
            piece = data[position : position + size]
            self._writer.write(piece)
            await self._writer.drain()
            position += size
            self._server.spend(size, self._pair)
            if manner.rate:
                await asyncio.sleep(size / manner.rate)

    async def _flowing(self) -> None:
        while self._server.manner.stall in {self._name, "both"}:
            await self._server.changed.wait()


async def serve(host: str, port: int) -> None:
    server = Server(host, port)
    listener = await asyncio.start_server(server.take, "127.0.0.1", 0)
    _say(str(listener.sockets[0].getsockname()[1]))
    loop = asyncio.get_running_loop()
    while text := await loop.run_in_executor(None, sys.stdin.readline):
        _say(server.order(json.loads(text)))
    server.order({"end": "reset"})
    listener.close()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
