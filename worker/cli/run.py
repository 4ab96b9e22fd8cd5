"""`worker run`: the service."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.options import EVERY, Given, takes
from worker.cli.terminal import warn

Apps = Annotated[
    list[str] | None,
    typer.Argument(metavar="APP", help="Handlers, as module:registry; the current directory is on the path."),
]


@takes(EVERY)
def run(
    given: Given,
    apps: Apps = None,
    no_builtin: Annotated[bool, typer.Option("--no-builtin", help="Without the built-in job type http.")] = False,
) -> int:
    """Run the service.

    Takes jobs off the queue until SIGTERM or Ctrl-C, then drains. Exit codes: 0 drained, 1 failure, 2 usage, 69 broker
    unreachable at start, 78 settings, credentials, vhost or queues refused.
    """
    loaded = given.load()
    for text in loaded.own_warnings:
        warn(text)
    from worker.cli.parent import run_service

    return run_service(loaded, apps or [], builtin=not no_builtin)
