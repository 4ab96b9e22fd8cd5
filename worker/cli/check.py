"""`worker check`: find what is wrong with a set-up before a message does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal

from worker.cli.config import Json
from worker.cli.options import BROKER, Given, takes
from worker.cli.terminal import print_json
from worker.ops.settings import Loaded, SettingsError

if TYPE_CHECKING:
    from worker.amqp.connecting import Connected
    from worker.amqp.inspection import QueueState
    from worker.core.topology import Topology
    from worker.ops.settings import Settings

UNREACHABLE: Final = 69
REFUSED: Final = 78

OLDEST: Final = (3, 10)
"""The first RabbitMQ whose quorum queues have a message TTL, which the wait ladder is made of."""

_CHECKED: Final = (*BROKER, "topology", "job_timeout", "consumer_timeout", "drain_timeout", "http_allow", "replicas")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how it is, what was looked at, and what to do about it."""

    level: Literal["ok", "warn", "fail"]
    what: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"  ({self.fix})" if self.fix else ""
        return f"{self.level:<4}  {self.what}{fix}"


@takes(_CHECKED)
def check(given: Given, as_json: Json = False) -> int:
    """Look for what is wrong with settings, broker, rights and queues.

    Each line is ok, warn or fail, and says what to do. Nothing is changed. Exit 0 when nothing fails.
    """
    try:
        loaded = given.load()
    except SettingsError as fault:
        _show([Finding("fail", str(problem)) for problem in fault.problems], as_json=as_json)
        return fault.exit_code
    findings = [*_of_settings(loaded)]
    code = _ask_the_broker(loaded.settings, findings)
    _show(findings, as_json=as_json)
    return code or int(any(one.level == "fail" for one in findings))


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        print(*findings, sep=os.linesep)


def _of_settings(loaded: Loaded) -> Iterator[Finding]:
    yield Finding("ok", f"settings: {len(loaded.sources)} set, the rest by default", "worker config shows them")
    settings = loaded.settings
    yield Finding("ok", f"{loaded.where('job_timeout')} is below {loaded.where('consumer_timeout')}")
    if settings.queue_type == "classic":
        text = f"{loaded.where('queue_type')}: a lost broker node can lose jobs"
        yield Finding("warn", text, "use quorum where the broker has it")
    for text in loaded.warnings:
        yield Finding("warn", text)


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
    from worker.amqp.inspection import inspect_queues
    from worker.cli.reaching import reach
    from worker.cli.wiring import access_of, topology_of

    topology = topology_of(settings)
    connected = await reach(access_of(settings, "worker check"), "check", settings.connect_timeout)
    try:
        findings += _of_broker(connected, settings)
        queues = (topology.work, topology.suspect, topology.dead, *topology.waits)
        findings += _of_queues(await inspect_queues(connected, queues, settings.topology), topology, settings)
    finally:
        await connected.close()


def _of_broker(connected: Connected, settings: Settings) -> Iterator[Finding]:
    version = connected.server_version
    yield Finding("ok", f"broker {connected.node.shown}, RabbitMQ {version or 'of an unknown version'}")
    vhost = next(url.vhost for url in settings.amqp_url if url.user == connected.node.user)
    yield Finding("ok", f"user {connected.node.user!r} may use the vhost {vhost!r}")
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
    if version and numbers < OLDEST and settings.queue_type == "quorum":
        text = f"RabbitMQ {version}: its quorum queues have no message TTL"
        yield Finding("fail", text, "RabbitMQ 3.10 or later is needed, or WORKER_QUEUE_TYPE=classic")


def _of_queues(states: tuple[QueueState, ...], topology: Topology, settings: Settings) -> Iterator[Finding]:
    later = settings.topology == "declare"
    waits = [state for state in states if topology.wait_called(state.queue.name) is not None]
    for state in states:
        if state.conflict:
            what, _, fix = state.conflict.rpartition("; ")
            yield Finding("fail", what, fix)
        elif state.messages is None and not later:
            yield Finding("fail", f"queue {state.queue.name} does not exist", "declare it, or WORKER_TOPOLOGY=declare")
        elif state not in waits:
            yield Finding("ok", _of_queue(state))
    if later:
        there = sum(state.messages is not None for state in waits)
        yield Finding("ok", f"wait queues: {there} of {len(waits)} are there, the others are declared when first used")
    dead = next(state for state in states if state.queue.name == topology.dead_name)
    if dead.messages:
        yield Finding("warn", f"{dead.messages} dead letters in {dead.queue.name}", "worker dead list")


def _of_queue(state: QueueState) -> str:
    if state.messages is None:
        return f"queue {state.queue.name} does not exist yet and will be declared"
    return f"queue {state.queue.name}: {state.messages} messages ready"
