"""The JSON corpus: json.txt, read.

A line is a verdict and the bytes. The verdict is `y` for JSON that is read, or the words with which the fault is named,
in quotes. The bytes are in Python's notation without the b; parts beside each other belong together, and `*N` repeats
a part. Lines that begin with # and empty ones are for people.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("json.txt")

_QUOTED: Final = r"'(?:[^'\\]|\\.)*'"
_LINE: Final = re.compile(rf"(?P<verdict>y|{_QUOTED})(?P<parts>(?:\s+{_QUOTED}(?:\*\d+)?)+)")
_PART: Final = re.compile(rf"({_QUOTED})(?:\*(\d+))?")


@dataclass(frozen=True)
class Vector:
    """Bytes, and what a reader of JSON owes them: `fault` is empty where they are read."""

    line: int
    fault: str
    body: bytes

    def __str__(self) -> str:
        return f"line {self.line}"


def read_corpus() -> list[Vector]:
    """Every vector of the file. ValueError for a line that is none."""
    lines = FILE.read_text(encoding="ascii").splitlines()
    return [_vector(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]


def _vector(number: int, line: str) -> Vector:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"json.txt:{number}: {line}")
    verdict = match["verdict"]
    body = b"".join(ast.literal_eval(f"b{part}") * int(times or 1) for part, times in _PART.findall(match["parts"]))
    return Vector(number, "" if verdict == "y" else ast.literal_eval(verdict), body)
