"""`worker config`: the settings in force, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from worker.cli.options import EVERY, Given, takes
from worker.cli.terminal import print_json, print_table, warn
from worker.core.units import Rate, format_duration, format_range, format_rate
from worker.ops.settings import Secret, Settings
from worker.ops.settings.sources import FILE_NAME

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Row = tuple[str, ...]
COLUMNS: Final = ("name", "value", "source")


@takes(EVERY)
def config(given: Given, as_json: Json = False) -> int:
    """Show every setting, its value and its source.

    The tables of worker.toml, too: types, limits and credentials. Secrets are masked.
    """
    loaded = given.load()
    rows: list[Row] = [(row.setting.name, row.value, row.source) for row in loaded.rows()]
    rows += _of_tables(loaded.settings, Path.cwd() / (given.config or FILE_NAME))
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table(("setting", *COLUMNS[1:]), rows)
    for text in loaded.warnings:
        warn(text)
    return 0


def _of_tables(settings: Settings, file: Path) -> Iterator[Row]:
    """What only worker.toml can say, named as it is written there."""
    tables: dict[str, Mapping[str, Any]] = {
        "types": settings.types,
        "limits": settings.limits,
        "credentials": settings.credentials,
    }
    for table, entries in tables.items():
        for name, entry in entries.items():
            where = f"{table}.{_key(name)}"
            for cell in fields(entry):
                if cell.name != "files" and (value := getattr(entry, cell.name)) is not None:
                    yield f"{where}.{cell.name}", _shown(value), f"file {file} table {where}"


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'


def _shown(value: Any) -> str:
    match value:
        case Secret():
            return str(value)
        case float():
            return format_duration(value)
        case bool():
            return str(value).lower()
        case (Rate(), *_):
            return ",".join(map(format_rate, value))
        case (float() as low, float() as high):
            return format_range((low, high))
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)
