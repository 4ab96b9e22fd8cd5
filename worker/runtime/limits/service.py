"""How long a place is held, learnt from those that were given back."""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.1


class Service:
    """A running mean of seconds; None until there is one."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean: float | None = None

    def took(self, seconds: float) -> None:
        self.mean = seconds if self.mean is None else self.mean + WEIGHT * (seconds - self.mean)
