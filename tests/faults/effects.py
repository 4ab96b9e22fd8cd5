"""What the target has seen, followed while a trial runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


class Effects:
    """The target's ledger, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.good: Counter[str] = Counter()
        """Answers of 200 so far, by Idempotency-Key."""
        self.begun: Counter[str] = Counter()
        """Requests so far, by Idempotency-Key."""
        self._keys: dict[str, str] = {}

    def look(self) -> Effects:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            self._offset += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        return self

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["event"] == "start":
            key = self._keys[entry["id"]] = entry["key"] or ""
            self.begun[key] += 1
        else:
            key = self._keys.pop(entry["id"])
            if entry["status"] is not None and 200 <= entry["status"] < 300:
                self.good[key] += 1

    @property
    def running(self) -> int:
        return len(self._keys)
