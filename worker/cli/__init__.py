"""The command line: one file per command, and the only place that wires everything.

app.py        the commands together            options.py   settings as flags
terminal.py   what people and programs read    reaching.py  the broker, for commands that end by themselves
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (by default the process's own) name; the exit code of PRODUCT.md section 3."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["health"] and "--help" not in given:
        # Probes run every few seconds: they must not pay for a command line.
        from worker.cli.health import ask

        return ask(given[1:])
    from worker.cli.app import run

    return run(given)
