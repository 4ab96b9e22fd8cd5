"""Targets for the engine: raw sockets on loopback that answer, drip, lie, reset or stay silent as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from worker.http.engine import Engine


@dataclass
class Exchange:
    """One request as a target saw it, and the way to answer it. `connection` counts from 0."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int = 200, body: bytes = b"ok", **headers: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        await self.send(head.encode() + body)

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Target:
    """A listening target. `seen` holds every request that reached it."""

    script: Script
    port: int = 0
    connections: int = 0
    seen: list[Exchange] = field(default_factory=list)
    tls: bool = False
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        self.writers.append(writer)
        with suppress(OSError, EOFError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                exchange = await _read(reader, writer, number)
                self.seen.append(exchange)
                await self.script(exchange)
        with suppress(OSError):
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Exchange:
    line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (header.partition(":") for header in rest)]
    length = int({name.lower(): value for name, value in headers}.get("content-length", "0"))
    return Exchange(reader, writer, number, line, headers, await reader.readexactly(length))


Serve = Callable[..., Awaitable[Target]]
"""`await serve(script, tls=context)`: a target that runs `script` for every request it gets."""

MakeEngine = Callable[..., Engine]
"""`make_engine(limits, guard=, on_request=, ssl_context=)`: an engine that may reach loopback."""
