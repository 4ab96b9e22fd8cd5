"""A text that must not be shown."""

from __future__ import annotations

from dataclasses import dataclass

MASK = "***"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """Shows itself as `***` wherever it is printed, logged or put into an error; `reveal()` is the only way in."""

    _text: str

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return MASK
