"""Reading one annotation of a function: the others may name what only a type checker imports."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_type_hints


def annotation_of(fn: Callable[..., Any], name: str) -> Any:
    """What `fn` says of the parameter `name`, or of what it returns ("return"); Any when it says nothing.

    A NameError when what it says cannot be found, for it was defined in a function or under TYPE_CHECKING.
    """
    innermost = inspect.unwrap(fn)
    annotations = getattr(innermost, "__annotations__", {})
    if name not in annotations:
        return Any
    one = SimpleNamespace(__annotations__={name: annotations[name]})
    return get_type_hints(one, globalns=getattr(innermost, "__globals__", {}), include_extras=True)[name]
