"""The placeholders of a string, and what they become as text.

A placeholder ends at the first "}}" that is not inside one of the expression's own quotes ('...', "...", `...`), so
`{{ '}}' }}` is two braces, and `{{ '{{' }}` writes what would else begin a placeholder. A "}}" outside of a
placeholder is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from worker.http.templates.budget import Budget, TemplateFault
from worker.http.templates.expression import Expression, parse_expression, shown

MAX_PLACEHOLDERS: Final = 1000
MAX_CHARACTERS: Final = 8192
"""In different expressions: reading one costs up to 3 microseconds for each."""

_WINDOW: Final = 512
"""Characters in which a placeholder must end, the spaces around its expression counted."""

_PLACEHOLDER: Final = re.compile(
    r"""\{\{((?:'(?:\\.|[^'\\])*+'|"(?:\\.|[^"\\])*+"|`(?:\\.|[^`\\])*+`|(?!\}\})[^'"`])*+)\}\}""", re.DOTALL
)

_WRITTEN_PER_VISIT: Final = 8
"""Bytes of JSON made into text: a double takes several times what it takes to look at it."""

Results = Mapping[str, Any]
Part = str | Expression


class Allowance:
    """What the templates of one job may hold in all, so that reading a job takes milliseconds whatever it says."""

    def __init__(self) -> None:
        self._placeholders = MAX_PLACEHOLDERS
        self._characters = MAX_CHARACTERS
        self._known: dict[str, Expression] = {}

    def expression(self, text: str) -> Expression:
        """The expression `text` says; a TemplateFault when it says none, or when there were too many before it."""
        if not self._placeholders:
            raise TemplateFault(f"at most {MAX_PLACEHOLDERS} placeholders are possible")
        self._placeholders -= 1
        if (known := self._known.get(text)) is None:
            if len(text) > self._characters:
                raise TemplateFault(f"different expressions may have {MAX_CHARACTERS} characters in all")
            self._characters -= len(text)
            known = self._known[text] = parse_expression(text)
        return known


def split_text(text: str, allowance: Allowance) -> list[Part]:
    """Literal text (never empty) and expressions, in turn as they stand there."""
    parts: list[Part] = []
    end = 0
    while (start := text.find("{{", end)) >= 0:
        found = _PLACEHOLDER.match(text, start, start + _WINDOW)
        if found is None:
            raise TemplateFault(_unclosed(text, start))
        if start > end:
            parts.append(text[end:start])
        try:
            parts.append(allowance.expression(found[1].strip()))
        except TemplateFault as fault:
            raise TemplateFault(f"{fault} (placeholder at character {start})") from None
        end = found.end()
    if end < len(text):
        parts.append(text[end:])
    return parts


def literal_of(text: str) -> str:
    """A string that has been read, without its placeholders."""
    return _PLACEHOLDER.sub("", text)


def text_of(expression: Expression, results: Results, budget: Budget, *, scalar: bool = False) -> str:
    """What an expression gives, as text: strings as they are, everything else compact JSON.

    A TemplateFault when it gives null, or, with `scalar`, a list or an object.
    """
    value = expression.value(results, budget)
    if value is None:
        raise TemplateFault(f"{shown(expression.text)} is null, which cannot be put into text")
    if scalar and isinstance(value, list | dict):
        raise TemplateFault(f"{shown(expression.text)} is a list or an object, which cannot be put into a URL")
    size = budget.weigh(value)
    budget.produce(size)
    if isinstance(value, str):
        return value
    budget.visit(size // _WRITTEN_PER_VISIT)
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise TemplateFault(f"{shown(expression.text)} is no JSON value") from None
    # Its quotes are escaped once more when it becomes a string: known only now.
    budget.produce(max(0, budget.weigh(text) - size))
    return text


def _unclosed(text: str, start: int) -> str:
    if "}}" in text[start : start + _WINDOW]:
        return f"a quote in the placeholder at character {start} is not closed"
    return f'"{{{{" at character {start} is not closed by "}}}}" within {_WINDOW} characters'
