"""The command line itself: quick, helpful, and plain about mistakes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import Cli
from worker.ops.settings import SETTINGS

HEAVY = ("rich", "pydantic", "aio_pika", "aiormq", "aiohttp", "httpx", "structlog", "asyncio", "tenacity", "uvloop")

COMMANDS = (
    "run",
    "publish",
    "check",
    "status",
    "health",
    "pause",
    "resume",
    "config",
    "schema",
    "dev",
    "dead list",
    "dead show",
    "dead replay",
    "dead drop",
    "dead export",
    "parked flush",
    "topology show",
    "topology apply",
    "topology export",
)


def cpu_seconds(cli: Cli, *arguments: str) -> float:
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "worker", *arguments],
        cli.environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime


def modules_after(cli: Cli, *arguments: str) -> set[str]:
    script = f"import sys\nfrom worker.cli import main\nmain({list(arguments)!r})\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment(), capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


def test_help_is_quick(cli: Cli) -> None:
    assert min(cpu_seconds(cli, "--help") for _ in range(3)) < 0.3


def test_help_imports_nothing_heavy(cli: Cli) -> None:
    modules = modules_after(cli, "--help")
    assert "typer" in modules
    assert modules.isdisjoint(HEAVY)


def test_health_does_not_even_import_the_command_line(cli: Cli) -> None:
    modules = modules_after(cli, "health", "--admin", "off")
    assert "worker.ops.probe" in modules
    assert modules.isdisjoint({*HEAVY, "typer", "worker.ops.settings"})


def test_help_names_every_command(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == 0
    listed = ended.out.partition("Commands:")[2]
    for command in COMMANDS:
        assert f"  {command.split()[0]} " in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(cli: Cli, command: str) -> None:
    ended = cli(*command.split(), "--help")
    assert ended.code == 0
    assert f"Usage: worker {command} " in ended.out
    assert f"Example: worker {command}" in ended.out
    assert "\x1b" not in ended.out


def test_run_takes_every_setting_as_a_flag_and_names_its_variable(cli: Cli) -> None:
    words = set(cli("run", "--help").out.replace("[", " ").replace("]", " ").split())
    for setting in SETTINGS:
        assert {setting.flag, setting.variable} <= words
    assert {"--amqp-url-file", "--admin-token-file", "--config"} <= words


def test_version(cli: Cli) -> None:
    ended = cli("--version")
    assert (ended.code, ended.out.split()[0]) == (0, "worker")


def test_without_a_command_there_is_help_and_a_usage_code(cli: Cli) -> None:
    ended = cli()
    assert ended.code == 2
    assert "Commands:" in ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--quue", "x"), "no such option: --quue (Possible options: --queue, --queue-type)"),
        (("rnu",), "no such command 'rnu'. Did you mean 'run'?"),
        (("publish",), "missing argument 'TYPE'"),
        (("publish", "t", "--count", "0"), "invalid value for '--count': Input should be greater than or equal to 1"),
        (("dead",), "missing command"),
        (("run", "--concurrency", "many"), "flag --concurrency: 'many' is not a whole number from 1 to 50000"),
        (("config", "--config", "nowhere.toml"), "flag --config: "),
        (("health", "--nonsense"), "option --nonsense not recognized"),
    ],
)
def test_a_wrong_command_line_is_one_plain_line(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert len(ended.errors) == 1
    assert ended.errors[0].startswith(said)
    assert "Traceback" not in ended.err


def test_everything_that_is_wrong_is_told_at_once(cli: Cli) -> None:
    ended = cli("config", "--attempts", "0", WORKER_FOO="1", WORKER_BACKOFF="soon")
    assert ended.code == 2
    assert {line.partition(":")[0] for line in ended.errors} == {
        "variable WORKER_FOO",
        "variable WORKER_BACKOFF",
        "flag --attempts",
    }


def test_an_unknown_variable_is_a_fault_of_the_configuration(cli: Cli) -> None:
    ended = cli("run", WORKER_CONCURENCY="5")
    assert ended.code == 78
    assert ended.errors == ["variable WORKER_CONCURENCY: there is no such setting; did you mean WORKER_CONCURRENCY?"]
