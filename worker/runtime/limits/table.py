"""The keys that are known, as many as one may remember: those that nobody uses are forgotten, longest known first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from worker.runtime.limits.key import Key
from worker.runtime.limits.values import Limit, Name, Places

W = TypeVar("W")

MOST: Final = 10_000

OTHER_KEYS: Final = "default"
"""How the metrics call every key without a limit of its own: publishers choose keys, and would fill the labels."""


class Table(Generic[W]):
    """Keys by name. `forgotten` is told of each that leaves."""

    def __init__(self, places: Places, forgotten: Callable[[Key[W]], None], *, most: int = MOST) -> None:
        self._places = places
        self._forgotten = forgotten
        self._most = most
        self._keys: dict[Name, Key[W]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key[W]]:
        return iter(self._keys.values())

    def find(self, name: str) -> Key[W] | None:
        """The key of that name, if it is known."""
        return self._keys.get(Name(False, name))

    def key(self, name: str) -> Key[W]:
        """The key of that name."""
        found = self._keys.get(wanted := Name(False, name))
        if found is None:
            label = name if name in self._places.keys else OTHER_KEYS
            found = self._add(Key(wanted, self._places.limit_of(name), label))
        return found

    def own(self, name: str, places: int | None) -> Key[W]:
        """A type's own limit of that name."""
        found = self._keys.get(wanted := Name(True, name))
        return found or self._add(Key(wanted, Limit(places), name))

    def _add(self, key: Key[W]) -> Key[W]:
        if len(self._keys) >= self._most:
            self._forget()
        self._keys[key.name] = key
        return key

    def _forget(self) -> None:
        """Room for a tenth: so it is seldom looked for. First those that nothing is known of."""
        room = max(1, self._most // 10)
        for spared in (True, False):
            for key in [key for key in self._keys.values() if not key.users and (key.is_idle or not spared)]:
                if len(self._keys) <= self._most - room:
                    return
                del self._keys[key.name]
                self._forgotten(key)
