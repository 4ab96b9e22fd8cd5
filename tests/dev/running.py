"""Programs of worker/dev as a person starts them, with an eye on everything they start and leave behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from worker.dev.target import Exchange, read_ledger


def eventually(holds: Callable[[], bool], within: float = 25.0) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@dataclass
class Running:
    """A program in `folder`, with temporary files in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes]
    mark: str
    most: int = field(default=0)
    """The most processes that were seen to belong to it."""

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8")

    def family(self) -> list[str]:
        """The names of all processes that come from it: a mark in the environment is passed on to each."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if one.environ().get("MARK") == self.mark and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one.name())
        return found

    def ledger(self) -> list[Exchange]:
        """What reached its target so far."""
        return [call for path in self.temporary.glob("worker-*/ledger") for call in read_ledger(path)]

    def says(self, text: str) -> bool:
        """Whether it comes to say that; False when it ends without."""
        return eventually(lambda: text in self.output or self.process.poll() is not None) and text in self.output

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, within: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + within
        while self.process.poll() is None and time.monotonic() < deadline:
            self.most = max(self.most, len(self.family()))
            time.sleep(0.25)
        return self.process.wait(timeout=0)

    def left_behind(self) -> list[str]:
        """Processes and files; nothing, if it was tidy."""
        return [*self.family(), *(path.name for path in self.temporary.iterdir())]


@contextlib.contextmanager
def running(folder: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """`python -m ARGUMENT...`, started in `folder`; killed at the end if it still runs."""
    mark = secrets.token_hex(8)
    (folder / "tmp").mkdir(parents=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    own = {"MARK": mark, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**inherited, **own, **environment},
            start_new_session=True,
        )
    try:
        yield Running(folder, process, mark)
    finally:
        process.kill()
        process.wait()
