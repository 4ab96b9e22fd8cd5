"""What the demo shows on a terminal, or writes into a file. The only place here that imports rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        """Plain text, as it is."""
        self._console.print(text, markup=False, soft_wrap=True)

    def quote(self, title: str, text: str) -> None:
        """What somebody else said."""
        self._console.rule(title)
        self.say(text)
        self._console.rule()

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar; gives what tells it how many are done. Without a terminal only its end is written."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    def table(self, title: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Figures, to be read from the right."""
        table = Table(title=title, caption=caption)
        for heading in headings:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
