"""`{{ JMESPath }}` in the values of an `http` job: read once, filled from the results of steps in one pass.

What is filled in is never read again. How a placeholder is written is told in placeholder.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from worker.http.templates.budget import Budget, TemplateFault
from worker.http.templates.expression import Expression, parse_expression, parse_path
from worker.http.templates.placeholder import Allowance, Part, Results, split_text, text_of
from worker.http.templates.url_template import UrlTemplate, parse_url_template

__all__ = [
    "Allowance",
    "Budget",
    "Expression",
    "Template",
    "TemplateFault",
    "UrlTemplate",
    "parse_expression",
    "parse_path",
    "parse_template",
    "parse_url_template",
]

MAX_LEVELS: Final = 100
"""How deep lists and objects may be nested; the body of a job never is deeper."""

_MEMBERS_PER_VISIT: Final = 16
"""Of a list or object that is copied to be filled."""

_Fill = Callable[[Results, Budget], Any]


@dataclass(frozen=True, slots=True)
class Template:
    """A JSON value with placeholders in its strings.

    `names` are the steps they read, and `item`; `pairs` the fields they read of those.
    """

    names: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    expression: Expression | None
    """The one placeholder that is all there is; None for everything else."""

    _value: Any = field(repr=False)
    _fill: _Fill | None = field(repr=False)

    @property
    def is_plain(self) -> bool:
        """Whether it holds no placeholder at all."""
        return self._fill is None

    def fill(self, results: Results, budget: Budget) -> Any:
        """The value with its placeholders filled in; a TemplateFault when one cannot be, or costs too much.

        It shares what has no placeholder with the template, and what is taken whole with the results: do not change it.
        """
        return self._value if self._fill is None else self._fill(results, budget)


def parse_template(value: Any, allowance: Allowance | None = None) -> Template:
    """The template that `value` is; a TemplateFault names what is wrong and its place, never a value.

    `allowance` is what all templates of a job may hold together; None: one of its own.
    """
    reading = _Reading(allowance or Allowance())
    fill = reading.value(value, None, level=0)
    return Template(frozenset(reading.names), frozenset(reading.pairs), reading.whole, value, fill)


class _Place(NamedTuple):
    """Where a value stands: linked, for most places are never told."""

    above: _Place | None
    key: str | int


class _Reading:
    """Makes one function of a value; None where nothing is to be filled, so that it is not even copied."""

    def __init__(self, allowance: Allowance) -> None:
        self.names: set[str] = set()
        self.pairs: set[tuple[str, str]] = set()
        self.whole: Expression | None = None
        self._allowance = allowance

    def value(self, value: Any, place: _Place | None, level: int) -> _Fill | None:
        if isinstance(value, str):
            return self._text(value, place) if "{{" in value else None
        if not isinstance(value, list | dict):
            return None
        if level == MAX_LEVELS:
            raise TemplateFault(f"at most {MAX_LEVELS} levels are possible")
        if isinstance(value, list):
            return self._container(value, enumerate(value), place, level)
        for name in value:
            if "{{" in name:
                raise TemplateFault(f"a name cannot hold a placeholder ({_path(_Place(place, name))})")
        return self._container(value, value.items(), place, level)

    def _container(
        self, value: Any, items: Iterable[tuple[Any, Any]], place: _Place | None, level: int
    ) -> _Fill | None:
        fills = []
        for key, item in items:
            if isinstance(item, str) and "{{" not in item:
                continue
            if isinstance(item, (str, list, dict)) and (fill := self.value(item, _Place(place, key), level + 1)):
                fills.append((key, fill))
        return _filled_container(value, fills) if fills else None

    def _text(self, text: str, place: _Place | None) -> _Fill:
        try:
            parts = split_text(text, self._allowance)
        except TemplateFault as fault:
            raise _at(place, fault) from None
        for part in parts:
            if isinstance(part, Expression):
                self.names |= part.names
                self.pairs |= part.pairs
        if len(parts) == 1 and isinstance(parts[0], Expression):
            if place is None:
                self.whole = parts[0]
            return _placed(_filled_whole(parts[0]), place)
        return _placed(_filled_text(parts), place)


def _filled_whole(expression: Expression) -> _Fill:
    def fill(results: Results, budget: Budget) -> Any:
        value = expression.value(results, budget)
        budget.produce(budget.weigh(value))
        return value

    return fill


def _filled_text(parts: list[Part]) -> _Fill:
    def fill(results: Results, budget: Budget) -> str:
        return "".join(part if isinstance(part, str) else text_of(part, results, budget) for part in parts)

    return fill


def _filled_container(value: Any, fills: list[tuple[Any, _Fill]]) -> _Fill:
    def fill(results: Results, budget: Budget) -> Any:
        budget.visit(len(value) // _MEMBERS_PER_VISIT + 1)
        copy = value.copy()
        for key, one in fills:
            copy[key] = one(results, budget)
        return copy

    return fill


def _placed(fill: _Fill, place: _Place | None) -> _Fill:
    def run(results: Results, budget: Budget) -> Any:
        try:
            return fill(results, budget)
        except TemplateFault as fault:
            raise _at(place, fault) from None

    return run if place is not None else fill


def _at(place: _Place | None, fault: TemplateFault) -> TemplateFault:
    return fault if place is None else TemplateFault(f"{fault} (in {_path(place)})")


def _path(place: _Place | None) -> str:
    keys: list[str | int] = []
    while place is not None:
        keys.append(place.key)
        place = place.above
    return "".join(_step(key) for key in reversed(keys))[:200]


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() and len(key) <= 60 else f"[{json.dumps(key[:60])}]"
