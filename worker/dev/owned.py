"""Runs a command for as long as its owner lives: python owned.py GRACE COMMAND ARG...

Standard input is a pipe whose other end only the owner holds. Each byte on it is a SIGTERM for the command. When it
closes the owner is done or gone, however that came: SIGTERM, and GRACE seconds later SIGKILL. The exit code is the
command's, as a shell would tell it.

Started by its path and with the standard library alone, as guard.py is.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys

_LOOK_EVERY = 0.05


def main(arguments: list[str]) -> int:
    """Run until the command ends, by itself or by the owner's will."""
    grace, *command = arguments
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY)
        if not readable:
            continue
        child.terminate()
        if not os.read(sys.stdin.fileno(), 1):
            _end(child, float(grace))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
