"""What a command says: results on stdout, everything else on stderr, one line for each fault."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

UNBOUNDED = 10_000
"""Columns of a table that is not for a terminal: nothing is cut off or wrapped for whoever reads it."""


def error(text: object) -> None:
    """Each line of `text` as a fault."""
    for line in str(text).splitlines() or [""]:
        print(f"error: {line}", file=sys.stderr)


def warn(text: object) -> None:
    print(f"warning: {text}", file=sys.stderr)


def note(text: object) -> None:
    """Something beside the result, which may go to a program."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """`value` in ASCII: nothing that a publisher wrote is obeyed by a terminal, or refused by an encoding."""
    print(json.dumps(value, indent=2))


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table without lines; cells are plain text, whatever they hold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _console().print(table)


def printable(text: str) -> str:
    """`text` without what a terminal would obey: publishers choose ids and types."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False)
