"""`worker config`: the settings in force, and where each comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.options import EVERY, Given, takes
from worker.cli.terminal import print_json, print_table, warn

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@takes(EVERY)
def config(given: Given, as_json: Json = False) -> int:
    """Show every setting, its value and its source.

    Secrets are masked.
    """
    loaded = given.load()
    rows = list(loaded.rows())
    if as_json:
        print_json([{"name": row.setting.name, "value": row.value, "source": row.source} for row in rows])
    else:
        print_table(("setting", "value", "source"), [(row.setting.name, row.value, row.source) for row in rows])
    for text in loaded.warnings:
        warn(text)
    return 0
