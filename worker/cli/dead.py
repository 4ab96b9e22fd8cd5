"""`worker dead`: look at the dead queue, and send its jobs back."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.config import Json
from worker.cli.letters import as_record, as_row, as_text, summary
from worker.cli.options import BROKER, Given, takes
from worker.cli.reaching import reach, with_broker
from worker.cli.terminal import error, note, print_json, print_table, printable, warn
from worker.core.outcome import REASONS
from worker.core.units import parse_duration

if TYPE_CHECKING:
    from worker.amqp.dead import DeadLetter, DeadQueue, Held, Reading
    from worker.amqp.publisher import Publisher
    from worker.ops.settings import Settings

_DEAD = (*BROKER, "trusted_users")

Id = Annotated[str, typer.Argument(metavar="ID", help="Job id, or message id of the letter.")]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; None is no condition. `older` in seconds."""

    reason: str | None = None
    type: str | None = None
    older: float | None = None

    def takes(self, letter: DeadLetter, now: float) -> bool:
        """A letter that does not tell when its job died is not older than anything."""
        if self.older is not None and (letter.died_at is None or now - letter.died_at < self.older):
            return False
        return self.reason in (None, letter.reason) and self.type in (None, letter.type)


@takes(_DEAD)
def list_letters(
    given: Given,
    reason: Annotated[str | None, typer.Option(metavar="R", help="Only letters of this reason.")] = None,
    type: Annotated[str | None, typer.Option(metavar="T", help="Only jobs of this type.")] = None,
    older: Annotated[str | None, typer.Option(metavar="DURATION", help="Only jobs dead for longer, as 1h.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Show at most so many.")] = 100,
    as_json: Json = False,
) -> int:
    """List dead letters, the oldest first.

    They stay where they are; at most the first 2000 are looked at.
    """
    settings = given.load().settings
    chosen = Filter(_reason(reason), type, _older(older))
    return with_broker(lambda: _list(settings, chosen, limit, as_json=as_json))


@takes(_DEAD)
def show(given: Given, id: Id, as_json: Json = False) -> int:
    """Show a dead letter in full.

    The body, too. As JSON an array, for an id may have several letters.
    """
    settings = given.load().settings
    return with_broker(lambda: _show(settings, id, as_json=as_json))


@takes(_DEAD)
def replay(
    given: Given,
    id: Id,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="With a new job id, for targets that remember failures by key.")
    ] = False,
) -> int:
    """Send a dead job back to the work queue.

    It keeps its id and its finished steps, and starts again at attempt 1, without deadline and not-before. All letters
    of the id are replayed; each copy is confirmed before its letter goes.
    """
    settings = given.load().settings
    return with_broker(lambda: _replay(settings, id, new_key=new_key))


async def _list(settings: Settings, chosen: Filter, limit: int, *, as_json: bool) -> int:
    now = time.time()
    dead = await _open(settings)
    try:
        reading = await dead.read(keep_body=lambda _: False)
    finally:
        await dead.close()
    found = [letter for letter in reading.letters if chosen.takes(letter, now)]
    if as_json:
        print_json([summary(letter) for letter in found[:limit]])
    elif found:
        columns = ("id", "type", "reason", "attempts", "age", "detail")
        print_table(columns, [as_row(letter, now) for letter in found[:limit]])
    elif reading.total:
        print(f"none of the {reading.total} letters in the dead queue of {settings.queue} matches")
    else:
        print(f"the dead queue of {settings.queue} is empty")
    if len(found) > limit:
        note(f"{limit} of {len(found)} shown: --limit shows more")
    _say_window(reading)
    return 0


async def _show(settings: Settings, id: str, *, as_json: bool) -> int:
    dead = await _open(settings)
    try:
        reading = await dead.read(keep_body=lambda letter: letter.answers_to(id))
    finally:
        await dead.close()
    found = [letter for letter in reading.letters if letter.answers_to(id)]
    if not found:
        return _not_found(id, settings, reading)
    if as_json:
        print_json([as_record(letter) for letter in found])
    else:
        print("\n\n".join(as_text(letter) for letter in found))
    return 0


async def _replay(settings: Settings, id: str, *, new_key: bool) -> int:
    from worker.amqp.publisher import Publisher
    from worker.cli.wiring import access_of

    dead = await _open(settings)
    publisher = Publisher(access_of(settings, "worker dead"))
    try:
        reading = await dead.read(keep_body=lambda letter: letter.answers_to(id))
        found = [held for held in reading.held if held.letter.answers_to(id)]
        if not found:
            return _not_found(id, settings, reading)
        await publisher.open()
        return await _send_back(dead, publisher, found, settings.queue, new_key=new_key)
    finally:
        await publisher.close()
        await dead.close()


async def _send_back(dead: DeadQueue, publisher: Publisher, found: list[Held], queue: str, *, new_key: bool) -> int:
    from worker.core.broker import EpochLost, PublishFailed
    from worker.core.replay import NotReplayable, replay_copy

    taken: list[Held] = []
    for held in found:
        letter = held.letter
        job_id = str(uuid.uuid4()) if new_key else letter.id
        try:
            copy = replay_copy(
                letter.message, queue=queue, job_id=job_id, copy_id=str(uuid.uuid4()), believed=letter.believed
            )
            await publisher.publish(copy)
            await dead.take(held)
        except (NotReplayable, PublishFailed) as fault:
            error(f"{printable(letter.id)} is not replayed: {fault}")
            continue
        except EpochLost:
            warn(f"{printable(letter.id)} is replayed, but its letter is in the dead queue still: the broker went away")
        taken.append(held)
        print(f"replayed {printable(letter.id)} to {queue}" + (f" as {job_id}" if new_key else ""))
    if taken:
        await _flush(dead, taken[-1])
    if len(found) > 1:
        print(f"{len(taken)} of {len(found)} letters replayed")
    return 0 if len(taken) == len(found) else 1


async def _open(settings: Settings) -> DeadQueue:
    from worker.amqp.dead import DeadQueue
    from worker.cli.wiring import access_of, topology_of

    connected = await reach(access_of(settings, "worker dead"), "read", settings.connect_timeout)
    return DeadQueue(connected, topology_of(settings), frozenset(settings.trusted_users))


async def _flush(dead: DeadQueue, last: Held) -> None:
    from worker.core.broker import EpochLost

    try:
        await dead.flush(last)
    except EpochLost:
        warn("the broker went away: letters that were replayed may be in the dead queue still")


def _not_found(id: str, settings: Settings, reading: Reading) -> int:
    error(f"no letter of {printable(id)} among the {len(reading.held)} in the dead queue of {settings.queue}")
    _say_window(reading)
    return 1


def _say_window(reading: Reading) -> None:
    if len(reading.held) < reading.total:
        note(f"only the first {len(reading.held)} of {reading.total} letters were looked at")


def _reason(text: str | None) -> str | None:
    if text is not None and text not in REASONS:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(sorted(REASONS))}", param_hint="--reason")
    return text


def _older(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--older") from None
