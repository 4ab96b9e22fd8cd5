"""URLs with placeholders, in path segments and query values only: where a request goes is never a result's choice.

But for a URL that is one placeholder: it is taken whole, and judged like any URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote, unquote

from worker.http.templates.budget import Budget, TemplateFault
from worker.http.templates.expression import Expression, shown
from worker.http.templates.placeholder import Allowance, Part, Results, split_text, text_of
from worker.http.url import LONGEST_URL, Url, parse_url

_ORIGIN: Final = re.compile(r"https?://[^/?#\\]+[/?]", re.IGNORECASE)
_CUTS: Final = re.compile(r"([/?&=#])")
_PIECES: Final = re.compile(r"[/\\;]")
_TOO_LONG: Final = f"the URL would be above {LONGEST_URL} characters"

_Where = Literal["path", "name", "value", "fragment"]
_NEXT: Final[dict[tuple[_Where, str], _Where]] = {
    ("path", "/"): "path",
    ("path", "?"): "name",
    ("name", "="): "value",
    ("value", "&"): "name",
    **dict.fromkeys([("path", "#"), ("name", "#"), ("value", "#")], "fragment"),
}
"""Where one is in a URL after a character that cuts it."""


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A URL with placeholders. `names` are the steps they read, and `item`; `pairs` the fields they read of those.

    `sample` is a URL with the origin that the filled one will have, whatever is filled in. None when the URL is one
    placeholder: then all of it is only known when it is filled. `length` is what it has at least, in characters.
    """

    names: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    sample: Url | None
    length: int
    _pieces: tuple[_Piece, ...] = field(repr=False)

    @property
    def whole(self) -> bool:
        """Whether the URL is one placeholder: taken as it comes, to be judged like any URL."""
        return self.sample is None

    @property
    def is_plain(self) -> bool:
        """Whether there is no placeholder at all."""
        return not any(piece.expressions for piece in self._pieces)

    def fill(self, results: Results, budget: Budget) -> str:
        """The URL; a TemplateFault when it cannot be filled. What stands outside of placeholders stays as it is."""
        if self.sample is None:
            return _taken_whole(self._pieces[0].expressions[0], results, budget)
        room = LONGEST_URL
        texts: list[str] = []
        for piece in self._pieces:
            texts.append(piece.fill(results, budget, room))
            room -= len(texts[-1])
        return "".join(texts)


def parse_url_template(text: str, allowance: Allowance | None = None) -> UrlTemplate:
    """The template of a URL; a TemplateFault names what is wrong with it.

    Wrong is a placeholder where none may stand, or what `parse_url` refuses. `allowance` is what all templates of a job
    may hold together; None: one of its own.
    """
    parts = split_text(text, allowance or Allowance())
    expressions = [part for part in parts if isinstance(part, Expression)]
    names = frozenset[str]().union(*(one.names for one in expressions))
    pairs = frozenset[tuple[str, str]]().union(*(one.pairs for one in expressions))
    if expressions and len(parts) == 1:
        return UrlTemplate(names, pairs, None, 0, (_Piece(tuple(parts)),))
    if expressions and not (isinstance(parts[0], str) and _ORIGIN.match(parts[0])):
        raise TemplateFault("scheme, host and port of a URL cannot hold placeholders, only path and query values can")
    sample_text = "".join(part if isinstance(part, str) else "x" for part in parts)
    try:
        sample = parse_url(sample_text)
    except ValueError as error:
        raise TemplateFault(f"the URL {error}") from None
    length = len(sample.text) - len(expressions)
    if max(length, len(sample_text) - len(expressions)) > LONGEST_URL:
        raise TemplateFault(f"the URL is above {LONGEST_URL} characters")
    return UrlTemplate(names, pairs, sample, length, tuple(_Cutting(parts).pieces))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A path segment, or a stretch of anything else."""

    parts: tuple[Part, ...]
    is_segment: bool = False

    @property
    def expressions(self) -> list[Expression]:
        return [part for part in self.parts if isinstance(part, Expression)]

    def fill(self, results: Results, budget: Budget, room: int) -> str:
        text = ""
        for part in self.parts:
            text += part if isinstance(part, str) else _encoded(part, results, budget)
            if len(text) > room:
                raise TemplateFault(_TOO_LONG)
        if self.is_segment and self.expressions:
            _check_segment(text, self.expressions[0])
        return text


class _Cutting:
    """Cuts a URL into pieces as a server would, and refuses placeholders where they could change its meaning."""

    def __init__(self, parts: list[Part]) -> None:
        self.pieces: list[_Piece] = []
        self._segment: list[Part] = []
        self._where: _Where = "path"
        for part in parts:
            if isinstance(part, Expression):
                self._expression(part)
            else:
                for token in filter(None, _CUTS.split(part)):
                    self._literal(token)
        self._end_segment()

    def _expression(self, expression: Expression) -> None:
        if self._where in ("name", "fragment"):
            what = "the name of a query parameter" if self._where == "name" else "the fragment"
            raise TemplateFault(f"{what} cannot hold placeholders, only path and query values of a URL can")
        self._add(expression)

    def _literal(self, token: str) -> None:
        follows = _NEXT.get((self._where, token))
        if follows is None:
            self._add(token)
            return
        self._end_segment()
        self.pieces.append(_Piece((token,)))
        self._where = follows

    def _add(self, part: Part) -> None:
        if self._where == "path":
            self._segment.append(part)
        else:
            self.pieces.append(_Piece((part,)))

    def _end_segment(self) -> None:
        if self._segment:
            self.pieces.append(_Piece(tuple(self._segment), is_segment=True))
        self._segment = []


def _taken_whole(expression: Expression, results: Results, budget: Budget) -> str:
    value = expression.value(results, budget)
    if not isinstance(value, str):
        raise TemplateFault(f"{shown(expression.text)} must be text, it is the whole URL")
    if len(value) > LONGEST_URL:
        raise TemplateFault(_TOO_LONG)
    return value


def _encoded(expression: Expression, results: Results, budget: Budget) -> str:
    text = text_of(expression, results, budget, scalar=True)
    # Before it is encoded, which takes far longer than anything else here.
    if len(text) > LONGEST_URL:
        raise TemplateFault(_TOO_LONG)
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise TemplateFault(f"{shown(expression.text)} holds half a character") from None


def _check_segment(text: str, expression: Expression) -> None:
    """Servers and proxies disagree on what "..%2F" and "..;" are; another resource must not be reached by either."""
    if not text:
        raise TemplateFault(f"{shown(expression.text)} is empty, and would leave a path segment out")
    if not {".", ".."}.isdisjoint(_PIECES.split(unquote(text))):
        raise TemplateFault(f'{shown(expression.text)} would make "." or ".." of a path segment')
