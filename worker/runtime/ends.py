"""Which of several ends counts, and how an exception is named."""

from __future__ import annotations

from collections.abc import Iterable

from worker.core.outcome import Failed, JobSignal, Outcome, Reject, Rejected, Retry, Snooze, Snoozed
from worker.runtime.places import places_of


def outcome_of(error: BaseException) -> Outcome:
    """The end that `error` names. Only what a handler says on purpose is repeated as text; other errors by type."""
    try:
        return _named(error)
    except Exception:  # noqa: BLE001 - a subclass of Retry, Snooze or Reject that forgot to call its parent
        return Failed(error_name(error))


def _named(error: BaseException) -> Outcome:
    match error:
        case Reject():
            return Rejected(error.code, error.detail)
        case Snooze():
            return Snoozed(error.delay, error.reason)
        case Retry():
            return Failed(str(error) or "Retry", error.after, error.spent)
        case _:
            return Failed(error_name(error))


def error_name(error: BaseException) -> str:
    """The type of an error, with its module when it is not built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def heaviest(errors: Iterable[BaseException]) -> BaseException:
    """The gravest of several errors: Reject before any failure before Snooze.

    The first among equals; of several Snoozes the longest, for nothing is gained by coming back before.
    """
    return min(errors, key=_rank)


def trouble_of(error: BaseException) -> dict[str, str]:
    """For the log: what went wrong and where, when it was not said on purpose."""
    return {} if isinstance(error, JobSignal) else {"error": error_name(error), "at": places_of(error)}


def _rank(error: BaseException) -> tuple[int, float]:
    match error:
        case Reject():
            return 0, 0.0
        case Snooze(delay=delay):
            return 2, -delay
        case _:
            return 1, 0.0
