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
    burst: Annotated[
        bool, typer.Option("--burst", help="End with 0 when nothing is queued, waiting or running; see above.")
    ] = False,
) -> int:
    """Run the service.

    Takes jobs off the queue until SIGTERM or Ctrl-C, then drains. Exit codes: 0 drained, 1 failure, 2 usage, 69 broker
    unreachable at start, 78 settings, credentials, vhost or queues refused.

    With --burst it drains by itself once the work queue and the wait ladder are empty and none of its own processes has
    anything under way: for cron and one-off jobs. Retries and delays are waited for, also those of days; jobs that end
    in the dead queue do not change the exit code; what other services on the queue hold is not counted.
    """
    loaded = given.load()
    for text in loaded.own_warnings:
        warn(text)
    from worker.cli.parent import run_service

    return run_service(loaded, apps or [], builtin=not no_builtin, burst=burst)
