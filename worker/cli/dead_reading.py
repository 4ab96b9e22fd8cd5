"""What `worker dead` shows of the dead queue: lists, single letters, exports. Nothing is taken."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from worker.cli.letters import Groups, as_record, as_row, as_text, summary
from worker.cli.progress import progress
from worker.cli.reaching import reach
from worker.cli.terminal import error, note, print_json, print_table, printable
from worker.core.units import format_duration

if TYPE_CHECKING:
    from worker.amqp.dead import DeadLetter
    from worker.amqp.holding import Holder, Slices
    from worker.ops.settings import Settings

PART: Final = ".part"
"""Added to the name of an export that is not whole yet."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; None is no condition. `older` in seconds, `id` of the job or the message."""

    reason: str | None = None
    type: str | None = None
    older: float | None = None
    id: str | None = None

    def takes(self, letter: DeadLetter, now: float) -> bool:
        """A letter that does not tell when its job died is not older than anything."""
        if self.older is not None and (letter.died_at is None or now - letter.died_at < self.older):
            return False
        if self.id is not None and not letter.answers_to(self.id):
            return False
        return self.reason in (None, letter.reason) and self.type in (None, letter.type)

    @property
    def is_open(self) -> bool:
        """Whether every letter is meant."""
        return self == Filter()

    def __str__(self) -> str:
        told = {"id": self.id, "reason": self.reason, "type": self.type}
        told["older"] = None if self.older is None else format_duration(self.older)
        return ", ".join(f"{name} {printable(value)}" for name, value in told.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Looked:
    """How many letters were looked at, and how many there were."""

    at: int
    total: int

    def __str__(self) -> str:
        if self.at < self.total:
            return f"only the first {self.at} of {self.total} letters were looked at"
        return f"all {self.total} letters were looked at"


async def open_dead(
    settings: Settings, keep_body: Callable[[DeadLetter], bool], slices: Slices | None = None
) -> Holder[DeadLetter]:
    """The dead queue, on a connection of its own. Raises Unreachable or Refused."""
    from worker.amqp.dead import dead_letters
    from worker.amqp.holding import Slices
    from worker.cli.wiring import access_of, topology_of

    connected = await reach(access_of(settings, "worker dead"), "read", settings.connect_timeout)
    trusted = frozenset(settings.trusted_users)
    return dead_letters(connected, topology_of(settings), trusted, keep_body, slices or Slices())


async def look(
    settings: Settings,
    window: int,
    each: Callable[[DeadLetter], None],
    keep_body: Callable[[DeadLetter], bool] | None = None,
) -> Looked:
    """Tell `each` of the first `window` letters, the oldest first; with its body where `keep_body` says so."""
    from worker.amqp.holding import BODILESS

    holder = await (open_dead(settings, keep_body) if keep_body else open_dead(settings, no_body, BODILESS))
    try:
        total = await holder.number()
        seen = 0
        with progress("looking") as advance:
            async for several in holder.slices(min(total, window)):
                for held in several:
                    each(held.what)
                seen += len(several)
                advance(seen, min(total, window))
    finally:
        await holder.close()
    return Looked(seen, max(total, seen))


def no_body(_letter: DeadLetter) -> bool:
    return False


async def list_letters(
    settings: Settings, chosen: Filter, limit: int, window: int, *, group: bool, as_json: bool
) -> int:
    now = time.time()
    groups, shown = Groups(), list["DeadLetter"]()

    def each(letter: DeadLetter) -> None:
        if chosen.takes(letter, now):
            groups.add(letter)
            if len(shown) < limit and not group:
                shown.append(letter)

    looked = await look(settings, window, each)
    if as_json:
        print_json(groups.records() if group else [summary(letter) for letter in shown])
    elif not groups.total:
        print(nothing(settings, looked))
    elif group:
        print_table(("reason", "type", "letters", "oldest", "newest"), groups.rows(now))
    else:
        print_table(("id", "type", "reason", "attempts", "age", "detail"), [as_row(letter, now) for letter in shown])
    if not group and groups.total > limit:
        note(f"{limit} of {groups.total} shown: --limit shows more")
    if groups.total > 1 and not group:
        note(f"{groups.total} letters: {groups.line()}")
    say_window(looked)
    return 0


def nothing(settings: Settings, looked: Looked) -> str:
    """That there is no letter of those that are meant."""
    if looked.total:
        return f"none of the {looked.total} letters in the dead queue of {settings.queue} matches"
    return f"the dead queue of {settings.queue} is empty"


def say_window(looked: Looked) -> None:
    if looked.at < looked.total:
        note(f"{looked}: --window looks at more; what another reader holds cannot be seen")


async def show(settings: Settings, id: str, window: int, *, as_json: bool) -> int:
    found: list[DeadLetter] = []

    def each(letter: DeadLetter) -> None:
        if letter.answers_to(id):
            found.append(letter)

    looked = await look(settings, window, each, lambda letter: letter.answers_to(id))
    if not found:
        return not_found(id, settings, looked)
    if as_json:
        print_json([as_record(letter) for letter in found])
    else:
        print("\n\n".join(as_text(letter) for letter in found))
    return 0


def not_found(id: str, settings: Settings, looked: Looked) -> int:
    error(f"no letter of {printable(id)} among the {looked.at} in the dead queue of {settings.queue}")
    say_window(looked)
    return 1


async def export(settings: Settings, chosen: Filter, window: int, file: Path | None) -> int:
    now, count = time.time(), 0

    with _whole(file) as output:

        def each(letter: DeadLetter) -> None:
            nonlocal count
            if chosen.takes(letter, now):
                count += 1
                # One write for each line: whatever ends this, none is cut in two.
                output.write(json.dumps(as_record(letter)).encode("ascii") + b"\n")

        looked = await look(settings, window, each, lambda letter: chosen.takes(letter, now))
    note(f"{count} letters exported to {file or 'standard output'}; {looked}")
    return 0


@contextlib.contextmanager
def _whole(file: Path | None) -> Iterator[IO[bytes]]:
    """The file is there once all of it is, and on the disk; standard output as it comes."""
    if file is None:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as output:
            yield output
        return
    part = file.with_name(file.name + PART)
    try:
        with part.open("wb", buffering=0) as output:
            yield output
            os.fsync(output.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
