"""How the targets are: what was let in reports how it went, and a key that only fails is held back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.runtime.clock import Clock
from worker.runtime.limits.breaker import Change, State
from worker.runtime.limits.hold import Hold
from worker.runtime.limits.key import Key
from worker.runtime.telemetry import Telemetry


class Health:
    """Keeps breakers, holds and adaptive limits of keys. `chance` gives numbers from [0, 1) for jitter.

    `held_back` is told of a key that nobody may use for a while, `changed` of one that has more or fewer places.
    """

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry,
        chance: Callable[[], float],
        *,
        held_back: Callable[[Key[Any]], None],
        changed: Callable[[Key[Any]], None],
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._chance = chance
        self._held_back = held_back
        self._places_changed = changed

    def take_probe(self, key: Key[Any], now: float) -> bool:
        """Whether what starts now is the one call that shows whether the target is back."""
        if key.breaker is None or key.breaker.state is State.CLOSED:
            return False
        self._tell(key, key.breaker.take_probe(now))
        return True

    def lose_probe(self, key: Key[Any]) -> None:
        """The one call ended, and showed nothing."""
        if key.breaker is not None:
            key.breaker.lose_probe()

    def report(self, key: Key[Any], started: float, *, failed: bool, too_much: bool = False) -> None:
        """What ran under `key` since `started` failed by its fault, or did not; `too_much` if fewer might do better."""
        now, breaker = self._clock.monotonic(), key.breaker
        if breaker is not None:
            if failed:
                self._tell(key, breaker.failed(started, now, self._chance()))
            else:
                self._tell(key, breaker.succeeded(started, now))
        went_well = not failed and not too_much
        if key.gate is not None and key.gate.adaptive is not None and (went_well or too_much):
            self._adapt(key, started, now, went_well=went_well)
        if key.hold is not None and went_well:
            key.hold.went_well(started=started)

    def asked_to_wait(self, key: Key[Any], seconds: float | None, started: float) -> None:
        """The target wants to be left alone by everybody, for `seconds` or for a time it did not name."""
        key.hold = key.hold or Hold()
        key.hold.asked(seconds, started=started, now=self._clock.monotonic(), chance=self._chance())
        self._held_back(key)

    def forgotten(self, key: Key[Any]) -> None:
        """Nothing is known of it any more."""
        if key.breaker is not None and key.breaker.state is not State.CLOSED:
            self._telemetry.breaker_forgotten(key.name.key)

    def _adapt(self, key: Key[Any], started: float, now: float, *, went_well: bool) -> None:
        assert key.gate is not None
        assert key.gate.adaptive is not None
        before = key.gate.places
        if went_well:
            key.gate.adaptive.went_well()
        else:
            key.gate.adaptive.was_too_much(started=started, now=now)
        if key.gate.places != before:
            if key.label == key.name.key:  # one name for many keys has no one number
                self._telemetry.limit_changed(key.label, key.gate.places)
            self._places_changed(key)

    def _tell(self, key: Key[Any], change: Change | None) -> None:
        if change is None:
            return
        self._telemetry.breaker_changed(
            key.name.key, change.state.value, failures=change.failures, calls=change.calls, seconds=change.seconds
        )
        if change.state is State.OPEN:
            self._held_back(key)
