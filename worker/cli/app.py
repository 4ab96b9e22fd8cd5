"""The commands together, and how a fault of the user's becomes a line and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from worker.cli import check, config, dead, dev, health, parked, pause, publish, schema, status, topology
from worker.cli import run as run_command
from worker.cli.terminal import error, note
from worker.ops.settings import SettingsError

USAGE: Final = 2

_EXAMPLES: Final = {
    "run": "worker run shop.jobs:registry --concurrency 200",
    "publish": """worker publish http '{"url": "https://api.example.com/ping"}' --wait""",
    "check": "worker check --amqp-url amqps://worker@rabbit.example.com/jobs",
    "status": "worker status --json",
    "health": "worker health --admin 127.0.0.1:8080",
    "pause": "worker pause api.example.com",
    "resume": "worker resume api.example.com",
    "config": "worker config --json",
    "schema": "worker schema order.sync --app shop.jobs:registry",
    "dev": "worker dev shop.jobs:registry",
    "dead list": "worker dead list --reason http_status --older 1h",
    "dead show": "worker dead show order-17",
    "dead replay": "worker dead replay --reason http_status --older 1h --rate 20/s",
    "dead drop": "worker dead drop --type report --older 30d --yes",
    "dead export": "worker dead export --reason rejected letters.jsonl",
    "parked flush": "worker parked flush --rung 1h --rate 100/s",
    "topology show": "worker topology show --queue orders",
    "topology apply": "worker topology apply --amqp-url amqps://admin@rabbit.example.com/jobs",
    "topology export": "worker topology export definitions.json --user worker",
}


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    try:
        result = _app()(list(arguments) or ["--help"], prog_name="worker", standalone_mode=False)
    except TyperException as fault:
        error(_worded(fault))
        _hint(fault)
        return fault.exit_code
    except SettingsError as fault:
        for problem in fault.problems:
            error(problem)
        return fault.exit_code
    except typer.Abort:
        return 1
    if not arguments:
        return USAGE
    return result if isinstance(result, int) else 0


def _app() -> typer.Typer:
    app = _group("Take jobs off RabbitMQ, run their network-heavy steps within limits, acknowledge what is done.")
    app.callback(epilog="Every setting is a flag, a WORKER_* variable and a key in worker.toml: worker config")(_root)
    for name, command in (
        ("run", run_command.run),
        ("publish", publish.publish),
        ("check", check.check),
        ("status", status.status),
        ("health", _health),
        ("pause", pause.pause),
        ("resume", pause.resume),
        ("config", config.config),
        ("schema", schema.schema),
        ("dev", dev.dev),
    ):
        app.command(name, epilog=_example(name))(command)
    letters = _group("Look at the dead queue, send its jobs back, take them out.")
    for name, command in (
        ("list", dead.list_letters),
        ("show", dead.show),
        ("replay", dead.replay),
        ("drop", dead.drop),
        ("export", dead.export),
    ):
        letters.command(name, epilog=_example(f"dead {name}"))(command)
    app.add_typer(letters, name="dead")
    waits = _group("The jobs that wait for a retry, a limit or a time.")
    waits.callback()(_nothing)
    waits.command("flush", epilog=_example("parked flush"))(parked.flush)
    app.add_typer(waits, name="parked")
    queues = _group("The queues ahead of time, for brokers where the worker may not declare.")
    for name, command in (("show", topology.show), ("apply", topology.apply), ("export", topology.export)):
        queues.command(name, epilog=_example(f"topology {name}"))(command)
    app.add_typer(queues, name="topology")
    return app


def _group(help: str) -> typer.Typer:
    # Without markup, or each --help would import rich; tracebacks are Python's own.
    return typer.Typer(help=help, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


def _nothing() -> None:
    """The jobs that wait for a retry, a limit or a time."""  # without this, a group of one command is that command


def _example(name: str) -> str:
    return f"Example: {_EXAMPLES[name]}"


def _version(on: bool) -> None:
    if on:
        from importlib.metadata import version

        print(f"worker {version('worker')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """The options before the command."""


def _health(
    admin: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The admin listener. [WORKER_ADMIN]")] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Settings file.")] = None,
) -> int:
    """Ask whether the worker is ready, for probes.

    Asks its admin listener; exit 0 when it is ready, else 1.
    """
    given = (("--admin", admin), ("--config", config))
    return health.ask([word for flag, value in given if value is not None for word in (flag, value)])


def _worded(fault: TyperException) -> str:
    text = " ".join(fault.format_message().split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _hint(fault: TyperException) -> None:
    context = getattr(fault, "ctx", None)
    if context is not None:
        note(f"see {context.command_path} --help")
