"""How far a command is, on stderr if that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], Any]]:
    """Gives what is told how many are done, and of how many."""
    if not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005 - names for whoever reads it
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
