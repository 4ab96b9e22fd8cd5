"""What `worker dead` does to the dead queue: letters go back to the work queue, or go for good."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from worker.cli.dead_reading import Filter, Looked, look, no_body, not_found, nothing, open_dead, say_window
from worker.cli.letters import Groups
from worker.cli.progress import progress
from worker.cli.terminal import error, note, print_json, printable
from worker.core.message import Properties
from worker.core.replay import NotReplayable, replay_copy

if TYPE_CHECKING:
    from collections.abc import Hashable

    from worker.amqp.dead import DeadLetter
    from worker.amqp.holding import Holder
    from worker.cli.sweeping import Move, Sweep
    from worker.core.units import Rate
    from worker.ops.settings import Settings

ERRORS_SHOWN = 20
"""Failures that are told one by one; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done with the letters that are meant."""

    verb: Literal["replay", "drop"]
    chosen: Filter
    window: int
    rate: Rate | None
    new_key: bool = False
    as_json: bool = False

    @property
    def done(self) -> str:
        return {"replay": "replayed", "drop": "dropped"}[self.verb]


async def would(settings: Settings, wish: Wish) -> int:
    """Say what would be done."""
    now, groups = time.time(), Groups()

    def each(letter: DeadLetter) -> None:
        if wish.chosen.takes(letter, now):
            groups.add(letter)

    looked = await look(settings, wish.window, each)
    if wish.as_json:
        print_json(_report(wish, looked, groups.total, 0, dry_run=True, groups=groups.records()))
        return 0
    if not groups.total:
        return _none(settings, wish, looked)
    print(f"{groups.total} letters would be {wish.done}: {groups.line()}")
    say_window(looked)
    return 0


async def carry_out(settings: Settings, wish: Wish) -> int:
    """Do it. Raises Unreachable or Refused."""
    import asyncio

    from worker.amqp.publisher import Publisher
    from worker.cli.sweeping import Orders, Sweep
    from worker.cli.wiring import access_of

    publisher = Publisher(access_of(settings, "worker dead"))
    now, failures = time.time(), _Failures(wish)
    with progress(wish.verb) as advance:
        sweep: Sweep[DeadLetter] = Sweep(
            Orders(
                open=lambda: _opened(settings, wish, now),
                move=_mover(settings, wish, now),
                publish=publisher.publish,
                window=wish.window,
                rate=wish.rate,
                longest_pass=longest_pass(settings),
                on_done=_teller(settings, wish),
                on_failed=failures.tell,
                on_progress=advance,
            )
        )
        try:
            await sweep.run()
        except asyncio.CancelledError:
            note(f"interrupted: {sweep.swept.done} letters were {wish.done} for certain")
            raise
        finally:
            await publisher.close()
    return _result(settings, wish, sweep)


def longest_pass(settings: Settings) -> float:
    """Seconds for which messages may be held without the broker minding."""
    from worker.cli.sweeping import LONGEST_PASS

    return min(LONGEST_PASS, settings.consumer_timeout / 3)


def identity_of(properties: Properties, body: bytes) -> Hashable:
    """What tells a message from all others; None when nothing does."""
    if properties.message_id is None:
        return None
    return (properties.message_id, properties.type, hashlib.sha256(body).digest())


async def _opened(settings: Settings, wish: Wish, now: float) -> Holder[DeadLetter]:
    from worker.amqp.holding import BODILESS

    if wish.verb == "drop":
        return await open_dead(settings, no_body, BODILESS)
    return await open_dead(settings, lambda letter: wish.chosen.takes(letter, now))


def _mover(settings: Settings, wish: Wish, now: float) -> Callable[[DeadLetter], Move | None]:
    from worker.cli.sweeping import CannotMove, Move

    def move(letter: DeadLetter) -> Move | None:
        if not wish.chosen.takes(letter, now):
            return None
        if wish.verb == "drop":
            return Move(letter.id)
        job_id = str(uuid.uuid4()) if wish.new_key else letter.id
        try:
            copy = replay_copy(
                letter.message,
                queue=settings.queue,
                job_id=job_id,
                copy_id=str(uuid.uuid4()),
                believed=letter.believed,
            )
        except NotReplayable as fault:
            raise CannotMove(letter.id, str(fault)) from None
        assert isinstance(letter.message.properties, Properties)
        identity = identity_of(letter.message.properties, letter.message.body)
        return Move(letter.id, copy, job_id if wish.new_key else "", identity)

    return move


def _teller(settings: Settings, wish: Wish) -> Callable[[Move], None]:
    """Who asks for one id is told of each of its letters."""
    if wish.as_json or wish.chosen.id is None:
        return lambda _: None

    def tell(move: Move) -> None:
        to = f" to {settings.queue}" if wish.verb == "replay" else ""
        print(f"{wish.done} {printable(move.name)}{to}" + (f" as {move.became}" if move.became else ""))

    return tell


class _Failures:
    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._count = 0

    def tell(self, name: str, reason: str) -> None:
        self._count += 1
        if self._count <= ERRORS_SHOWN:
            error(f"{printable(name)} is not {self._wish.done}: {reason}")


def _result(settings: Settings, wish: Wish, sweep: Sweep[DeadLetter]) -> int:
    swept = sweep.swept
    looked = Looked(swept.looked_at, max(swept.total, swept.looked_at))
    code = 1 if swept.failed else 0
    if wish.as_json:
        print_json(_report(wish, looked, swept.done, swept.failed, dry_run=False))
        return code
    if not swept.done and not swept.failed:
        return _none(settings, wish, looked)
    meant = swept.done + swept.failed
    if wish.chosen.id is None or meant > 1:
        print(f"{swept.done} of {meant} letters {wish.done}")
    if swept.failed > ERRORS_SHOWN:
        note(f"{swept.failed - ERRORS_SHOWN} more failed")
    say_window(looked)
    return code


def _none(settings: Settings, wish: Wish, looked: Looked) -> int:
    if wish.chosen.id is not None:
        return not_found(wish.chosen.id, settings, looked)
    print(nothing(settings, looked))
    say_window(looked)
    return 0


def _report(wish: Wish, looked: Looked, done: int, failed: int, *, dry_run: bool, **more: Any) -> dict[str, Any]:
    return {
        wish.done: done,
        "failed": failed,
        "dry_run": dry_run,
        "looked_at": looked.at,
        "letters": looked.total,
        **more,
    }
