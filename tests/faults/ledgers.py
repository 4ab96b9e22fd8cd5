"""What is written down during a trial: lines of JSON, only ever appended, none of them by the worker.

published.log    by the publisher, before each publish
confirmed.log    by the publisher, what the broker said of it
replayed.log     by the test, before a dead letter is put back
faults.log       by the test: a line when a fault begins, one when it is healed
effects.log      by the target (worker.dev.ledger)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

SUCCEEDED: Final = "succeeded"
ANY: Final = "any"

Answer = Literal["ack", "nack", "returned", "unknown"]


@dataclass(frozen=True)
class Published:
    """A job that is about to be published. Times are epoch seconds, hashes hexadecimal SHA-256."""

    id: str
    seq: int
    at: float
    body: str
    """Hash of the body."""
    kept: str
    """Hash of the properties every copy must keep."""
    path: str | None = None
    """What it asks the target for; None where that is not known."""
    effects: int = 1
    """Different requests it takes until it is done."""
    expect: str = SUCCEEDED
    """How it must end: SUCCEEDED, the reason of its dead letter, or ANY."""
    raw: bool = False
    """Whether its properties are bytes nobody can read: no copy can keep them, and it is known by its body."""


@dataclass(frozen=True)
class Confirmed:
    """What the broker said of a publish; `unknown` when the connection broke first."""

    id: str
    answer: Answer
    at: float


@dataclass(frozen=True)
class Replayed:
    """From here on the job begins anew: it must end once more."""

    id: str
    at: float


@dataclass(frozen=True)
class Fault:
    """Something that was done to the worker or to what it needs, from `at` until it was healed."""

    number: int
    kind: str
    at: float
    until: float | None = None
    bound: int = 0
    """Jobs that may be repeated because of it, at most."""
    each: int = 1
    """How often it may repeat one effect: twice where the struck process wakes up and tries once more itself."""
    ports: tuple[int, ...] | None = None
    """Ends of the connections to the target that the struck process had; None when every process is struck."""
    recover: float | None = None
    """Seconds after the healing within which a new effect must begin; None when that is not asked."""
    errors: int = 0
    """Channels the broker may close because of it, at most."""


class Ledger:
    """An append-only file. A line is there at once and as a whole, whoever dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, entry: Mapping[str, Any]) -> None:
        os.write(self._file, f"{json.dumps(entry)}\n".encode())

    def note(self, entry: Published | Confirmed | Replayed) -> None:
        self.write(asdict(entry))

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines so far; none where there is no file."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            yield json.loads(line)


def read_published(path: Path) -> list[Published]:
    return [Published(**entry) for entry in read(path)]


def read_confirmed(path: Path) -> list[Confirmed]:
    return [Confirmed(**entry) for entry in read(path)]


def read_replayed(path: Path) -> list[Replayed]:
    return [Replayed(**entry) for entry in read(path)]


def read_faults(path: Path) -> list[Fault]:
    """Every fault, with the end of those that were healed."""
    found: dict[int, Fault] = {}
    for entry in read(path):
        number = entry["number"]
        if "kind" in entry:
            ports = entry.pop("ports")
            found[number] = Fault(**entry, ports=None if ports is None else tuple(ports))
        else:
            found[number] = replace(found[number], **entry)
    return list(found.values())
