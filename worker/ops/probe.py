"""Asking the admin listener: whether the worker is ready (`worker health`), and to pause. With next to no imports.

Probes run every few seconds in a container that has better things to do: only sockets here, no asyncio, no pydantic.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

DEFAULT_ADMIN = "127.0.0.1:8080"
TIMEOUT = 3.0

_MOST = 64 * 1024
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def probe(admin: str, path: str = "/ready", timeout: float = TIMEOUT) -> tuple[int, str]:
    """Ask `path` of the listener at `admin` (as in WORKER_ADMIN): the exit code, 0 or 1, and a line that says why.

    `timeout` in seconds is for all of it. Never raises.
    """
    if admin.lower() == "off":
        return 1, "WORKER_ADMIN is off: there is nobody to ask"
    host, colon, port = admin.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        return 1, f"WORKER_ADMIN {admin!r} is not host:port"
    if int(port) == 0:
        return 1, "WORKER_ADMIN has port 0: the worker picked one, and only its log tells which"
    try:
        status, body = ask(host, int(port), f"GET {path}", None, timeout=timeout)
    except (OSError, ValueError) as error:
        return 1, f"{path} of {admin}: {reason_of(error)}"
    return (0 if status == 200 else 1), f"{path} of {admin}: {status} {_one_line(body)}".rstrip()


def admin_address(environ: Mapping[str, str], config: str = "worker.toml") -> str:
    """Where the listener should be: WORKER_ADMIN, else the key `admin` of the file `config`, else the default."""
    if environ.get("WORKER_ADMIN"):
        return environ["WORKER_ADMIN"].strip()
    if os.path.exists(config):  # noqa: PTH110 - pathlib costs a tenth of the whole probe
        import tomllib

        try:
            with open(config, "rb") as file:  # noqa: PTH123
                return str(tomllib.load(file).get("admin", DEFAULT_ADMIN))
        except (OSError, ValueError):
            return DEFAULT_ADMIN  # what is wrong with the file is the worker's to say
    return DEFAULT_ADMIN


def ask(
    host: str, port: int, request: str, token: str | None, *, timeout: float = TIMEOUT, most: int = _MOST
) -> tuple[int, bytes]:
    """Send `request` (as "POST /pause") to the listener at `host`: the status and the body of its answer.

    `timeout` in seconds is for all of it; beyond `most` bytes the answer is cut off. OSError when nobody answers,
    ValueError when it is no listener.
    """
    headers = "" if request.startswith("GET ") else "Content-Length: 0\r\n"
    if token is not None:
        headers += f"Authorization: Bearer {token}\r\n"
    deadline, host = time.monotonic() + timeout, _ANYWHERE.get(host, host)
    with socket.create_connection((host, port), timeout=timeout) as connection:
        name = f"[{host}]" if ":" in host else host
        asked = f"{request} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n{headers}\r\n"
        connection.sendall(asked.encode())
        answer = bytearray()
        while len(answer) < most:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(_MOST)
            if not part:
                break
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    start = head.split(b" ", 2)
    if len(start) < 2 or not start[0].startswith(b"HTTP/1.") or not start[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(start[1]), body


def reason_of(error: Exception) -> str:
    """Why nobody answers, in few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _one_line(body: bytes) -> str:
    text = " ".join(body[:1000].decode("utf-8", "replace").split())
    return "".join(one for one in text if one.isprintable())[:300]
