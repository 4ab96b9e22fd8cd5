"""Targets that say what a test wants, byte for byte, and keep what they were told and what they said."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

HOSTS: Final = 4

_HEAD_END: Final = b"\r\n\r\n"

Answer = bytes | Callable[[bytes], bytes]


def answer(status: str = "200 OK", body: str | bytes = b"", *headers: str) -> bytes:
    """A whole HTTP answer."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + _HEAD_END + content


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


class Target:
    """Listens on loopback, answers each path with its bytes, and ends the connection. Any other path is a 404."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.heard: list[bytes] = []
        self.said: list[bytes] = []
        self.released = threading.Event()
        """While it is not set, an answer of a path that hangs is not given."""
        self._tls = tls
        self._servers = [_Server(("127.0.0.1", 0), self._handler())]
        self.port = int(self._servers[0].server_address[1])
        self._servers += [_Server((f"127.0.0.{host}", self.port), self._handler()) for host in range(2, HOSTS + 1)]
        self._threads = [threading.Thread(target=one.serve_forever, args=(0.05,)) for one in self._servers]

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return self.at(1)

    def at(self, host: int) -> str:
        """The same under another address, from 1 to HOSTS: a worker leaves hosts alone that fail too often."""
        return f"{'https' if self._tls else 'http'}://127.0.0.{host}:{self.port}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.released.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def hang(self, path: str, then: bytes) -> None:
        """Say `then` at `path` only when released."""

        def wait(_request: bytes) -> bytes:
            self.released.wait(30)
            return then

        self.answers[path] = wait

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._secured(connection) as line:
            line.settimeout(10)
            if not (request := _read(line)):
                return
            self.heard.append(request)
            path = request.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
            found = self.answers.get(path, answer("404 Not Found", "no such path"))
            said = found if isinstance(found, bytes) else found(request)
            self.said.append(said)
            line.sendall(said)

    def _secured(self, connection: socket.socket) -> Any:
        if self._tls is None:
            return contextlib.nullcontext(connection)
        return self._tls.wrap_socket(connection, server_side=True)

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        target = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                target.serve(self.request)

        return Handler


def _read(line: socket.socket) -> bytes:
    """One request, its body included; nothing when the other side hangs up before."""
    request = b""
    while _HEAD_END not in request:
        if not (more := line.recv(65536)):
            return b""
        request += more
        if not request[:1].isalpha():  # TLS, and nobody speaks it here
            return b""
    head, _, body = request.partition(_HEAD_END)
    length = next(
        (int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-length")), 0
    )
    while len(body) < length and (more := line.recv(65536)):
        body += more
    return head + _HEAD_END + body
