"""What the operator says of a key, who asks for a place, and the word for being turned away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from worker.core.units import Rate

BUSY_KEY: Final = "busy_key"
RATE: Final = "rate"
BREAKER: Final = "breaker"
RETRY_AFTER: Final = "retry_after"


class Busy(Exception):
    """Turned away: the key has no place in time. `delay` is in seconds, `reason` a word for metrics and logs."""

    def __init__(self, key: str, reason: str = BUSY_KEY, delay: float = 1.0) -> None:
        super().__init__(key)
        self.key = key
        self.reason = reason
        self.delay = delay


@dataclass(frozen=True, slots=True)
class Limit:
    """What one key may do: places at once, and starts in every window of each `rate`.

    `adaptive` lets the places shrink while the target is in trouble, `breaker` stops asking one that only fails.
    """

    concurrency: int | None = None
    rate: tuple[Rate, ...] = ()
    adaptive: bool = False
    breaker: bool = True


UNLIMITED: Final = Limit()


@dataclass(frozen=True, slots=True)
class Places:
    """How much may run at once in this process. A whole number stands for a Limit of so many places.

    `keys` bounds single keys, `default_key` every other one; `waiters` may wait for keys at once, over all of them.
    """

    concurrency: int = 100
    steps: int = 200
    waiters: int = 12
    keys: Mapping[str, int | Limit] = field(default_factory=dict)
    default_key: int | Limit | None = None

    def limit_of(self, key: str) -> Limit:
        """What `key` may do."""
        found = self.keys.get(key, self.default_key)
        if found is None:
            return UNLIMITED
        return found if isinstance(found, Limit) else Limit(found)


class Name(NamedTuple):
    """What a key is found by. A key never is a registration's own limit, whatever a publisher calls it."""

    own: bool
    key: str


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants a place. `first_seen` is epoch seconds: of those who want the same, the oldest goes first.

    So is `latest`, after which it wants none any more.
    """

    id: str = ""
    first_seen: float = 0.0
    type: str = ""
    latest: float = math.inf


NOBODY: Final = Asker()
