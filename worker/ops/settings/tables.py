"""The tables that only worker.toml has: [types."..."], [limits."..."] and [credentials....]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from worker.core.units import format_rate, parse_rate
from worker.ops.settings import kinds
from worker.ops.settings.catalogue import SETTINGS, Credential, LimitSettings, Setting, TypeOverride
from worker.ops.settings.credential_table import CREDENTIAL, cell, check_name, credential_of
from worker.ops.settings.kinds import Kind
from worker.ops.settings.sources import Level, Problem, Source, nearest

T = TypeVar("T")

_BY_NAME: Final = {one.name: one for one in SETTINGS}


_TYPE: Final = (
    cell("attempts", _BY_NAME["attempts"].kind),
    cell("backoff", _BY_NAME["backoff"].kind),
    cell("timeout", _BY_NAME["job_timeout"].kind),
    cell("concurrency", _BY_NAME["concurrency"].kind),
)
_LIMIT: Final = (
    cell("concurrency", kinds.whole(1, 1_000_000)),
    cell("rate", kinds.many(Kind(parse_rate, format_rate), empty=False)),
    cell("adaptive", kinds.yes_or_no()),
    cell("breaker", kinds.yes_or_no()),
)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables say, and what is wrong with them."""

    types: Mapping[str, TypeOverride]
    limits: Mapping[str, LimitSettings]
    credentials: Mapping[str, Credential]
    problems: tuple[Problem, ...]


TABLES: Final = ("types", "limits", "credentials")


def read_tables(file: Level) -> Tables:
    problems: list[Problem] = []
    return Tables(
        types=_table(file, "types", _TYPE, lambda cells, _: TypeOverride(**cells), problems),
        limits=_table(file, "limits", _LIMIT, _limit, problems),
        credentials=_table(file, "credentials", CREDENTIAL, credential_of, problems, check_name),
        problems=tuple(problems),
    )


def _table(
    file: Level,
    table: str,
    columns: tuple[Setting, ...],
    make: Callable[[dict[str, Any], dict[str, Path]], T],
    problems: list[Problem],
    judge: Callable[[str], None] = lambda _: None,
) -> dict[str, T]:
    rows = file.values.get(table, {})
    if not isinstance(rows, dict):
        problems.append(Problem((file.source(table),), f'not a table; write [{table}."name"]'))
        return {}
    found: dict[str, T] = {}
    for name, row in rows.items():
        level = _row_level(file, table, name, row)
        wrong: list[Problem] = []
        cells, files = _cells(level, columns, wrong)
        try:
            judge(name)
            found[name] = make(cells, files)
        except ValueError as incomplete:
            # a cell that was refused is missing, too, but that is no second problem
            wrong = wrong or [Problem((level.source(""),), str(incomplete))]
        problems += wrong
    return found


def _row_level(file: Level, table: str, name: str, row: Any) -> Level:
    shown = name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else f'"{name}"'
    path = f"{table}.{shown}"
    origin = file.source("").path
    values = row if isinstance(row, dict) else {"": row}

    def source(key: str) -> Source:
        return Source("file", f"{path}.{key}" if key else path, origin)

    return Level(values, source, file.directory)


def _cells(
    level: Level, columns: tuple[Setting, ...], problems: list[Problem]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Values, and the files that secrets were read from, by the cell's name."""
    cells: dict[str, Any] = {}
    files: dict[str, Path] = {}
    known = [spelling for column in columns for spelling in column.spellings]
    for key in level.values:
        if not key:
            problems.append(Problem((level.source(""),), f"not a table; it takes {', '.join(known)}"))
        elif key not in known:
            text = f"there is no such key{nearest(key, known) or '; it takes ' + ', '.join(known)}"
            problems.append(Problem((level.source(key),), text))
    for column in columns:
        for found in level.find(column):
            if isinstance(found, Problem):
                problems.append(found)
                continue
            if found.file is not None:
                files[column.name] = found.file
            try:
                cells[column.name] = column.understand(found)
            except ValueError as error:
                problems.append(Problem((found.source,), str(error)))
    return cells, files


def _limit(cells: dict[str, Any], _: dict[str, Path]) -> LimitSettings:
    if not cells:
        raise ValueError("says nothing; give concurrency, rate or both, or breaker")
    if cells.get("adaptive") and "concurrency" not in cells:
        raise ValueError("adaptive needs a concurrency: the most there may be at once")
    return LimitSettings(**cells)
