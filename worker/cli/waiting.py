"""What `worker publish --wait` does once jobs are on their way: tell each result as it comes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from worker.cli.terminal import print_json, warn

if TYPE_CHECKING:
    from worker.amqp.replies import Replies, Reply

NAMED: Final = 5
"""Most outstanding ids that a message names."""

Show = Callable[[Any], None]


class Answers:
    """The results of `count` jobs. `sent()` for each as it goes out, `collect()` until all are here."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._outstanding: dict[str, None] = {}
        self._answered: set[str] = set()
        self.all_succeeded = True

    def sent(self, id: str) -> None:
        """A job is on its way; its result may come before the broker has confirmed it."""
        self._outstanding[id] = None

    async def collect(self, replies: Replies) -> None:
        """Tell every result; return with the last. Unreachable when the connection is lost before."""
        with _shown(self._count) as show:
            while len(self._answered) < self._count:
                self._take(await replies.next(), show)

    @property
    def missing(self) -> str:
        """How many results are outstanding, and of which jobs."""
        ids = list(self._outstanding)
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        named = f": {', '.join(ids[:NAMED])}{more}" if ids else ""
        return f"{len(ids)} of {self._count} results outstanding{named}"

    def _take(self, reply: Reply, show: Show) -> None:
        job = reply.correlation_id or ""
        if job in self._answered:
            return  # replies come at least once
        if job not in self._outstanding:
            warn("a reply was ignored: its correlation_id is none of these jobs'")
            return
        del self._outstanding[job]
        self._answered.add(job)
        result = _read(reply.body)
        if result is None:
            warn(f"what came in reply to {job} is no result")
        else:
            show(result)
        self.all_succeeded &= result is not None and result.get("status") == "succeeded"


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def _shown(count: int) -> Iterator[Show]:
    """Results on stdout, and how many are here on stderr if that is a terminal; gives what tells the next one."""
    if not sys.stderr.isatty():
        yield _print
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("waiting for results"), MofNCompleteColumn(), TimeElapsedColumn())
    # Not redirected: rich would put on stderr what goes to stdout.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task("", total=count)

    def show(result: Any) -> None:
        bar.stop()  # or the two would write over each other
        _print(result)
        bar.advance(task)
        bar.start()

    with bar:
        yield show


def _print(result: Any) -> None:
    if sys.stdout.isatty():
        print_json(result)
    else:
        print(json.dumps(result))
    sys.stdout.flush()
