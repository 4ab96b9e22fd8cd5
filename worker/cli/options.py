"""Settings as flags: every command takes the ones it needs, variables and worker.toml count as well."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from worker.ops.settings import SETTINGS, Loaded, Setting, load_settings
from worker.ops.settings.sources import FILE_NAME, FILE_SUFFIX

Command = Callable[..., int]

EVERY: Final = tuple(one.name for one in SETTINGS)
BROKER: Final = ("amqp_url", "amqp_ca", "amqp_cert", "amqp_key", "connect_timeout", "queue", "queue_type")
"""Where the queue is and how to get there."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says of settings: text by spelling, None where nothing was said."""

    flags: Mapping[str, str | None]
    config: str | None = None

    def load(self) -> Loaded:
        """The settings in force. Raises SettingsError."""
        return load_settings(self.flags, os.environ, self.config, Path.cwd())


def takes(names: Collection[str]) -> Callable[[Command], Command]:
    """Give a command the settings `names` as options, and --config; it gets them as its first argument, a Given."""
    settings = [one for one in SETTINGS if one.name in names]

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def wrapper(**values: str | None) -> int:
            config = values.pop("config")
            flags = {spelling: values.pop(spelling) for one in settings for spelling in one.spellings}
            return command(Given(flags, config), **values)

        parameters = [_keyword(one) for one in own] + [_config(), *_options(settings)]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {}  # those of `command` are in the signature, and it has more
        return wrapper

    return decorate


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _config() -> inspect.Parameter:
    return _option("config", "--config", "FILE", f"Settings file; without it {FILE_NAME} is read if it is there.")


def _options(settings: Collection[Setting]) -> Iterator[inspect.Parameter]:
    for one in settings:
        yield _option(one.name, one.flag, "VALUE", f"{one.doc} Default: {one.default}. [{one.variable}]")
        if one.is_secret:
            doc = f"File that holds the value of {one.flag}. [{one.variable}{FILE_SUFFIX.upper()}]"
            yield _option(one.name + FILE_SUFFIX, one.flag + "-file", "FILE", doc)


def _option(name: str, flag: str, metavar: str, help: str) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, flag, help=help, metavar=metavar, show_default=False),
        annotation=str | None,
    )
