"""The worker as another program sees it: `worker run` as a child process, and the other commands beside it.

Untrue   something did not come as it should: what was expected, and what was seen
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from worker.dev import owned

LOOK_EVERY: Final = 0.05
"""Seconds between two looks at something that is waited for."""

_READY_SECONDS = 30.0
_COMMAND_SECONDS = 30.0
_GRACE = 30.0
_TAIL_LINES = 25


class Untrue(Exception):
    """Something did not come as it should."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected: {expected}\nseen:     {seen}")

    @property
    def last_line(self) -> str:
        """The end of what was seen."""
        return str(self).splitlines()[-1]


def clean_environment(*, keep: str | None = None) -> dict[str, str]:
    """The caller's environment without what it says to a worker, but for variables that begin with `keep`.

    The children import the package from where this one has it, whatever folder they run in.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WORKER_") or (keep is not None and name.startswith(keep))
    }
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to hold within `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY)
    return True


class Service:
    """`worker run`; `with Service(...) as service:` starts it and waits until it is ready. It ends with its owner.

    `environment` is the whole of the worker's. It runs in `folder`. What it says goes to the file `log`, or without
    one to where our own output goes. `admin` is where it listens (host:port), as the environment tells it.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        admin: str,
        folder: Path,
        log: Path | None = None,
        apps: Sequence[str] = (),
    ) -> None:
        self._environment = environment
        self._admin = admin
        self._folder = folder
        self._log = log
        self._apps = apps
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it is not ready yet."""
        with contextlib.ExitStack() as stack:
            output = None if self._log is None else stack.enter_context(self._log.open("ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-I", owned.__file__, str(_GRACE), sys.executable, "-m", "worker", "run", *self._apps],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,  # a terminal's Ctrl-C is its owner's alone
            )

    def wait_until_ready(self) -> None:
        """Return once it says that it consumes. Raises Untrue, also when it ends instead."""
        if not self.comes_up():
            self.check()
            raise Untrue(f"the worker is ready within {_READY_SECONDS:g} s", "it runs, and /ready does not say so")

    def comes_up(self) -> bool:
        """Whether it says, within 30 s, that it consumes."""
        return wait_until(lambda: self._ready() or not self.running, _READY_SECONDS) and self.running

    def check(self) -> None:
        """Raises Untrue when it has ended by itself."""
        if not self.running:
            raise Untrue("the worker runs", f"it ended with exit code {self.wait()}")

    def terminate(self) -> None:
        """One SIGTERM: drain. Another one means: at once. Harmless when it is off."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended by itself
                self._process.stdin.write(b".")
                self._process.stdin.flush()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process.wait()

    def stop(self) -> int:
        """Let it drain and end; its exit code. Harmless when it is off."""
        if self._process is None:
            return 0
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return self.wait()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(self._admin, timeout=2)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Command:
    """`python -m MODULE ARGUMENT...`, running; `finish()` returns what it printed."""

    def __init__(self, environment: Mapping[str, str], folder: Path, module: str, *arguments: str) -> None:
        self._words = " ".join((module, *arguments[:2]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def finish(self) -> str:
        """Wait for its end. Raises Untrue when that is not a good one."""
        try:
            output, errors = self._process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise Untrue(f"`{self._words}` ends within {_COMMAND_SECONDS:g} s", "it still runs") from None
        if self._process.returncode:
            said = (errors.strip() or output.strip())[-2000:]
            raise Untrue(f"`{self._words}` succeeds", f"exit code {self._process.returncode}; it says:\n{said}")
        return output


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The end of a log, nothing if there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
