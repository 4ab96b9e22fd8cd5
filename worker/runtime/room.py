"""Where jobs and steps wait for a moment for their keys: few deliveries do so at a time."""

from __future__ import annotations

from bisect import insort

from worker.runtime.admission import Waiter
from worker.runtime.limits.key import Key
from worker.runtime.limits.values import Asker


class Room:
    """Who waits for a key, over all of them. So many deliveries may at a time as there are `places`."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._keys: dict[Key[Waiter], None] = {}
        self._deliveries = 0

    @property
    def waiting(self) -> int:
        return sum(len(key.waiting) for key in self._keys)

    @property
    def has_place(self) -> bool:
        """Whether one delivery more may wait."""
        return self._deliveries < self._places

    def leaving_for(self, key: Key[Waiter], asker: Asker) -> Waiter | None:
        """Who has to go if the room is full: for an older one of the same key, or for a key with fewer who wait."""
        if not self._deliveries:
            return None
        waiting = {one: [waiter for waiter in one.waiting if waiter.admission.is_job] for one in self._keys}
        fullest = max(waiting, key=lambda one: (len(waiting[one]), one is key))
        youngest = waiting[fullest][-1]
        if fullest is key:
            return youngest if asker.first_seen < youngest.order[0] else None
        return youngest if len(waiting[fullest]) > len(waiting.get(key, ())) + 1 else None

    def enter(self, waiter: Waiter) -> None:
        """It waits for its key, behind those that were seen before."""
        insort(waiter.key.waiting, waiter)
        self._keys[waiter.key] = None
        self._deliveries += waiter.admission.is_job

    def leave(self, waiter: Waiter) -> None:
        """It waits no more."""
        waiter.key.waiting.remove(waiter)
        self._deliveries -= waiter.admission.is_job
        if not waiter.key.waiting:
            del self._keys[waiter.key]
