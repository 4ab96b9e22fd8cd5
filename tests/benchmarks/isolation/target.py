"""Hosts A and B in a process of their own: python -m tests.benchmarks.isolation.target FOLDER [--names].

A answers after 20 ms. B does what the last line on standard input said (see `MODES`); what was asked of it before stays
as it was, except that a new mode cuts its connections: whoever wants B then has to find it anew. A job is named by its
path, `/17`. At the end of standard input everything seen is written to FOLDER/seen.json, in memory until then: writing
would take the time that is measured.

With --names it is also the name server of `a.test` and `b.test` on port 53, which needs a network of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Final

from tests.benchmarks.isolation.names import NameServer
from tests.benchmarks.isolation.priority import go_first
from worker.dev.ports import free_ports

HEALTHY_SECONDS: Final = 0.02
RETRY_AFTER: Final = 5
MODES: Final = ("ok", "hang", "429", "429+after", "refuse", "dns")
"""`429+after` says Retry-After, `refuse` is a closed port, `dns` a name that takes its time and then a healthy host."""

ADDRESSES: Final = {"a": "127.0.0.1", "b": "127.0.0.2"}
NAMES: Final = {"a.test": ADDRESSES["a"], "b.test": ADDRESSES["b"]}
_ANSWERS: Final = {
    "ok": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    "429+after": f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {RETRY_AFTER}\r\nContent-Length: 0\r\n\r\n".encode(),
}


class Host:
    """One of the two: what it does now, what it saw, and who is connected."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.mode = "ok"
        self.starts: list[tuple[str, float]] = []
        self.ends: list[tuple[str, float]] = []
        self.connections: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    async def enter(self, mode: str) -> None:
        """Be like this from now on."""
        self.mode = mode
        if self._server is not None and mode == "refuse":
            self._server.close()
            self._server = None
        elif self._server is None and mode != "refuse":
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Line(self), self.address, self.port, backlog=4096)
        for transport in tuple(self.connections):
            transport.abort()


class Line(asyncio.Protocol):
    """A connection. A client that pipelines is answered all the same."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host.connections.add(transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self._host.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            head, _, self._head = self._head.partition(b"\r\n\r\n")
            self._serve(head.split(b" ", 2)[1].decode("latin-1").strip("/"))

    def _serve(self, job: str) -> None:
        self._host.starts.append((job, time.time()))
        mode = "ok" if self._host.mode == "dns" else self._host.mode
        if mode in _ANSWERS:
            asyncio.get_running_loop().call_later(HEALTHY_SECONDS, self._answer, job, mode)

    def _answer(self, job: str, mode: str) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_ANSWERS[mode])
        if mode == "ok":
            self._host.ends.append((job, time.time()))


async def serve(folder: Path, *, names: bool) -> None:
    port = free_ports(1)[0]
    hosts = {name: Host(address, port) for name, address in ADDRESSES.items()}
    server = NameServer(NAMES)
    if names:
        await server.listen()
    for host in hosts.values():
        await host.enter("ok")
    print(port, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        mode = line.strip()
        server.slow = {"b.test"} if mode == "dns" else set()
        await hosts["b"].enter(mode)
        print(mode, flush=True)
    seen = {name: {"starts": host.starts, "ends": host.ends} for name, host in hosts.items()}
    (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", action="store_true")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    go_first()
    asyncio.run(serve(arguments.folder, names=arguments.names))


if __name__ == "__main__":
    main()
