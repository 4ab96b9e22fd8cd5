"""`worker dev`: everything on a laptop."""

from __future__ import annotations

from worker.cli.run import Apps


def dev(apps: Apps = None) -> int:
    """Run everything on a laptop.

    A private RabbitMQ node, the worker, and a local target to call, until Ctrl-C.
    """
    from worker.dev.laptop import run_laptop

    return run_laptop(apps or [])
