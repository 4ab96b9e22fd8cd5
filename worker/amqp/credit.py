"""How many deliveries a lane may still ask for. Pure: the session does the asking.

The broker counts for each consumer on its own: one that begins anew may hold its whole prefetch, whatever those before
it still hold. So that a process which is paused and resumed again and again holds no more than one that is not, a new
consumer is given what is free, and more consumers join it as the old deliveries are settled.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 4
"""A further consumer is worth a quarter of the prefetch, so there are few; what is left once all is settled, too."""


class Credit:
    """The deliveries of one channel. Their tags only grow."""

    __slots__ = ("_before", "_boundary", "_granted", "_held", "_last", "_prefetch")

    def __init__(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._granted = 0
        self._held = 0
        self._last = 0
        self._boundary = 0
        self._before = 0
        """Held for consumers that are no more: the deliveries up to `_boundary`."""

    @property
    def more(self) -> int:
        """What a further consumer may hold, 0 for none."""
        spare = self._prefetch - self._granted - self._before
        return spare if spare >= max(1, self._prefetch // SHARE) or not self._before else 0

    def grant(self, count: int) -> None:
        """One more consumer may hold so many."""
        self._granted += count

    def delivered(self, tag: int) -> None:
        self._held += 1
        self._last = tag

    def settled(self, tag: int) -> bool:
        """Whether a further consumer may be had now that could not before."""
        self._held -= 1
        if tag > self._boundary:
            return False
        self._before -= 1
        return self._granted < self._prefetch and self.more > 0

    def cancelled(self) -> None:
        """All consumers are gone; what they have delivered is still held."""
        self._granted = 0
        self._boundary, self._before = self._last, self._held
