"""`worker schema`: what payloads look like, for publishers and their tools."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.options import Given, takes
from worker.cli.terminal import error, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ops.settings import Settings
    from worker.runtime.registry import Registration

USAGE: Final = 2
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@takes(("amqp_url", "queue"))
def schema(
    given: Given,
    type: Annotated[str | None, typer.Argument(metavar="TYPE", help="Only this job type's, alone.")] = None,
    *,
    app: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="APP", help="Handlers, as module:registry; may be given several times."),
    ] = None,
    no_builtin: Annotated[bool, typer.Option("--no-builtin", help="Without the built-in job type http.")] = False,
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="An AsyncAPI 3.0 document instead: the queue, its messages, the replies.")
    ] = False,
) -> int:
    """Print the JSON Schema (draft 2020-12) of payloads, as JSON.

    Of one TYPE, or of all as an object from type to schema. What only code can check (an address that is not allowed, a
    validator of a model) is not in it; and a payload that is off by the spelling of a number ("7" for 7) may still be
    taken. With --asyncapi the broker's place, never its password, and the name of the queue come from the settings.
    """
    from pydantic.errors import PydanticUserError

    from worker.cli.wiring import CannotImport, registry_of

    settings = given.load().settings
    try:
        registry = registry_of(app or (), builtin=not no_builtin)
    except CannotImport as fault:
        error(fault)
        return USAGE
    except Exception as fault:  # noqa: BLE001 - whatever an APP does when it is imported
        error(f"an APP fails when it is imported: {fault.__class__.__name__}: {fault}")
        return USAGE
    if type is not None and type not in registry.types:
        error(_unknown(type, sorted(registry.types)))
        return USAGE
    chosen = [registry.find(name) for name in sorted(registry.types) if type in (None, name)]
    try:
        print_json(_asyncapi(settings, chosen) if asyncapi else _schemas(chosen, alone=type is not None))
    except PydanticUserError as fault:  # a model that says how its schema looks, and cannot
        error(f"no schema can be made: {fault}")
        return 1
    return 0


def _schemas(chosen: Sequence[Registration], *, alone: bool) -> dict[str, Any]:
    from worker.cli.json_schema import schema_of

    found = {one.type: {"$schema": DIALECT, **schema_of(one.payload)} for one in chosen}
    return found[chosen[0].type] if alone else found


def _asyncapi(settings: Settings, chosen: Sequence[Registration]) -> dict[str, Any]:
    from worker.cli.asyncapi import document

    return document(settings, {one.type: one.payload for one in chosen})


def _unknown(type: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(type, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}; --app adds handlers"
    return f"no handler for type {printable(type)[:60]!r}; {fix}"
