"""How long a target asks to wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker import asks_to_wait, named_wait

LONGEST_WAIT: Final = 3600.0
"""Most seconds a Retry-After may ask for."""

SHORTEST_WAIT: Final = 1.0
"""Least seconds, whatever the target asks for: waits cost no attempt, so a job would come back without end."""

LONGEST_FLOOR: Final = 60.0
"""Seconds up to which the least wait grows for a target that asks for none at all, again and again."""

UNNAMED_WAIT: Final = 10.0
"""Least seconds to wait when the target asks to wait and does not say how long."""


def asked_wait(status: int, headers: Mapping[str, str], *, now: float, chance: float, snoozes: int = 0) -> float | None:
    """Seconds to wait after a 429, or a 503 with Retry-After; None for any other answer.

    `now` is epoch seconds, `chance` from [0, 1), `snoozes` how often the job has waited by now. What the target names
    is kept, from 1 s to an hour. Where it names nothing that can be read it is 10 to 20 s, as `chance` says, so that
    the jobs of one host do not come back at once; where it names 0, less, or a date in the past 1 to 2 s, doubled with
    each snooze up to a minute or two.
    """
    if not asks_to_wait(status, headers):
        return None
    named = named_wait(headers, now=now)
    if named is None:
        return UNNAMED_WAIT * (1 + chance)
    if named <= 0:
        return min(SHORTEST_WAIT * 2.0 ** min(snoozes, 10), LONGEST_FLOOR) * (1 + chance)
    return min(max(named, SHORTEST_WAIT), LONGEST_WAIT)
