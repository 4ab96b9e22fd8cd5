"""The places of one key: who holds them since when, and when the next one is to be expected."""

from __future__ import annotations

from worker.runtime.limits.adaptive import Adaptive
from worker.runtime.limits.service import Service


class Gate:
    """Places of one key, as many as its limit says or, where it is adaptive, as the target bears."""

    __slots__ = ("_holders", "_places", "_service", "adaptive")

    def __init__(self, places: int, *, adaptive: bool = False) -> None:
        self._places = places
        self._holders: dict[object, float] = {}  # since when, the longest first
        self._service = Service()
        self.adaptive = Adaptive(places) if adaptive else None

    @property
    def places(self) -> int:
        return self._places if self.adaptive is None else self.adaptive.places

    @property
    def held(self) -> int:
        return len(self._holders)

    @property
    def is_full(self) -> bool:
        return len(self._holders) >= self.places

    def enter(self, holder: object, now: float) -> None:
        """Give `holder` a place. Whether there is one has been asked before."""
        self._holders[holder] = now

    def leave(self, holder: object, now: float) -> None:
        """Take the place back."""
        self._service.took(now - self._holders.pop(holder))

    def free_in(self, now: float, ahead: int) -> float:
        """Seconds until a place is to be expected after `ahead` others; 0 as long as nothing is known.

        Judged by how long places were held, and by how long they are held now: where that is longer already, they are
        expected to be held for as long again.
        """
        if not self.is_full:
            return 0.0 if not ahead else self._pace(0.0) * ahead
        held = now - next(iter(self._holders.values()))
        mean = self._service.mean
        if mean is None and held < 1.0:  # nobody has shown how long it takes
            return 0.0
        next_free = max((mean or 0.0) - held, 0.0) if held <= 2 * (mean or 0.0) else held
        return next_free + self._pace(held) * ahead

    def _pace(self, held: float) -> float:
        """Seconds from one place that becomes free to the next."""
        mean = self._service.mean
        return (held if mean is None else mean) / self.places
