"""Where values come from: flags, variables, worker.toml. Text is collected with its origin, not yet understood."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

PREFIX: Final = "WORKER_"
FILE_NAME: Final = "worker.toml"
FILE_SUFFIX: Final = "_file"
LARGEST_SECRET: Final = 64 * 1024

# What Kubernetes puts into every pod for a Service called `worker`, and for one called `worker-something`. The last
# shape could be a mistyped setting, so there the value must be one of Kubernetes', too.
_SERVICE_NAMES: Final = re.compile(
    r"WORKER_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
    r"|WORKER(_[A-Z0-9]+)+_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was written."""

    kind: Literal["flag", "variable", "file", "default"]
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        match self.kind:
            case "default":
                return "default"
            case "file" if self.name:
                return f"file {self.path} key {self.name}"
            case "file":
                return f"file {self.path}"
            case _:
                return f"{self.kind} {self.name}"


DEFAULT: Final = Source("default")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in words that name what to change; never shows a secret's value."""

    sources: tuple[Source, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.sources[0]}: {self.text}" if len(self.sources) == 1 else self.text


class SettingsError(Exception):
    """Everything that is wrong with the settings, at once. `exit_code` is 2 if a flag has part in it, else 78."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
        flags = any(source.kind == "flag" for problem in problems for source in problem.sources)
        self.exit_code = 2 if flags else 78


class Named(Protocol):
    """As much of a setting as is needed to look for it."""

    @property
    def name(self) -> str: ...
    @property
    def is_secret(self) -> bool: ...
    @property
    def takes_lists(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Text as it was written, where, and against which directory a relative path in it counts.

    `file` is the file of its own that a secret was read from.
    """

    text: str = field(repr=False)
    source: Source
    directory: Path
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One place to write settings into. `values` by setting name; `source` tells how a name is spelt there."""

    values: Mapping[str, Any]
    source: Callable[[str], Source]
    directory: Path

    def find(self, setting: Named) -> Iterator[Written | Problem]:
        """Nothing, the text, or what is wrong with it. A secret may be in a file of its own instead."""
        value = self.values.get(setting.name)
        in_file = self.values.get(setting.name + FILE_SUFFIX) if setting.is_secret else None
        if value is not None and in_file is not None:
            both = (self.source(setting.name + FILE_SUFFIX),)
            yield Problem(both, f"{self.source(setting.name)} is set as well; remove one of the two")
        elif value is not None:
            yield self._plain(value, self.source(setting.name), lists=setting.takes_lists)
        elif in_file is not None:
            yield self._from_file(in_file, self.source(setting.name + FILE_SUFFIX))

    def _plain(self, value: Any, source: Source, *, lists: bool) -> Written | Problem:
        match value:
            case str():
                return Written(value.strip(), source, self.directory)
            case bool():
                return Written(str(value).lower(), source, self.directory)
            case int() | float():
                return Written(str(value), source, self.directory)
            case list() | tuple() if lists and all(isinstance(entry, str) for entry in value):
                return Written(",".join(value), source, self.directory)
            case _:
                wanted = "text, or an array of text" if lists else "text or a number"
                return Problem((source,), f"{type(value).__name__} is not taken here; write {wanted}")

    def _from_file(self, value: Any, source: Source) -> Written | Problem:
        found = self._plain(value, source, lists=False)
        if isinstance(found, Problem):
            return found
        return read_secret(self.directory / found.text, source)


def read_secret(path: Path, source: Source) -> Written | Problem:
    """The text of a secret's file; the line end that editors leave behind is not part of it."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_SECRET + 1)
        text = content.decode().strip()
    except OSError as error:
        return Problem((source,), f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        return Problem((source,), f"{path} is not UTF-8 text")
    if not text or len(content) > LARGEST_SECRET:
        return Problem((source,), f"{path} is {'too large for a secret' if text else 'empty'}")
    return Written(text, source, path.parent, path)


def flags_level(flags: Mapping[str, Any], directory: Path) -> Level:
    """`flags` by setting name; None is a flag that was not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    return Level(given, lambda name: Source("flag", "--" + name.replace("_", "-")), directory)


def variables_level(environ: Mapping[str, str], directory: Path) -> Level:
    ours = {
        variable.removeprefix(PREFIX).lower(): value
        for variable, value in environ.items()
        if variable.startswith(PREFIX) and variable == variable.upper()
    }
    return Level(ours, lambda name: Source("variable", PREFIX + name.upper()), directory)


def file_level(path: Path, content: Mapping[str, Any]) -> Level:
    return Level(content, lambda name: Source("file", name, str(path)), path.parent)


def read_toml(path: Path, asked_for: Source | None) -> Mapping[str, Any] | Problem:
    """The content of worker.toml; empty when there is none and nobody `asked_for` it."""
    import tomllib

    source = Source("file", path=str(path))
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {} if asked_for is None else Problem((asked_for,), f"{path} does not exist")
    except OSError as error:
        return Problem((asked_for or source,), f"{path} cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Problem((source,), f"not TOML: {error}")


def unknown_variables(environ: Mapping[str, str], known: Collection[str]) -> Iterator[Problem]:
    """WORKER_* variables that are no setting; what Kubernetes injects for a Service is left alone."""
    names = {PREFIX + name.upper() for name in known}
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and variable not in names and not _is_service(variable, value):
            yield Problem((Source("variable", variable),), f"there is no such setting{nearest(variable, names)}")


def unknown_names(level: Level, known: Collection[str]) -> Iterator[Problem]:
    """Flags or keys that are no setting."""
    for name in level.values:
        if name not in known:
            yield Problem((level.source(name),), f"there is no such setting{nearest(name, known)}")


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean ...?`, or nothing if no known name resembles it."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _is_service(variable: str, value: str) -> bool:
    if _SERVICE_NAMES.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _SERVICE_URL.fullmatch(value) is not None
