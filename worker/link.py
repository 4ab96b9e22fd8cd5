"""The line between a process and the child it started: whole Python values, both ways, over a socket pair.

Pickle, because both ends are this program and nobody else has the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_LENGTH: Final = struct.Struct(">I")
_PR_SET_PDEATHSIG: Final = 1


class Link:
    """One end of the line. For one reader; values are sent whole."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Link:
        """The line over this end of a socket pair."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, value: Any) -> None:
        """Send `value`, later; nothing happens when the other end is gone."""
        content = pickle.dumps(value)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(content)) + content)

    async def receive(self) -> Any:
        """The next value; an EOFError when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - see the top
        except (asyncio.IncompleteReadError, OSError):
            raise EOFError from None

    async def flush(self) -> None:
        """Return when what was sent has left this process."""
        self._writer.transport.set_write_buffer_limits(0)  # by default drain() is content with a buffer half full
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


@dataclass(frozen=True, slots=True)
class Child:
    """A child process and the line to it."""

    process: asyncio.subprocess.Process
    link: Link

    async def ended(self) -> int:
        """Its exit code once it has ended, negative for a signal."""
        code = await self.process.wait()
        self.link.close()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        # Not Process.send_signal: that looks whether the process has ended, and takes the exit code from asyncio.
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


async def start_child(command: Sequence[str], order: Any) -> Child:
    """Start `command` with the line's descriptor as its last argument, and send it its `order`.

    It leads a session of its own: a terminal's Ctrl-C is for us, who hand it on.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    link = await Link.over(ours)
    link.send(order)
    return Child(process, link)


def end_of_line(descriptor: int) -> socket.socket:
    """In the child: its end of the line. From now on it dies with its parent, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return socket.socket(fileno=descriptor)


def how_it_ended(code: int) -> str:
    """An exit code in words: `with exit code 3`, `by SIGSEGV`."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
