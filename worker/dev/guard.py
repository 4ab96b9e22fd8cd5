"""Runs a RabbitMQ node for as long as its owner lives: python guard.py FOLDER EPMD ARG... -- SERVER ARG...

Standard input is a pipe whose other end only the owner holds. A byte on it means: end the node. When it closes without
one the owner is gone, however that came: the node is ended, and FOLDER, if it is not empty, deleted.

Started by its path and with the standard library alone: it must be there at once, and need nothing of the package. It
leads a session of its own, in which all that it starts stays.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys

_LOOK_EVERY = 0.1
_GRACE = 20.0


def main(arguments: list[str]) -> int:
    """Run until the server ends or the owner goes; the exit code is the server's."""
    folder, *commands = arguments
    divider = commands.index("--")
    # Ours, not the daemon that Erlang would leave behind: so it can be ended by its process id.
    epmd = subprocess.Popen(commands[:divider], stdin=subprocess.DEVNULL)
    server = subprocess.Popen(commands[divider + 1 :], stdin=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            order = _order()
            if order is not None:
                _end(server)
                if folder and order == b"":
                    shutil.rmtree(folder, ignore_errors=True)
        return server.returncode
    finally:
        epmd.kill()
        epmd.wait()


def _order() -> bytes | None:
    """None while the owner is content, a byte when it wants an end, none when it is gone."""
    readable, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY)
    return os.read(sys.stdin.fileno(), 1) if readable else None


def _end(server: subprocess.Popen[bytes]) -> None:
    os.killpg(0, signal.SIGCONT)  # a frozen node cannot end itself
    server.terminate()  # the script hands it on to the node, which closes its queues
    try:
        server.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)  # with this process
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
