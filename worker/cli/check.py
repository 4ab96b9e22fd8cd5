"""`worker check`: find what is wrong with a set-up before a message does."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from worker.cli.config import Json
from worker.cli.findings import Finding, here, of_settings
from worker.cli.options import BROKER, Given, takes
from worker.cli.reaching import REFUSED, UNREACHABLE, reach
from worker.cli.terminal import print_json
from worker.core.units import parse_duration
from worker.ops.settings import SettingsError

if TYPE_CHECKING:
    from worker.amqp.connecting import Connected
    from worker.amqp.inspection import QueueState, Right
    from worker.core.topology import Topology
    from worker.ops.settings import Settings

OLDEST: Final = (3, 10, 0)
"""The first RabbitMQ whose quorum queues have a message TTL, which the wait ladder is made of."""

Version = tuple[int, int, int]

BUGS: Final[tuple[tuple[Version, Version, str, str], ...]] = (
    (
        (4, 0, 0),
        (4, 2, 7),
        "what moves the wait ladder on can get stuck (rabbitmq-server#16203)",
        "RabbitMQ 4.2.7 or later",
    ),
    (
        (4, 3, 0),
        (4, 3, 1),
        "what moves the wait ladder on can get stuck (rabbitmq-server#16203)",
        "RabbitMQ 4.3.3 or later",
    ),
    (
        (4, 0, 0),
        (4, 3, 3),
        "in a cluster whose nodes are replaced a wait queue can be left without a leader (rabbitmq-server#16652)",
        "RabbitMQ 4.3.3 or later; a single node is not affected",
    ),
)
"""From which version, before which, what is wrong with it, and the fix."""

PASSIVE_NEEDS_CONFIGURE: Final[frozenset[Version]] = frozenset({(4, 2, 6), (4, 3, 0)})

_CHECKED: Final = (
    *(*BROKER, "topology", "job_timeout", "step_timeout", "consumer_timeout", "drain_timeout", "http_allow"),
    *("replicas", "concurrency", "prefetch", "max_body", "admin", "admin_token"),
)


@takes(_CHECKED)
def check(
    given: Given,
    *,
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="What the supervisor waits after SIGTERM: terminationGracePeriodSeconds, TimeoutStopSec.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Look for what is wrong with settings, broker, rights and queues.

    Each line is ok, warn or fail, and says what to do. Nothing is changed. Exit 0 when nothing fails, 1 when something
    does, 69 when the broker cannot be reached, 78 when settings, user or vhost are refused.
    """
    seconds = _grace(grace)
    try:
        loaded = given.load()
    except SettingsError as fault:
        _show([Finding("fail", str(problem)) for problem in fault.problems], as_json=as_json)
        return fault.exit_code
    findings = [*of_settings(loaded, here(), seconds)]
    code = _ask_the_broker(loaded.settings, findings)
    _show(findings, as_json=as_json)
    return code or int(any(one.level == "fail" for one in findings))


def _grace(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--grace") from None


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        print(*findings, sep=os.linesep)


def _ask_the_broker(settings: Settings, findings: list[Finding]) -> int:
    """Add what the broker says; 69 or 78 when it says nothing or no, else 0."""
    import asyncio
    import sys

    from worker.amqp.connecting import Refused, Unreachable
    from worker.ops.log import configure_logging

    configure_logging("error", sys.stderr)
    try:
        asyncio.run(_inspect(settings, findings))
    except Unreachable as fault:
        findings.append(Finding("fail", f"broker unreachable: {fault}", "is it running, and WORKER_AMQP_URL right?"))
        return UNREACHABLE
    except Refused as fault:
        findings += [Finding("fail", f"broker: {line}") for line in str(fault).splitlines()]
        return REFUSED
    return 0


async def _inspect(settings: Settings, findings: list[Finding]) -> None:
    from worker.amqp.inspection import inspect_queues, missing_rights
    from worker.cli.wiring import access_of, topology_of

    topology = topology_of(settings)
    connected = await reach(access_of(settings, "worker check"), "check", settings.connect_timeout)
    try:
        findings += of_version(connected.server_version, connected.node.shown, settings)
        missing = await missing_rights(connected, _needed(topology, settings))
        findings += _of_rights(missing, connected, topology, settings)
        states = await inspect_queues(connected, topology.queues)
        findings += _of_queues(states, topology, settings)
    finally:
        await connected.close()


def of_version(version: str, node: str, settings: Settings) -> Iterator[Finding]:
    """What that version of RabbitMQ is known for."""
    yield Finding("ok", f"broker {node}, RabbitMQ {version or 'of an unknown version'}")
    numbers = _numbers(version)
    if not numbers or settings.queue_type == "classic":
        return
    if numbers < OLDEST:
        text = f"RabbitMQ {version}: its quorum queues have no message TTL"
        yield Finding("fail", text, "RabbitMQ 3.10 or later is needed, or WORKER_QUEUE_TYPE=classic")
    for first, fixed, text, fix in BUGS:
        if first <= numbers < fixed:
            yield Finding("warn", f"RabbitMQ {version}: {text}", fix)
    if numbers in PASSIVE_NEEDS_CONFIGURE and settings.topology == "passive":
        text = f"RabbitMQ {version}: to look at a queue takes the right to configure it"
        yield Finding("warn", text, "WORKER_TOPOLOGY=none, or another version")


def _numbers(version: str) -> Version | None:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def _needed(topology: Topology, settings: Settings) -> list[tuple[Right, str]]:
    from worker.amqp.inspection import DEFAULT_EXCHANGE

    write: tuple[Right, str] = ("write", DEFAULT_EXCHANGE)
    if settings.topology != "declare":
        return [write, ("read", topology.name), ("read", topology.suspect_name)]
    names = [queue.name for queue in topology.queues]
    # To read even what is only written: whoever declares a queue that dead-letters has to be able to.
    configure: list[tuple[Right, str]] = [("configure", name) for name in names]
    return [*configure, write, *(("read", name) for name in names)]


def _of_rights(
    missing: tuple[tuple[Right, str], ...], connected: Connected, topology: Topology, settings: Settings
) -> Iterator[Finding]:
    user = connected.node.user
    vhost = next(url.vhost for url in settings.amqp_url if url.user == user)
    yield Finding("ok", f"user {user!r} may use the vhost {vhost!r}")
    rights = topology.rights(declares=settings.topology == "declare")
    given = (vhost, user, rights.configure, rights.write, rights.read)
    fix = f"rabbitmqctl set_permissions -p {' '.join(map(shlex.quote, given))}"
    for right in ("configure", "write", "read"):
        names = [name for which, name in missing if which == right]
        if names:
            on = f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            other = (
                "; or WORKER_TOPOLOGY=passive, with the queues made by worker topology" if right == "configure" else ""
            )
            yield Finding("fail", f"user {user!r} has no right to {right} {on}", fix + other)
    if not missing:
        yield Finding("ok", f"user {user!r} has the rights that topology {settings.topology} needs")


def _of_queues(states: tuple[QueueState, ...], topology: Topology, settings: Settings) -> Iterator[Finding]:
    later = settings.topology == "declare"
    waits = [state for state in states if topology.wait_called(state.queue.name) is not None]
    for state in states:
        if state.difference:
            yield _of_difference(state, settings)
        elif not state.compared and state.messages is None:
            yield Finding("warn", f"queue {state.queue.name} may not be looked at by this user", "see the rights above")
        elif state.messages is None and not later:
            yield Finding(
                "fail", f"queue {state.queue.name} does not exist", "worker topology apply, as a user who may"
            )
        elif state not in waits:
            yield Finding("ok", _of_queue(state))
    if later:
        there = sum(state.messages is not None for state in waits)
        yield Finding("ok", f"wait queues: {there} of {len(waits)} are there, the others are declared when first used")
    unknown = sum(state.messages is not None and not state.compared for state in states)
    if unknown:
        text = f"the arguments of {unknown} queues cannot be compared without the right to configure them"
        yield Finding("ok", text, "worker check as a user who may, once")
    dead = next(state for state in states if state.queue.name == topology.dead_name)
    if dead.messages:
        yield Finding("warn", f"{dead.messages} dead letters in {dead.queue.name}", "worker dead list")


def _of_difference(state: QueueState, settings: Settings) -> Finding:
    from worker.amqp.queues import FIX

    what = f"queue {state.queue.name!r} is there with other arguments: {state.difference}"
    if state.lacks_dead_letters:
        what += "; what expires in it, or is given up by the broker, is deleted instead of dead-lettered"
    if settings.topology == "declare":
        return Finding("fail", what, FIX)
    return Finding("warn", what, "a policy may make up for it; else delete it once it is empty, worker topology apply")


def _of_queue(state: QueueState) -> str:
    if state.messages is None:
        return f"queue {state.queue.name} does not exist yet and will be declared"
    return f"queue {state.queue.name}: {state.messages} messages ready"
