"""`worker status`: what is queued, waiting and dead, who consumes, and how the service on this host is."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.config import Json
from worker.cli.letters import rough_age
from worker.cli.local_service import LocalService, ask_local
from worker.cli.options import BROKER, Given, takes
from worker.cli.reaching import REFUSED, UNREACHABLE, reach, with_broker
from worker.cli.terminal import error, note, print_json, print_table, printable
from worker.core.message import Properties

if TYPE_CHECKING:
    from worker.amqp.connecting import Connected
    from worker.amqp.inspection import NotAllowed, NotThere
    from worker.amqp.queues import Counts
    from worker.core.message import Message
    from worker.core.topology import Topology
    from worker.ops.settings import Settings

SAMPLE: Final = 5
"""Jobs of each rung that --parked shows."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue. `ready` and `consumers` are None when it is not there, or when `trouble` says why nobody can tell."""

    name: str
    role: str
    ready: int | None = None
    consumers: int | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class ParkedJob:
    """A job that waits. `due` in epoch seconds, None when nothing tells."""

    queue: str
    id: str
    type: str
    attempt: int | None
    snoozes: int | None
    due: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the broker told; `trouble` says why it did not, with the exit code for that."""

    node: str = ""
    version: str = ""
    rows: tuple[QueueRow, ...] = ()
    parked: tuple[ParkedJob, ...] = ()
    trouble: str = ""
    code: int = 0


@takes((*BROKER, "admin", "admin_token"))
def status(
    given: Given,
    *,
    parked: Annotated[bool, typer.Option("--parked", help="Also the first jobs of each rung; see above.")] = False,
    as_json: Json = False,
) -> int:
    """Show the queues, the wait ladder, and the service on this host if its admin listener answers.

    Ready are messages that nobody holds: what workers hold (at most their prefetch) the broker does not tell over AMQP.
    The service on this host tells how many jobs it runs. Exit 0, or 69 and 78 when the broker cannot be asked; what the
    service says is shown even then.

    --parked holds up to 5 jobs of each rung for a moment, and gives them back to their place.
    """
    settings = given.load().settings
    return with_broker(lambda: _status(settings, parked=parked, as_json=as_json))


async def _status(settings: Settings, *, parked: bool, as_json: bool) -> int:
    import asyncio

    local, seen = await asyncio.gather(asyncio.to_thread(ask_local, settings), _ask(settings, parked=parked))
    if as_json:
        print_json(_record(settings, seen, local))
    else:
        _show(seen, local, parked=parked)
    return seen.code


async def _ask(settings: Settings, *, parked: bool) -> Seen:
    from worker.amqp.connecting import Refused, Unreachable
    from worker.amqp.inspection import count_queues
    from worker.cli.wiring import access_of, topology_of

    try:
        connected = await reach(access_of(settings, "worker status"), "look", settings.connect_timeout)
        try:
            topology = topology_of(settings)
            counts = await count_queues(connected, [queue.name for queue in topology.queues])
            rows = tuple(_row(topology, name, found) for name, found in counts.items())
            waiting = [row for row in rows if row.role == "wait" and row.ready]
            jobs = [job for row in waiting for job in await _sample(connected, row)] if parked else []
        finally:
            await connected.close()
    except Refused as fault:
        return Seen(trouble=str(fault), code=REFUSED)
    except Unreachable as fault:
        return Seen(trouble=f"the broker cannot be reached: {fault}", code=UNREACHABLE)
    return Seen(connected.node.shown, connected.server_version, rows, tuple(jobs))


def _role(topology: Topology, name: str) -> str:
    others = {topology.name: "work", topology.suspect_name: "suspect", topology.dead_name: "dead"}
    return others.get(name, "wait")


def _row(topology: Topology, name: str, found: Counts | NotThere | NotAllowed) -> QueueRow:
    role = _role(topology, name)
    match found:
        case "not there":
            return QueueRow(name, role)
        case "not allowed":
            return QueueRow(name, role, trouble="no right to look at it")
        case _:
            return QueueRow(name, role, found.ready, found.consumers)


async def _sample(connected: Connected, row: QueueRow) -> list[ParkedJob]:
    from worker.amqp.holding import Holder

    holder = Holder(connected, row.name, lambda message: (_parked(row.name, message), 0))
    try:
        return [held.what async for several in holder.slices(min(SAMPLE, row.ready or 0)) for held in several]
    finally:
        await holder.give_back()


def _parked(queue: str, message: Message) -> ParkedJob:
    properties = message.properties
    if not isinstance(properties, Properties):
        return ParkedJob(queue, "", "", None, None, None)
    due = _number(properties, "x-worker-not-before")
    return ParkedJob(
        queue,
        str(properties.headers.get("x-worker-id") or properties.message_id or ""),
        properties.type or "",
        _number(properties, "x-worker-attempt"),
        _number(properties, "x-worker-snoozes"),
        None if due is None else due / 1000,
    )


def _number(properties: Properties, name: str) -> int | None:
    value = properties.headers.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _record(settings: Settings, seen: Seen, local: LocalService) -> dict[str, Any]:
    waits = [row.ready for row in seen.rows if row.role == "wait" and row.ready]
    return {
        "queue": settings.queue,
        "broker": {"node": seen.node, "version": seen.version, "trouble": seen.trouble},
        "queues": [asdict(row) for row in seen.rows],
        "waiting": sum(waits),
        "parked": [asdict(job) for job in seen.parked],
        "service": asdict(local),
    }


def _show(seen: Seen, local: LocalService, *, parked: bool) -> None:
    if seen.trouble:
        error(seen.trouble)
    else:
        print(f"broker   {seen.node}, RabbitMQ {seen.version or 'of an unknown version'}")
        for line in _of_service(local):
            print(f"service  {line}")
        print()
        print_table(("queue", "ready", "consumers", ""), [_cells(row) for row in seen.rows if _tells(row)])
        absent = sum(not _tells(row) for row in seen.rows)
        if absent:
            note(f"{absent} wait queues are empty or not declared yet: they are made when first used")
        if parked:
            _show_parked(seen.parked)
        return
    for line in _of_service(local):
        print(f"service  {line}")


def _tells(row: QueueRow) -> bool:
    return row.role != "wait" or bool(row.ready or row.trouble)


def _cells(row: QueueRow) -> tuple[str, ...]:
    if row.ready is None:
        return row.name, "-", "-", row.trouble or "is not there"
    says = {"work": "" if row.consumers else "nobody consumes", "dead": "worker dead list" if row.ready else ""}
    return row.name, str(row.ready), str(row.consumers), says.get(row.role, "")


def _of_service(local: LocalService) -> list[str]:
    if local.trouble:
        return [f"none answers at {local.address}: {local.trouble}"]
    told = ", ".join(f"{name} {_plain(value)}" for name, value in local.ready.items() if value not in ([], "", None))
    lines = [f"{'ready' if local.is_ready else 'NOT READY'} at {local.address}: {told}"]
    running = "jobs are told with the admin token only" if local.running is None else f"{local.running} jobs in flight"
    lines.append(running)
    if local.held_back:
        lines.append(f"breakers open: {printable(', '.join(local.held_back))}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _show_parked(jobs: tuple[ParkedJob, ...]) -> None:
    print()
    if not jobs:
        print("no job waits")
        return
    now = time.time()
    columns = ("waits in", "id", "type", "attempt", "snoozes", "due in")
    print_table(columns, [_of_parked(job, now) for job in jobs])


def _of_parked(job: ParkedJob, now: float) -> tuple[str, ...]:
    due = "-" if job.due is None else rough_age(max(job.due - now, 0))
    numbers = ("-" if one is None else str(one) for one in (job.attempt, job.snoozes))
    return job.queue, job.id or "-", job.type or "-", *numbers, due
