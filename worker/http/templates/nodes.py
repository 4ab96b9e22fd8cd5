"""What the nodes of a JMESPath do: functions that charge a budget before they look at many values.

The meaning is the library's, but for one thing: an order between text and a number is null, where it would raise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from worker.http.templates.budget import Budget, TemplateFault

_CHARACTERS_PER_VISIT: Final = 128
"""Of two texts that are compared."""

_ORDERS: Final = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}

# Tuples, since `list | dict` would be made anew at each of a hundred thousand looks.
_CONTAINERS: Final = (list, dict)
_WITH_LENGTH: Final = (str, list, dict)
_NUMBERS: Final = (int, float)

_LOOP: Final = 3
"""Visits that a loop costs in addition, even over nothing: what it takes to start one."""

Run = Callable[[Any, Budget], Any]


@dataclass(frozen=True, slots=True)
class Code:
    """What a node does, and the visits it costs; a loop's body is counted by the loop, when its length is known."""

    run: Run
    cost: int


def _field(node: Any, _parts: list[Code]) -> Code:
    name = node["value"]

    def run(value: Any, _budget: Budget) -> Any:
        return value.get(name) if isinstance(value, dict) else None

    return Code(run, 1)


def _current(_node: Any, _parts: list[Code]) -> Code:
    return Code(_itself, 1)


def _itself(value: Any, _budget: Budget) -> Any:
    return value


def _literal(node: Any, _parts: list[Code]) -> Code:
    literal = node["value"]
    return Code(lambda _value, _budget: literal, 1)


def _chain(_node: Any, parts: list[Code]) -> Code:
    runs = [part.run for part in parts]

    def run(value: Any, budget: Budget) -> Any:
        for one in runs:
            value = one(value, budget)
        return value

    return Code(run, _cost(*parts))


def _index(node: Any, _parts: list[Code]) -> Code:
    index = node["value"]

    def run(value: Any, _budget: Budget) -> Any:
        return value[index] if isinstance(value, list) and -len(value) <= index < len(value) else None

    return Code(run, 1)


def _slice(node: Any, _parts: list[Code]) -> Code:
    cut = slice(*node["children"])

    def run(value: Any, budget: Budget) -> Any:
        if not isinstance(value, list):
            return None
        budget.visit(len(range(*cut.indices(len(value)))))
        return value[cut]

    return Code(run, _LOOP)


def _flatten(_node: Any, parts: list[Code]) -> Code:
    (base,) = parts

    def run(value: Any, budget: Budget) -> Any:
        items = base.run(value, budget)
        if not isinstance(items, list):
            return None
        budget.visit(len(items))
        merged: list[Any] = []
        for item in items:
            if isinstance(item, list):
                budget.visit(len(item))
                merged += item
            else:
                merged.append(item)
        return merged

    return Code(run, _cost(base) + _LOOP)


def _projection(_node: Any, parts: list[Code]) -> Code:
    base, each = parts

    def run(value: Any, budget: Budget) -> Any:
        items = base.run(value, budget)
        return _projected(items, each, budget) if isinstance(items, list) else None

    return Code(run, _cost(base) + _LOOP)


def _value_projection(_node: Any, parts: list[Code]) -> Code:
    base, each = parts

    def run(value: Any, budget: Budget) -> Any:
        members = base.run(value, budget)
        return _projected(members.values(), each, budget) if isinstance(members, dict) else None

    return Code(run, _cost(base) + _LOOP)


def _projected(items: Any, each: Code, budget: Budget) -> list[Any]:
    budget.visit(len(items) * _cost(each))
    run = each.run
    if run is _itself:
        return [item for item in items if item is not None]
    return [found for item in items if (found := run(item, budget)) is not None]


def _filter(_node: Any, parts: list[Code]) -> Code:
    base, each, condition = parts
    holds = condition.run

    def run(value: Any, budget: Budget) -> Any:
        items = base.run(value, budget)
        if not isinstance(items, list):
            return None
        budget.visit(len(items) * _cost(condition))
        return _projected([item for item in items if not _is_false(holds(item, budget))], each, budget)

    return Code(run, _cost(base) + _LOOP)


def _comparator(node: Any, parts: list[Code]) -> Code:
    left, right = (part.run for part in parts)
    kind = node["value"]
    compare = _equal if kind == "eq" else _unequal if kind == "ne" else _order(_ORDERS[kind])
    return Code(lambda value, budget: compare(left(value, budget), right(value, budget), budget), _cost(*parts) + 1)


def _order(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Budget], bool | None]:
    def compare(left: Any, right: Any, budget: Budget) -> bool | None:
        if isinstance(left, str) and isinstance(right, str):
            budget.visit(min(len(left), len(right)) // _CHARACTERS_PER_VISIT)
            return holds(left, right)
        return holds(left, right) if type(left) in _NUMBERS and type(right) in _NUMBERS else None

    return compare


def _equal(left: Any, right: Any, budget: Budget) -> bool:
    # Python's 1 == True is no equality in JSON; inside of lists and objects the library leaves it at that.
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    if not isinstance(left, _CONTAINERS):
        return _same(left, right, budget)
    pairs: list[tuple[Any, Any]] = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if not isinstance(one, _CONTAINERS):
            if not _same(one, other, budget):
                return False
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            budget.visit(4 * len(one) + _LOOP)
            pairs += zip(one, other, strict=True)
        elif isinstance(one, dict) and isinstance(other, dict) and len(one) == len(other):
            budget.visit(6 * len(one) + _LOOP)
            budget.visit(sum(map(len, one)) // _CHARACTERS_PER_VISIT)
            if one.keys() != other.keys():
                return False
            pairs += [(one[name], other[name]) for name in one]
        else:
            return False
    return True


def _same(one: Any, other: Any, budget: Budget) -> bool:
    if isinstance(one, str) and isinstance(other, str) and len(one) == len(other) > _CHARACTERS_PER_VISIT:
        budget.visit(len(one) // _CHARACTERS_PER_VISIT)
    return bool(one == other)


def _unequal(left: Any, right: Any, budget: Budget) -> bool:
    return not _equal(left, right, budget)


def _is_false(value: Any) -> bool:
    # Not 0, which is as good as any number.
    return not value and (value is None or value is False or isinstance(value, _WITH_LENGTH))


def _or(_node: Any, parts: list[Code]) -> Code:
    left, right = (part.run for part in parts)

    def run(value: Any, budget: Budget) -> Any:
        found = left(value, budget)
        return right(value, budget) if _is_false(found) else found

    return Code(run, _cost(*parts))


def _and(_node: Any, parts: list[Code]) -> Code:
    left, right = (part.run for part in parts)

    def run(value: Any, budget: Budget) -> Any:
        found = left(value, budget)
        return found if _is_false(found) else right(value, budget)

    return Code(run, _cost(*parts))


def _not(_node: Any, parts: list[Code]) -> Code:
    (part,) = parts
    return Code(lambda value, budget: _is_false(part.run(value, budget)), _cost(part))


def _length(node: Any, parts: list[Code]) -> Code:
    (part,), (argument,) = parts, node["children"]
    if argument["type"] == "literal":
        _check_length(argument["value"])  # as it is now, it will always be

    def run(value: Any, budget: Budget) -> Any:
        found = part.run(value, budget)
        _check_length(found)
        return len(found)

    return Code(run, _cost(part))


def _check_length(value: Any) -> None:
    if not isinstance(value, _WITH_LENGTH):
        raise TemplateFault("length() needs text, a list or an object, and got something else")


def _cost(*parts: Code) -> int:
    return 1 + sum(part.cost for part in parts)


BUILDERS: Final[dict[str, Callable[[Any, list[Code]], Code]]] = {
    "field": _field,
    "current": _current,
    "identity": _current,
    "literal": _literal,
    "subexpression": _chain,
    "index_expression": _chain,
    "pipe": _chain,
    "index": _index,
    "slice": _slice,
    "flatten": _flatten,
    "projection": _projection,
    "value_projection": _value_projection,
    "filter_projection": _filter,
    "comparator": _comparator,
    "or_expression": _or,
    "and_expression": _and,
    "not_expression": _not,
    "function_expression": _length,
}
