"""Values that must not get out, and a search that finds them in whatever form they do.

Canary    one value, the place it was put into, and whose it is
Canaries  all of one run; knows which were really in play
Sink      something that somebody may read, and whose values it holds by contract
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_MARK: Final = re.compile(r"cnry[0-9]{3}x", re.IGNORECASE)
_MARK_LENGTH: Final = len("cnry000x")


class Whose(Enum):
    """Who put a value there, and so where it may be read."""

    OPERATOR = "a secret of the configuration: to be read nowhere"
    PUBLISHER = "what a publisher wrote: in the message itself and its copies, nowhere else"
    TARGET = "what a target answered: in the results of steps, nowhere else"
    HANDLER = "what a handler's code holds: nowhere, for nobody asked to show it"


@dataclass(frozen=True)
class Canary:
    """A value found nowhere else; the first eight characters are enough to know it, should the rest be cut off."""

    place: str
    value: str
    whose: Whose

    @property
    def mark(self) -> str:
        return self.value[:_MARK_LENGTH] if _MARK.match(self.value) else self.value


@dataclass(frozen=True)
class Sink:
    """A text somebody may read; `may_hold` are those whose values are there by contract."""

    name: str
    text: str
    may_hold: frozenset[Whose] = frozenset()


@dataclass(frozen=True)
class Leak:
    """A value where it must not be."""

    place: str
    sink: str
    around: str

    def __str__(self) -> str:
        return f"{self.place} is in {self.sink}: {self.around}"


@dataclass
class Canaries:
    """Makes one value for each place. `in_play` holds the places that were proven to be used."""

    made: dict[str, Canary] = field(default_factory=dict)
    in_play: set[str] = field(default_factory=set)

    def new(self, place: str, whose: Whose) -> str:
        assert place not in self.made, f"there is a canary at {place!r} already"
        value = f"cnry{len(self.made):03}x{secrets.token_hex(6)}"
        self.made[place] = Canary(place, value, whose)
        return value

    def operator(self, place: str) -> str:
        return self.new(place, Whose.OPERATOR)

    def publisher(self, place: str) -> str:
        return self.new(place, Whose.PUBLISHER)

    def target(self, place: str) -> str:
        return self.new(place, Whose.TARGET)

    def handler(self, place: str) -> str:
        return self.new(place, Whose.HANDLER)

    def given(self, place: str, value: str) -> None:
        """A secret of the operator's that could not be chosen."""
        self.made[place] = Canary(place, value, Whose.OPERATOR)

    def saw(self, *evidence: str | bytes) -> None:
        """Whatever is in this evidence (what a target read or sent, what a publisher sent) was in play."""
        for text in evidence:
            self.in_play.update(canary.place for canary, _ in self._found(_text(text)))

    def idle(self) -> set[str]:
        """Places whose value never did anything, so that nothing is proven by its absence."""
        return set(self.made) - self.in_play

    def leaks(self, sinks: Iterable[Sink]) -> list[Leak]:
        """Every value in a sink that must not hold it, once each."""
        return [
            Leak(canary.place, sink.name, around)
            for sink in sinks
            for canary, around in self._found(sink.text)
            if canary.whose not in sink.may_hold
        ]

    def _found(self, text: str) -> Iterator[tuple[Canary, str]]:
        has_any = any(form.search(text) for form in _ANY)  # most sinks hold none, and there are thousands
        for canary in self.made.values():
            for form in _forms(canary.mark) if has_any or canary.mark == canary.value else ():
                if found := form.search(text):
                    yield canary, " ".join(text[max(0, found.start() - 120) : found.end() + 60].split())
                    break


def _forms(mark: str) -> list[re.Pattern[str]]:
    """A value as it is, in hexadecimal, percent-encoded throughout, and in Base64 wherever it begins in there."""
    plain = mark.encode()
    return [
        re.compile(re.escape(mark), re.IGNORECASE),
        re.compile(plain.hex(), re.IGNORECASE),
        re.compile("".join(f"%{byte:02x}" for byte in plain), re.IGNORECASE),
        *(re.compile(re.escape(_inner_base64(plain, offset))) for offset in range(3)),
    ]


def _inner_base64(plain: bytes, offset: int) -> str:
    """What Base64 makes of `plain` whatever stands before and behind it; the alphabets differ in none of it."""
    first, last = (0, 2, 3)[offset], (offset + len(plain)) * 8 // 6  # the sixth bits that are all its own
    return base64.b64encode(b"\0" * offset + plain).decode()[first:last]


_ANY: Final = _forms("cnry")


def _text(evidence: str | bytes) -> str:
    return evidence if isinstance(evidence, str) else evidence.decode("latin-1")


def marks_in(text: str) -> set[str]:
    """All that looks like a value of this kind, of whatever run."""
    return set(_MARK.findall(text))
