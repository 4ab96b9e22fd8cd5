"""Secrets that are given new content in their files while the worker runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from worker.ops.settings.catalogue import Credential
from worker.ops.settings.credential_table import SECRETS
from worker.ops.settings.secret import Secret
from worker.ops.settings.sources import Problem, Source, read_secret

T = TypeVar("T")

log = structlog.get_logger("worker.settings")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a file."""

_Mark = tuple[int, int, int]


class Rotating(Generic[T]):
    """The value in a file, as it is by now. Call it for the value; it costs next to nothing.

    `parse` reads the file's text and raises a ValueError for what it refuses. Content that cannot be read or is
    refused leaves the last good value in force, and is logged once.
    """

    def __init__(
        self, path: Path, parse: Callable[[str], T], value: T, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._parse = parse
        self._value = value
        self._clock = clock
        self._looked = -math.inf
        self._mark: _Mark | None = None  # so that a change since `value` was read is not missed
        self._is_good = True

    def __call__(self) -> T:
        if self._clock() - self._looked >= LOOK_EVERY:
            self._looked = self._clock()
            mark = _mark(self._path)
            if mark != self._mark or not self._is_good:
                self._mark = mark
                self._read()
        return self._value

    def _read(self) -> None:
        written = read_secret(self._path, Source("file", path=str(self._path)))
        try:
            if isinstance(written, Problem):
                raise ValueError(written.text)  # noqa: TRY301, TRY004 - told as what the parser refuses is
            value = self._parse(written.text)
        except ValueError as fault:
            if self._is_good:
                log.warning("secret.not_reloaded", file=str(self._path), reason=str(fault), keeping="the last good one")
            self._is_good = False
        else:
            if value != self._value:
                log.info("secret.reloaded", file=str(self._path))
            self._value, self._is_good = value, True


def rotating(credential: Credential, cell: str) -> Callable[[], str]:
    """Gives the secret in `cell` as it is by now: read anew when it is in a file and that has changed."""
    value: Secret = getattr(credential, cell)
    path = credential.files.get(cell)
    if path is None:
        return value.reveal
    current = Rotating(path, SECRETS[cell].parse, value)
    return lambda: current().reveal()


def _mark(path: Path) -> _Mark | None:
    """What changes whenever the file does, also when a link on its way is set to another."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
