"""How long a job waits that was asked to: not shorter than the key that is held back by the same word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from worker.core.outcome import Snoozed
from worker.runtime.admission import Admission
from worker.runtime.attempt import Ended
from worker.runtime.clock import Clock
from worker.runtime.limits.line import JITTER, LAST, held_delay
from worker.runtime.limits.values import RETRY_AFTER

MOST_SPREAD: Final = 60.0
"""Seconds by which a wait is made longer at most, so that a longest wait stays about as long as it says."""


def as_asked(ended: Ended, admission: Admission, clock: Clock, chance: Callable[[], float]) -> Ended:
    """The end, with a wait that outlasts the holds of the keys that were called, and does not end at once for all.

    `chance` gives numbers from [0, 1).
    """
    outcome = ended.outcome
    if not isinstance(outcome, Snoozed) or outcome.reason != RETRY_AFTER:
        return ended
    now, left, part = clock.monotonic(), admission.asker.latest - clock.now(), chance()
    delay = max(outcome.delay, min(outcome.delay + min(JITTER * outcome.delay, MOST_SPREAD) * part, left - LAST))
    rest = max((key.hold.rest(now) for key in admission.called if key.hold is not None), default=0.0)
    if rest:
        delay = max(delay, held_delay(rest, since=0.0, age=0.0, chance=part, left=left))
    return replace(ended, outcome=replace(outcome, delay=delay))
