"""Quick tries inside one attempt of a job: transient errors only, seconds at most. Longer waits are the ladder's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from worker.runtime.clock import Clock

T = TypeVar("T")

FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 2.0


@dataclass(frozen=True, slots=True)
class StepRetry:
    """Tries of a step within one attempt. `when="unsent"`: only errors after which nothing can have been executed."""

    attempts: int = 3
    when: Literal["any", "unsent"] = "any"

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"StepRetry(attempts={self.attempts}): 1 or more is needed")


async def with_quick_retries(
    attempt: Callable[[], Awaitable[T]],
    retry: StepRetry,
    *,
    repeatable: Callable[[BaseException], bool],
    clock: Clock,
) -> T:
    """The result of `attempt`, tried again while its error is `repeatable`; then the last error itself."""
    try:
        return await attempt()  # most calls end here: entering tenacity costs more than all other bookkeeping
    except Exception as error:
        if retry.attempts == 1 or not repeatable(error):
            raise
        failures = [error]

    async def first_failure_then_again() -> T:
        if failures:
            raise failures.pop()
        return await attempt()

    retrying = AsyncRetrying(
        sleep=clock.sleep,
        stop=stop_after_attempt(retry.attempts),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(repeatable),
        reraise=True,
    )
    return await retrying(first_failure_then_again)
