"""JMESPath as templates may use it: read by the jmespath library, evaluated here, where every visit is counted.

What can grow is refused when it is read: multiselect (`@|[@,@][]|[@,@][]|...` doubles a list at each step), functions
other than `length`, expression references. What is left gives no more elements than there were.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser

from worker import read_json
from worker.http.templates.budget import Budget, TemplateFault
from worker.http.templates.nodes import BUILDERS, Code

MAX_EXPRESSION: Final = 256
"""Characters."""

MAX_LEVELS: Final = 40
"""How deep an expression may be nested."""

_QUOTED: Final = re.compile(r"""'(?:\\.|[^'\\])*+'|(["`])((?:\\.|(?!\1)[^\\])*+)\1""", re.DOTALL)
_REFUSED: Final = {
    "multi_select_list": "a multiselect list ([a, b])",
    "multi_select_dict": "a multiselect hash ({a: b})",
    "expref": "an expression reference (&)",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """One JMESPath. `names` are the fields it reads at the root: ids of steps and `item`, or fields of a result.

    `pairs` are those it reads with the field of theirs that it goes on with: what `a.json.id` reads is ("a", "json").
    """

    text: str
    names: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    _code: Code = field(repr=False)
    _needs_names: bool = field(repr=False)

    def value(self, results: Mapping[str, Any], budget: Budget | None = None) -> Any:
        """What it picks out of `results`: the very values, not copies, and null (None) where there is nothing.

        A TemplateFault when a step it names has no result, when `length` gets what has none, or beyond `budget`
        (None: one of its own).
        """
        if self._needs_names and (missing := sorted(self.names - results.keys())):
            raise TemplateFault(f"there is no result of {missing[0][:100]!r}, which {shown(self.text)} needs")
        budget = budget or Budget()
        budget.visit(self._code.cost)
        return self._code.run(results if isinstance(results, dict) else dict(results), budget)


def parse_expression(text: str) -> Expression:
    """A JMESPath into the results of steps. One that reads all of them at once ("@", "*", "[0]") is refused.

    A TemplateFault says what is wrong.
    """
    reading = _read(text)
    if reading.reads_root:
        raise TemplateFault("an expression must start at a step's name or at item, not read all results at once")
    return reading.expression(text, needs_names=True)


def parse_path(text: str) -> Expression:
    """A JMESPath into one result, as `save` takes it: "@" is the whole, and a field that is not there is null."""
    reading = _read(text)
    return reading.expression(text, needs_names=False)


def shown(text: str) -> str:
    """An expression as faults show it: short, and without its literals, for they may be what nobody is to read."""
    names = _QUOTED.sub(lambda found: found[0] if found[1] == '"' else "...", text)
    return f"{names!r}" if len(names) <= 60 else f"{names[:57] + '...'!r}"


def _read(text: str) -> _Reading:
    if len(text) > MAX_EXPRESSION:
        raise TemplateFault(f"an expression may have {MAX_EXPRESSION} characters, this one has {len(text)}")
    _check_quoted(text)
    try:
        parsed = Parser().parse(text).parsed
    except JMESPathError as error:
        raise TemplateFault(_syntax_fault(text, error)) from None
    except RecursionError:
        raise TemplateFault(f"an expression may be nested {MAX_LEVELS} levels deep") from None
    finally:
        # Its cache would keep the trees of 512 expressions of strangers.
        Parser.purge()
    return _Reading(parsed)


def _check_quoted(text: str) -> None:
    """Literals and quoted names as strict as the rest of a job; the library would guess, and warn, where it cannot."""
    for found in _QUOTED.finditer(text):
        if found[1] is None:
            continue
        json = f'"{found[2]}"' if found[1] == '"' else found[2].replace("\\`", "`")
        try:
            read_json(json.encode())
        except ValueError:
            what = "a quoted name" if found[1] == '"' else "a literal"
            raise TemplateFault(f"{what} at character {found.start()} of the expression is not JSON") from None


def _syntax_fault(text: str, error: JMESPathError) -> str:
    if not text.strip():
        return "an expression is empty"
    position = getattr(error, "lex_position", None)
    place = "" if position is None else f" at character {position}"
    return f"an expression is not JMESPath: it is broken off or has a character out of place{place}"


class _Reading:
    """One walk over the library's tree: refuses, collects the names, and makes functions of the nodes."""

    def __init__(self, tree: Any) -> None:
        self.names: set[str] = set()
        self.pairs: set[tuple[str, str]] = set()
        self.reads_root = False
        self.code = self._node(tree, root=True, level=1)

    def expression(self, text: str, *, needs_names: bool) -> Expression:
        return Expression(text, frozenset(self.names), frozenset(self.pairs), self.code, needs_names)

    def _node(self, node: Any, *, root: bool, level: int) -> Code:
        """`root`: what the node looks at is all the results, and not a part of them."""
        if level > MAX_LEVELS:
            raise TemplateFault(f"an expression may be nested {MAX_LEVELS} levels deep")
        kind = node["type"]
        self._judge(node)
        if root:
            self._note(node)
        starts = kind in _STARTING_AT_FIRST
        parts = [
            self._node(child, root=root and (place == 0 or not starts), level=level + 1)
            for place, child in enumerate(node["children"] if kind != "slice" else ())
        ]
        return BUILDERS[kind](node, parts)

    def _judge(self, node: Any) -> None:
        kind = node["type"]
        if kind == "function_expression" and (node["value"] != "length" or len(node["children"]) != 1):
            raise TemplateFault(
                "length() takes one argument"
                if node["value"] == "length"
                else f"the function {node['value'][:60]}() is not available in expressions, only length() is"
            )
        if kind not in BUILDERS:
            raise TemplateFault(f"{_REFUSED.get(kind, kind)} is not available in expressions")
        if kind == "slice" and node["children"][2] == 0:
            raise TemplateFault("the step of a slice cannot be 0")

    def _note(self, node: Any) -> None:
        match node["type"]:
            case "field":
                self.names.add(node["value"])
            case "subexpression" if all(part["type"] == "field" for part in node["children"][:2]):
                name, following = node["children"][:2]
                self.pairs.add((name["value"], following["value"]))
            case "current" | "identity":
                self.reads_root = True


_STARTING_AT_FIRST: Final = frozenset(
    {"subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection", "flatten"}
)
"""Nodes whose first part looks at what they look at themselves, and the others at what came of it."""
