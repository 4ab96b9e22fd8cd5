"""The broker, for commands that do one thing and end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from worker.cli.terminal import error, warn

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from worker.amqp.connecting import Access, Connected

UNREACHABLE: Final = 69
REFUSED: Final = 78

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0


def with_broker(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run `work` and give its exit code back, or the one for a broker that does not answer or refuses."""
    import asyncio

    from worker.amqp.connecting import Refused, Unreachable
    from worker.ops.log import configure_logging

    configure_logging("error", sys.stderr)
    try:
        return asyncio.run(work())
    except Unreachable as fault:
        error(f"the broker cannot be reached: {fault}")
        return UNREACHABLE
    except Refused as fault:
        error(fault)
        return REFUSED


async def reach(access: Access, purpose: str, patience: float) -> Connected:
    """Connect, trying again for `patience` seconds, and say so. Raises Unreachable or Refused."""
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

    from worker.amqp.connecting import Unreachable, open_connection

    trying = AsyncRetrying(
        retry=retry_if_exception_type(Unreachable),
        stop=stop_before_delay(patience),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        before_sleep=_say_once(patience),
        reraise=True,
    )
    connected: Connected = await trying(open_connection, access, purpose)
    return connected


def _say_once(patience: float) -> Callable[[RetryCallState], None]:
    def say(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            reason = state.outcome.exception()
            warn(f"the broker cannot be reached yet, trying for {patience:g} s: {reason}")

    return say
