"""One message of the AMQP corpus, and the short ways to write one down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.hostile.pieces import table
from tests.hostile.shots import DONE


@dataclass(frozen=True)
class Case:
    """What differs from a plain good job: properties (None takes one away), header entries, or all of it as `raw`.

    `ends` may name several, in words, where the broker's version or the moment decides. `body` None is the good job.
    """

    ends: str = DONE
    values: Mapping[str, bytes | int | None] | None = None
    headers: bytes | None = None
    raw: bytes | None = None
    body: bytes | None = None
    more: str = ""
    copied: bool = False
    trusted: bool = False
    part: int = 0
    announced: int | None = None


def put(name: str, value: bytes | int | None, ends: str = DONE, **about: Any) -> Case:
    return Case(ends, {name: value}, **about)


def head(entries: Mapping[bytes, bytes], ends: str = DONE, **about: Any) -> Case:
    return Case(ends, headers=table(entries), **about)


def broken(**about: Any) -> Case:
    return Case("malformed", **about)
