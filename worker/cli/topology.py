"""`worker topology`: the queues ahead of time, for brokers where the worker may not declare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.config import Json
from worker.cli.options import BROKER, Given, takes
from worker.cli.reaching import REFUSED, reach, with_broker
from worker.cli.terminal import error, note, print_json, print_table

if TYPE_CHECKING:
    from worker.core.topology import Queue, Rights, Topology
    from worker.ops.settings import Settings

_SHOWN = ("amqp_url", "queue", "queue_type", "topology")


@takes(_SHOWN)
def show(given: Given, as_json: Json = False) -> int:
    """Show the queues that belong to a work queue, their arguments, and the rights a worker needs.

    The broker is not asked: worker status says what is there, worker check whether it is as it should be.
    """
    from worker.cli.wiring import topology_of

    settings = given.load().settings
    topology = topology_of(settings)
    rights = topology.rights(declares=settings.topology == "declare")
    if as_json:
        print_json({"queues": [_declared(queue) for queue in topology.queues], "rights": _of_rights(rights)})
        return 0
    print_table(
        ("queue", "arguments"),
        [(queue.name, " ".join(f"{name}={value!r}" for name, value in _plain(queue))) for queue in topology.queues],
    )
    print()
    user = settings.amqp_url[0].user
    for what, pattern in _of_rights(rights).items():
        print(f"{what:<9}  {pattern}   (what {user} needs with topology {settings.topology})")
    return 0


@takes(BROKER)
def apply(given: Given) -> int:
    """Declare every queue, the whole ladder included, as a user who may.

    A worker can then run with WORKER_TOPOLOGY=passive, or none. What is there already stays as it is; a queue that is
    there with other arguments is told, exit 78.
    """
    settings = given.load().settings
    return with_broker(lambda: _apply(settings))


@takes(_SHOWN)
def export(
    given: Given,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to; without it, or as -, standard output.")
    ] = None,
    *,
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also the rights of this user, who must be there: those a worker needs."),
    ] = None,
) -> int:
    """Print the queues as RabbitMQ definitions, for rabbitmqctl import_definitions FILE.

    The vhost is the one of WORKER_AMQP_URL, and has to be there. Passwords are not in it.
    """
    from worker.cli.wiring import topology_of

    settings = given.load().settings
    found = definitions(
        topology_of(settings), settings.amqp_url[0].vhost, user, declares=settings.topology == "declare"
    )
    if file is None or str(file) == "-":
        print_json(found)
        return 0
    try:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="ascii")
    except OSError as fault:
        raise typer.BadParameter(f"{file}: {fault.strerror}", param_hint="FILE") from None
    note(f"{len(found['queues'])} queues written to {file}")
    return 0


def definitions(topology: Topology, vhost: str, user: str | None, *, declares: bool) -> dict[str, Any]:
    """What `rabbitmqctl import_definitions` takes."""
    queues = [{**_declared(queue), "vhost": vhost, "durable": True, "auto_delete": False} for queue in topology.queues]
    rights = _of_rights(topology.rights(declares=declares))
    return {"queues": queues} | ({"permissions": [{"user": user, "vhost": vhost, **rights}]} if user else {})


def _declared(queue: Queue) -> dict[str, Any]:
    return {"name": queue.name, "arguments": dict(queue.arguments)}


def _plain(queue: Queue) -> list[tuple[str, Any]]:
    return [(name.removeprefix("x-"), value) for name, value in queue.arguments.items()]


def _of_rights(rights: Rights) -> dict[str, str]:
    return {"configure": rights.configure, "write": rights.write, "read": rights.read}


async def _apply(settings: Settings) -> int:
    from worker.amqp.connecting import BROKEN, Unreachable
    from worker.amqp.queues import conflicts, passive_count
    from worker.cli.wiring import access_of, topology_of

    topology = topology_of(settings)
    connected = await reach(access_of(settings, "worker topology"), "declare", settings.connect_timeout)
    code = 0
    try:
        for queue in topology.queues:
            was_there = await passive_count(connected.amqp, queue.name) is not None
            found = await conflicts(connected.amqp, [queue], "declare")
            for text in found:
                error(text)
                code = REFUSED
            if not found:
                print(f"{queue.name}: {'is there' if was_there else 'declared'}")
    except BROKEN as fault:
        raise Unreachable(f"{connected.node.shown}: {fault}") from fault
    finally:
        await connected.close()
    return code
