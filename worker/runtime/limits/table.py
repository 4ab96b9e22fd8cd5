"""The keys that are known, as many as one may remember: those that nobody uses are forgotten, longest unused first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, Generic, TypeVar

from worker.runtime.limits.key import Key
from worker.runtime.limits.values import Limit, Name, Places

W = TypeVar("W")

MOST: Final = 10_000

LOOKED_AT: Final = 8
"""Keys that are looked at when one more is wanted and there is no room: it costs each as little."""

OTHER_KEYS: Final = "default"
"""How the metrics call every key without a limit of its own: publishers choose keys, and would fill the labels."""


class Table(Generic[W]):
    """Keys by name. `now` tells monotonic seconds; `forgotten` is told of each key that leaves.

    Whoever looks up several keys and then counts as their user, without a wait in between, has them all: the ones that
    were looked up last are the last to be forgotten.
    """

    def __init__(
        self, places: Places, now: Callable[[], float], forgotten: Callable[[Key[W]], None], *, most: int = MOST
    ) -> None:
        self._places = places
        self._now = now
        self._forgotten = forgotten
        self._most = most
        self._kept: dict[Name, Key[W]] = {}
        """Those that the operator or a registration names: there are few."""
        self._others: OrderedDict[Name, Key[W]] = OrderedDict()
        """All others, the longest unused first."""
        self._passed = 0
        """How many were looked at since one was found that nobody would miss."""

    def __len__(self) -> int:
        return len(self._kept) + len(self._others)

    def __iter__(self) -> Iterator[Key[W]]:
        return chain(self._kept.values(), self._others.values())

    def key(self, name: str) -> Key[W]:
        """The key of that name."""
        wanted = Name(False, name)
        if (found := self._others.get(wanted)) is not None:
            self._others.move_to_end(wanted)
            return found
        if (kept := self._kept.get(wanted)) is not None:
            return kept
        if name in self._places.keys:
            return self._keep(Key(wanted, self._places.limit_of(name), name))
        if len(self._others) >= self._most:
            self._forget(self._now())
        found = self._others[wanted] = Key(wanted, self._places.limit_of(name), OTHER_KEYS)
        return found

    def own(self, name: str, places: int | None) -> Key[W]:
        """A type's own limit of that name."""
        wanted = Name(True, name)
        return self._kept.get(wanted) or self._keep(Key(wanted, Limit(places), name))

    def _keep(self, key: Key[W]) -> Key[W]:
        self._kept[key.name] = key
        return key

    def _forget(self, now: float) -> None:
        """Room for one more, if one can be spared: where nobody finds an idle one, one that is in trouble."""
        for _ in range(min(LOOKED_AT, len(self._others))):
            name, key = next(iter(self._others.items()))
            is_idle = key.is_idle(now)
            if key.is_needed(now) or (not is_idle and self._passed < len(self._others)):
                self._others.move_to_end(name)
                self._passed += 1
                continue
            if is_idle:
                self._passed = 0
            del self._others[name]
            self._forgotten(key)
            if len(self._others) < self._most:
                return
