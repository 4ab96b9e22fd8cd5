"""Keys that an operator has paused: nobody may use them until he says so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from worker.runtime.limits.key import Key, Refusal, Trouble
from worker.runtime.pausing import PAUSED

REST: Final = 5.0
"""Seconds a job of such a key is parked for at least. The longer it lasts the longer: nobody knows until when."""


class PausedKeys:
    """Keys by name, and since when. Kept apart from all else that is known of a key, which may be forgotten."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def set(self, names: Collection[str], now: float) -> list[str]:
        """Exactly these are paused. Those that were not before."""
        new = [name for name in names if name not in self._since]
        self._since = {name: self._since.get(name, now) for name in names}
        return new

    def refusal(self, key: Key[Any]) -> Refusal | None:
        """What keeps everybody from this key; a type's own limit is none, whatever it is called."""
        return Refusal(PAUSED, REST) if not key.name.own and key.name.key in self._since else None

    def paused_for(self, key: Key[Any], now: float) -> float:
        return now - self._since.get(key.name.key, now)

    def troubles(self) -> Iterator[Trouble]:
        """They last until somebody says otherwise: 0 s are left of them."""
        return (Trouble(name, PAUSED, 0.0) for name in self._since)
