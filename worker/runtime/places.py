"""Where in the code something is or was: frames as text, without values, so that nothing private is repeated."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from itertools import dropwhile
from types import FrameType
from typing import Final

_FIRST: Final = 2
_LAST: Final = 6
_OURS: Final = ("worker.runtime.", "worker.testing.")


class Elsewhere(Exception):
    """The cause of an error that came from another process or thread: its text is the traceback there.

    `places` are those it passed through there, as `places_of` tells them.
    """

    def __init__(self, text: str, places: str) -> None:
        super().__init__(text)
        self.places = places

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def shown(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Frames with their lines, outermost first, as `file:line function > ...`.

    From the first one that is not ours on, and of a long way its beginning and its end: whose code it is, and where.
    """
    way = list(frames)
    told = [_told(*place) for place in dropwhile(lambda place: _is_ours(place[0]), way)]
    told = told or [_told(*place) for place in way]
    if len(told) > _FIRST + _LAST:
        told[_FIRST:-_LAST] = ["..."]
    return " > ".join(told)


def places_of(error: BaseException) -> str:
    """The places an error passed through; for one that came from elsewhere also those there."""
    here = shown(traceback.walk_tb(error.__traceback__))
    there = error.__cause__.places if isinstance(error.__cause__, Elsewhere) else ""
    return " > ".join(part for part in (here, there) if part)


def _told(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_OURS)
