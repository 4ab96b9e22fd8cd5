"""`worker dead`: look at the dead queue, send its jobs back, take them out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from worker.cli import dead_moving, dead_reading
from worker.cli.config import Json
from worker.cli.dead_moving import Wish
from worker.cli.dead_reading import Filter
from worker.cli.options import BROKER, Given, takes
from worker.cli.reaching import with_broker
from worker.core.outcome import REASONS
from worker.core.units import Rate, parse_duration, parse_rate

_DEAD = (*BROKER, "trusted_users")
_MOVING = (*_DEAD, "consumer_timeout")

WINDOW: Final = 100_000

Id = Annotated[str, typer.Argument(metavar="ID", help="Job id, or message id of the letter.")]
AnyId = Annotated[str | None, typer.Argument(metavar="ID", help="Job id, or message id of the letter.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="R", help="Only letters of this reason.")]
Type = Annotated[str | None, typer.Option("--type", metavar="T", help="Only jobs of this type.")]
Older = Annotated[str | None, typer.Option("--older", metavar="DURATION", help="Only jobs dead for longer, as 1h.")]
Window = Annotated[int, typer.Option("--window", metavar="N", min=1, help="Look at the oldest N letters of the queue.")]
All = Annotated[bool, typer.Option("--all", help="Every letter of the window.")]
Pace = Annotated[str | None, typer.Option("--rate", metavar="RATE", help="No more than so many, as 20/s.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@takes(_DEAD)
def list_letters(
    given: Given,
    reason: Reason = None,
    type: Type = None,
    older: Older = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Show at most so many.")] = 100,
    *,
    group: Annotated[bool, typer.Option("--group", help="Only how many there are of each reason and type.")] = False,
    window: Window = WINDOW,
    as_json: Json = False,
) -> int:
    """List dead letters, the oldest first, and how many there are of each reason and type.

    They stay where they are, in their order. The oldest --window letters are looked at; it is said when there are more.
    While a list is made nobody else sees these letters: a second reader at the same time finds fewer.
    """
    settings = given.load().settings
    chosen = _filter(reason, type, older)
    return with_broker(lambda: dead_reading.list_letters(settings, chosen, limit, window, group=group, as_json=as_json))


@takes(_DEAD)
def show(given: Given, id: Id, *, window: Window = WINDOW, as_json: Json = False) -> int:
    """Show a dead letter in full.

    The body, too. As JSON an array, for an id may have several letters.
    """
    settings = given.load().settings
    return with_broker(lambda: dead_reading.show(settings, id, window, as_json=as_json))


@takes(_MOVING)
def replay(
    given: Given,
    id: AnyId = None,
    *,
    reason: Reason = None,
    type: Type = None,
    older: Older = None,
    every: All = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="With a new job id, for targets that remember failures by key.")
    ] = False,
    rate: Pace = None,
    dry_run: DryRun = False,
    window: Window = WINDOW,
    as_json: Json = False,
) -> int:
    """Send dead jobs back to the work queue: of an ID, those the filters name, or --all.

    They keep their id and their finished steps, and start again at attempt 1, without deadline and not-before. Each
    copy is confirmed before its letter goes, so that nothing is lost when this is killed; a letter whose copy was just
    sent may be replayed once more then. Letters that come while it runs are left alone. Exit 1 if one cannot be
    replayed.
    """
    settings = given.load().settings
    chosen = _meant(_filter(reason, type, older, id), every=every)
    wish = Wish("replay", chosen, window, rate_of(rate), new_key, as_json)
    return with_broker(lambda: (dead_moving.would if dry_run else dead_moving.carry_out)(settings, wish))


@takes(_MOVING)
def drop(
    given: Given,
    id: AnyId = None,
    *,
    reason: Reason = None,
    type: Type = None,
    older: Older = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really: dropped letters are gone for good.")] = False,
    rate: Pace = None,
    dry_run: DryRun = False,
    window: Window = WINDOW,
    as_json: Json = False,
) -> int:
    """Delete dead letters: of an ID, those the filters name, or --all. Without --yes only say which.

    worker dead export keeps a copy. When this is killed the letters that were not dropped are still there.
    """
    settings = given.load().settings
    chosen = _meant(_filter(reason, type, older, id), every=every)
    wish = Wish("drop", chosen, window, rate_of(rate), as_json=as_json)
    if dry_run or yes:
        return with_broker(lambda: (dead_moving.would if dry_run else dead_moving.carry_out)(settings, wish))
    code = with_broker(lambda: dead_moving.would(settings, wish))
    if code:
        return code
    raise typer.BadParameter("nothing was dropped: it takes --yes", param_hint="--yes")


@takes(_DEAD)
def export(
    given: Given,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A new file; without it, or as -, standard output.")
    ] = None,
    *,
    reason: Reason = None,
    type: Type = None,
    older: Older = None,
    window: Window = WINDOW,
) -> int:
    """Write dead letters as JSON, one a line, each as `worker dead show --json` prints it.

    They stay where they are. A file is there once all of it is; worker.testing.replay_letter() reads a line of it.
    """
    settings = given.load().settings
    chosen = _filter(reason, type, older)
    path = None if file is None or str(file) == "-" else file
    if path is not None and path.exists():
        raise typer.BadParameter(f"{path} is there already: choose another name", param_hint="FILE")
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"{path.absolute().parent} is not a directory", param_hint="FILE")
    return with_broker(lambda: dead_reading.export(settings, chosen, window, path))


def _filter(reason: str | None, type: str | None, older: str | None, id: str | None = None) -> Filter:
    if reason is not None and reason not in REASONS:
        raise typer.BadParameter(f"{reason!r} is not one of {', '.join(sorted(REASONS))}", param_hint="--reason")
    try:
        return Filter(reason, type, None if older is None else parse_duration(older), id)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--older") from None


def _meant(chosen: Filter, *, every: bool) -> Filter:
    """Nobody sends all letters back by forgetting something."""
    if chosen.is_open and not every:
        raise typer.BadParameter("name an ID, --reason, --type or --older, or say --all", param_hint="ID")
    if every and not chosen.is_open:
        raise typer.BadParameter(f"it is every letter, and {chosen} is not", param_hint="--all")
    return chosen


def rate_of(text: str | None) -> Rate | None:
    """What --rate says."""
    try:
        return None if text is None else parse_rate(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--rate") from None
