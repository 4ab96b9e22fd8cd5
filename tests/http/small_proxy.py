"""A small HTTP proxy on loopback that records what it is asked, and leads every name to a target of the test's."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as the proxy got it."""

    line: str
    headers: dict[str, str]

    @property
    def login(self) -> str | None:
        return self.headers.get("proxy-authorization")


@dataclass
class SmallProxy:
    """`leads_to`: local ports by the host that was asked for. `answer`, if any, is all that a request gets."""

    leads_to: dict[str, int] = field(default_factory=dict)
    login: str | None = None
    answer: bytes | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with suppress(OSError, EOFError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (header.partition(":") for header in rest)
        asked = Asked(line, {name.lower(): value.strip() for name, _, value in pairs})
        self.asked.append(asked)
        if self.answer is not None:
            writer.write(self.answer)
            return False
        if self.login is not None and asked.login != f"Basic {b64encode(self.login.encode()).decode()}":
            writer.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
            return not line.startswith("CONNECT")
        method, target, _ = line.split(" ")
        host = (urlsplit(f"//{target}" if method == "CONNECT" else target).hostname or "").removesuffix(".")
        upstream = await asyncio.open_connection("127.0.0.1", self.leads_to[host])
        self._writers.append(upstream[1])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(_pump(reader, upstream[1]), _pump(upstream[0], writer))
            return False
        parts = urlsplit(target)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        kept = "".join(f"{header}\r\n" for header in rest if not header.lower().startswith("proxy-"))
        upstream[1].write(f"{method} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n".encode())
        writer.write(await reader_to_end(upstream[0], reader, upstream[1], asked))
        return True


async def reader_to_end(
    answer: asyncio.StreamReader, body: asyncio.StreamReader, upstream: asyncio.StreamWriter, asked: Asked
) -> bytes:
    """The whole answer to a request whose body is handed on first."""
    upstream.write(await body.readexactly(int(asked.headers.get("content-length", "0"))))
    head = await answer.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
    return head + await answer.readexactly(length)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
