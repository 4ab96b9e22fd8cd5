"""A local HTTP target in a process of its own; its answers are chosen by the path (see target_script.py).

python -m worker.dev.target [--port N] [--ledger FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.dev.ledger import Exchange, LedgerWriter, read_ledger
from worker.dev.ports import free_ports
from worker.dev.target_script import Script
from worker.dev.target_server import Connection

__all__ = ["Exchange", "Target", "read_ledger"]

HERE, THERE = "127.0.0.1", "127.0.0.2"

_STOP_TIMEOUT = 5.0


class Target:
    """The target as a child process; `with Target() as target:` starts and stops it. It ends with its owner.

    The port stays the same over restarts, and so does the ledger (a temporary file unless one is named): what
    arrived before a crash is still in it. What flaky keys were asked before is not.
    """

    def __init__(self, ledger: Path | None = None, port: int = 0) -> None:
        self._owned = ledger is None
        self.ledger_path = _temporary_file() if ledger is None else ledger.absolute()
        self.port = port or free_ports(1)[0]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Without a slash at the end: f"{target.url}/ok"."""
        return f"http://{HERE}:{self.port}"

    @property
    def other_url(self) -> str:
        """The same target under another address: another host to whoever limits hosts."""
        return f"http://{THERE}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._owned:
            self.ledger_path.unlink(missing_ok=True)

    def start(self) -> None:
        """Start, and wait until it listens. Raises RuntimeError."""
        if self.running:
            raise RuntimeError("the target is running already")
        command = [sys.executable, "-m", "worker.dev.target", "--owned"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), "--ledger", str(self.ledger_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is its owner's alone
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith("listening on "):
            self._collect()
            raise RuntimeError(f"the target did not start on port {self.port}; its reason is above")

    def stop(self) -> None:
        """End it; connections are cut. Harmless when it is off."""
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
        self._collect()

    def kill(self) -> None:
        """End it with SIGKILL; the ledger shows what was under way."""
        self._signal(signal.SIGKILL)
        self._collect()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze()`."""
        self._signal(signal.SIGCONT)

    def ledger(self) -> list[Exchange]:
        """All requests so far, in the order in which they arrived."""
        return read_ledger(self.ledger_path)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the target is not running")
        self._process.send_signal(number)

    def _collect(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _temporary_file() -> Path:
    descriptor, name = tempfile.mkstemp(prefix="worker-ledger-")
    os.close(descriptor)
    return Path(name)


async def serve(port: int, ledger: Path | None, *, owned: bool) -> None:
    """Serve until SIGTERM or SIGINT; an owned server also until standard input closes."""
    loop = asyncio.get_running_loop()
    script, writer, ended = Script(), LedgerWriter(ledger), asyncio.Event()
    server = await loop.create_server(lambda: Connection(script, writer), HERE, port, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    other = await loop.create_server(lambda: Connection(script, writer), THERE, port, backlog=4096)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if owned:
        loop.add_reader(sys.stdin, ended.set)  # nobody writes to it: readable means closed
    print(f"listening on http://{HERE}:{port}", flush=True)
    await ended.wait()
    server.close()
    other.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m worker.dev.target")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ledger", type=Path, help="file to append a line to at each request's start and end")
    parser.add_argument("--owned", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file
    asyncio.run(serve(options.port, options.ledger, owned=options.owned))
    return 0


if __name__ == "__main__":
    # At once: waiting for answers that never come is not this server's business.
    code = main()
    sys.stdout.flush()
    os._exit(code)
