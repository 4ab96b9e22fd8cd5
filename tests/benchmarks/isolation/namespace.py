"""A network of our own with its name server, for a name that takes 30 seconds. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

_INSIDE: Final = "WORKER_BENCHMARK_INSIDE"
_PROGRAMS: Final = ("unshare", "ip", "mount")
_RESOLVER: Final = "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n"
"""One try of 30 seconds: with its defaults the system's resolver would give up before the answer comes."""

_ENTER: Final = 'ip link set lo up && mount --bind "$1" "$(readlink -f /etc/resolv.conf)" && shift && exec "$@"'


def inside() -> bool:
    """Whether this process has been started by `enter`."""
    return _INSIDE in os.environ


def why_not() -> str:
    """Why there can be no network of our own here; an empty text when there can."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not found"
    done = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "needs root"


def enter(module: str, arguments: Sequence[str]) -> NoReturn:
    """Become this module in there; nothing of it outlives the process."""
    descriptor, path = tempfile.mkstemp(prefix="worker-resolver-")
    os.close(descriptor)
    Path(path).write_text(_RESOLVER, encoding="ascii")
    os.environ[_INSIDE] = path
    command = ["unshare", "--net", "--mount", "sh", "-c", _ENTER, "sh", path, sys.executable, "-m", module, *arguments]
    os.execvp(command[0], command)


def tidy() -> None:
    """Remove what `enter` has left in the temporary folder."""
    Path(os.environ[_INSIDE]).unlink(missing_ok=True)
