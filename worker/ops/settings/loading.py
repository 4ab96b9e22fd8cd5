"""From flags, variables and worker.toml to checked settings, with all that is wrong told at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.ops.settings.catalogue import SETTINGS, Setting, Settings
from worker.ops.settings.contradictions import Finding, contradictions, doubts
from worker.ops.settings.sources import (
    DEFAULT,
    FILE_NAME,
    Level,
    Problem,
    SettingsError,
    Source,
    file_level,
    flags_level,
    read_toml,
    unknown_names,
    unknown_variables,
    variables_level,
)
from worker.ops.settings.tables import TABLES, Tables, read_tables

_BY_NAME: Final = {one.name: one for one in SETTINGS}
_SPELLINGS: Final = frozenset(spelling for one in SETTINGS for spelling in one.spellings)


@dataclass(frozen=True, slots=True)
class Row:
    """A setting as `worker config` shows it. `value` is safe to show: a secret is masked."""

    setting: Setting
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, where each was written, and what works but is hardly meant.

    `own_warnings` are those of `warnings` that somebody's setting has part in; the rest come with the defaults.
    """

    settings: Settings
    sources: Mapping[str, Source]
    warnings: tuple[str, ...] = ()
    own_warnings: tuple[str, ...] = ()

    def rows(self) -> Iterator[Row]:
        for one in SETTINGS:
            yield Row(one, one.kind.show(getattr(self.settings, one.name)), str(self.sources.get(one.name, DEFAULT)))

    def where(self, name: str) -> str:
        """A setting with its value and source, as messages speak of it: `prefetch 50 (variable WORKER_PREFETCH)`."""
        shown = _BY_NAME[name].kind.show(getattr(self.settings, name))
        return f"{name} {shown} ({self.sources.get(name, DEFAULT)})"


def load_settings(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config_path: str | Path | None = None,
    cwd: str | Path = ".",
) -> Loaded:
    """Read, understand and check every setting; a SettingsError tells all that is wrong at once.

    `flags` by setting name (`amqp_url`), None for one that was not given. `config_path` is --config; without it
    worker.toml is read from `cwd` if it is there. Relative paths count from `cwd`, inside a file from its directory.
    """
    directory = Path(cwd)
    file = _file(config_path, directory)
    problems = [file] if isinstance(file, Problem) else []
    written = file_level(directory / FILE_NAME, {}) if isinstance(file, Problem) else file
    levels = (flags_level(flags, directory), variables_level(environ, directory), written)
    problems += unknown_names(levels[0], _SPELLINGS)
    problems += unknown_variables(environ, _SPELLINGS)
    problems += unknown_names(written, _SPELLINGS | set(TABLES))
    tables = read_tables(written)
    values, sources, files, wrong = _understand(levels, problems)
    problems += tables.problems
    loaded = Loaded(_settings(values, files, tables), sources)
    problems += _together(loaded, contradictions(loaded.settings, loaded.where), wrong)
    if problems:
        raise SettingsError(problems)
    found = list(doubts(loaded.settings, loaded.where))
    own = (one.text for one in found if not one.about or not sources.keys().isdisjoint(one.about))
    return Loaded(loaded.settings, sources, tuple(one.text for one in found), tuple(own))


def _file(config_path: str | Path | None, directory: Path) -> Level | Problem:
    path = directory / (config_path or FILE_NAME)
    content = read_toml(path, Source("flag", "--config") if config_path else None)
    return content if isinstance(content, Problem) else file_level(path, content)


def _settings(values: Mapping[str, Any], files: Mapping[str, Path], tables: Tables) -> Settings:
    return Settings(**values, types=tables.types, limits=tables.limits, credentials=tables.credentials, files=files)


def _understand(
    levels: Sequence[Level], problems: list[Problem]
) -> tuple[dict[str, Any], dict[str, Source], dict[str, Path], frozenset[str]]:
    """Values, sources and files by setting name, and the names of settings whose value was refused."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    files: dict[str, Path] = {}
    wrong: set[str] = set()
    for setting in SETTINGS:
        written = next((found for level in levels for found in level.find(setting)), None)
        if written is None:
            continue
        if isinstance(written, Problem):
            problems.append(written)
            wrong.add(setting.name)
            continue
        sources[setting.name] = written.source
        if written.file is not None:
            files[setting.name] = written.file
        try:
            values[setting.name] = setting.understand(written)
        except ValueError as error:
            problems.append(Problem((written.source,), str(error)))
            wrong.add(setting.name)
    return values, sources, files, frozenset(wrong)


def _together(loaded: Loaded, findings: Iterator[Finding], wrong: frozenset[str]) -> Iterator[Problem]:
    """Contradictions as problems; silent about settings that were refused and stand on their default here."""
    for finding in findings:
        if wrong.isdisjoint(finding.about):
            sources = tuple(loaded.sources.get(name, DEFAULT) for name in finding.about)
            yield Problem(sources, finding.text)
