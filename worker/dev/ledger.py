"""What reached the target, written down as it happens: one JSON line when a request is there, one when it has ended.

    {"event": "start", "id": "4711-1", "at": 1764000000.1, "method": "POST", "path": "/ok?ms=5", "key": "job-1/request",
     "length": 12, "port": 40312}
    {"event": "end", "id": "4711-1", "at": 1764000000.2, "status": 200}

The end is noted just before the last byte goes out: whoever has the whole answer finds the line. Lines go to the file
at once and whole: they survive the writer's death, and several writers may share a file.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Exchange:
    """One request as the target saw it. Times are epoch seconds."""

    id: str
    started: float
    method: str
    path: str
    """As sent, query included."""
    key: str | None
    """The Idempotency-Key."""
    length: int
    """Bytes of the request's body."""
    port: int
    """The client's end of the connection."""
    ended: float | None = None
    """None while it runs, and for ever when the target was killed meanwhile."""
    status: int | None = None
    """None when the whole answer never went out."""


class LedgerWriter:
    """Appends to the file at `path`; without one it forgets."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._numbers = itertools.count(1)
        self._process = os.getpid()

    def start(self, method: str, path: str, headers: Mapping[str, str], length: int, port: int) -> str:
        """Note a request whose last byte has just arrived; returns its id."""
        number = f"{self._process}-{next(self._numbers)}"
        key = headers.get("idempotency-key")
        entry = {"method": method, "path": path, "key": key, "length": length, "port": port}
        self._write("start", number, entry)
        return number

    def end(self, number: str, status: int | None) -> None:
        """Note its end: the status that is sent, or None when the whole answer does not go out."""
        self._write("end", number, {"status": status})

    def _write(self, event: str, number: str, entry: Mapping[str, object]) -> None:
        if self._file is not None:
            line = json.dumps({"event": event, "id": number, "at": time.time(), **entry})
            os.write(self._file, f"{line}\n".encode())


def read_ledger(path: Path) -> list[Exchange]:
    """All requests so far, in the order in which they arrived."""
    found: dict[str, Exchange] = {}
    if not path.exists():
        return []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # whole lines only: somebody may be writing
        entry = json.loads(line)
        event, number, at = entry.pop("event"), entry.pop("id"), entry.pop("at")
        if event == "start":
            found[number] = Exchange(number, at, **entry)
        else:
            found[number] = replace(found[number], ended=at, **entry)
    return list(found.values())
