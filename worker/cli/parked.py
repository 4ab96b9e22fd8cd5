"""`worker parked`: the jobs that wait in the ladder."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.config import Json
from worker.cli.dead import DryRun, Pace, rate_of
from worker.cli.dead_moving import identity_of, longest_pass
from worker.cli.options import BROKER, Given, takes
from worker.cli.progress import progress
from worker.cli.reaching import reach, with_broker
from worker.cli.terminal import error, note, print_json, printable
from worker.core.replay import NotReplayable, due_copy
from worker.core.topology import RUNGS
from worker.core.units import parse_duration

if TYPE_CHECKING:
    from worker.amqp.holding import Holder
    from worker.amqp.publisher import Publisher
    from worker.cli.sweeping import Move
    from worker.core.message import Message
    from worker.core.units import Rate
    from worker.ops.settings import Settings


@takes((*BROKER, "trusted_users", "consumer_timeout"))
def flush(
    given: Given,
    rung: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only the queue of this wait, as 60s or 1h.")
    ] = None,
    *,
    rate: Pace = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Send jobs that wait back to the work queue at once, whatever they wait for: a retry, a limit, a delay.

    They keep attempt, finished steps and deadline. Each copy is confirmed before the waiting one goes, so that nothing
    is lost when this is killed; a job whose copy was just sent may then run twice. What is parked while it runs, or
    comes back because what it waited for still holds (a breaker, a paused key), waits as ever.
    """
    settings = given.load().settings
    rungs = RUNGS if rung is None else (_rung(rung),)
    return with_broker(lambda: _flush(settings, rungs, rate_of(rate), dry_run=dry_run, as_json=as_json))


def _rung(text: str) -> int:
    try:
        seconds = parse_duration(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--rung") from None
    if seconds not in RUNGS:
        raise typer.BadParameter(f"{text} is none of {', '.join(f'{one}s' for one in RUNGS)}", param_hint="--rung")
    return int(seconds)


async def _flush(settings: Settings, rungs: tuple[int, ...], rate: Rate | None, *, dry_run: bool, as_json: bool) -> int:
    from worker.amqp.publisher import Publisher
    from worker.cli.wiring import access_of, topology_of

    topology, done, failed = topology_of(settings), dict[str, int](), 0
    waiting = await _waiting(settings, [topology.wait_name(rung) for rung in rungs])
    publisher = Publisher(access_of(settings, "worker parked"))
    try:
        for queue, number in waiting.items():
            if dry_run:
                done[queue] = number
            elif number:
                done[queue], wrong = await _sweep(settings, publisher, queue, rate)
                failed += wrong
    finally:
        await publisher.close()
    flushed = {queue: number for queue, number in done.items() if number}
    if as_json:
        print_json({"flushed": sum(flushed.values()), "failed": failed, "dry_run": dry_run, "queues": flushed})
    else:
        would = "would be sent back" if dry_run else "sent back"
        for queue, number in flushed.items():
            print(f"{queue}: {number} jobs {would} to {settings.queue}")
        if not flushed and not failed:
            print("no job waits" if len(rungs) > 1 else f"no job waits in {topology.wait_name(rungs[0])}")
    return 1 if failed else 0


async def _waiting(settings: Settings, queues: list[str]) -> dict[str, int]:
    """How many jobs wait in each of those queues that are there. Raises Unreachable or Refused."""
    from worker.amqp.connecting import Refused
    from worker.amqp.inspection import count_queues
    from worker.cli.wiring import access_of

    connected = await reach(access_of(settings, "worker parked"), "count", settings.connect_timeout)
    try:
        counts = await count_queues(connected, queues)
    finally:
        await connected.close()
    if refused := [queue for queue, found in counts.items() if found == "not allowed"]:
        raise Refused(f"queue {refused[0]!r} may not be looked at; give the broker user the right to read it")
    return {queue: found.ready for queue, found in counts.items() if not isinstance(found, str)}


async def _sweep(settings: Settings, publisher: Publisher, queue: str, rate: Rate | None) -> tuple[int, int]:
    import asyncio

    from worker.cli.sweeping import Orders, Sweep

    with progress(queue) as advance:
        sweep: Sweep[Message] = Sweep(
            Orders(
                open=lambda: _opened(settings, queue),
                move=_mover(settings),
                publish=publisher.publish,
                window=1_000_000_000,
                rate=rate,
                longest_pass=longest_pass(settings),
                on_failed=lambda name, reason: error(f"{printable(name)} is not sent back: {reason}"),
                on_progress=advance,
            )
        )
        try:
            await sweep.run()
        except asyncio.CancelledError:
            note(f"interrupted: {sweep.swept.done} jobs of {queue} were sent back for certain")
            raise
    return sweep.swept.done, sweep.swept.failed


async def _opened(settings: Settings, queue: str) -> Holder[Message]:
    from worker.amqp.holding import Holder
    from worker.cli.wiring import access_of

    connected = await reach(access_of(settings, "worker parked"), "flush", settings.connect_timeout)
    return Holder(connected, queue, lambda message: (message, len(message.body)))


def _mover(settings: Settings) -> Callable[[Message], Move | None]:
    from worker.cli.sweeping import CannotMove, Move
    from worker.core.message import Properties

    trusted = frozenset(settings.trusted_users)

    def move(message: Message) -> Move:
        properties = message.properties
        believed = isinstance(properties, Properties) and properties.user_id in trusted
        try:
            copy = due_copy(message, queue=settings.queue, copy_id=str(uuid.uuid4()), believed=believed)
        except NotReplayable as fault:
            raise CannotMove("a message", str(fault)) from None
        assert isinstance(properties, Properties)
        name = str(properties.headers.get("x-worker-id") or properties.message_id)
        return Move(name, copy, identity=identity_of(properties, message.body))

    return move
