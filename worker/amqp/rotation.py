"""Secrets that change while the worker runs: when to look, how long to wait, whom to believe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final

from worker.amqp.connecting import Access, Mark, Refused

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the files."""

KNOWN_EVERYWHERE: Final = 1.0
"""Seconds after a change before anything is published as the new user: by then every process on this host that is asked
about a copy of that user has looked into the file."""

SPREAD: Final = 1.5
"""Seconds over which the processes that share a file are spread."""

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 4.0
"""Seconds between two tries to get the broker back; full jitter, so that replicas do not come in step."""

REFUSED_PAUSE: Final = 1.0
"""Seconds between two logins of one connection, at least, while they are refused."""


@dataclass(slots=True)
class Pauses:
    """Seconds to wait between tries, doubling up to `longest`, with full jitter, so that replicas do not come in step.

    After a refusal a second at least: whoever is refused may be locked out for asking too often.
    """

    first: float
    longest: float
    chance: Callable[[], float]
    _ceiling: float = field(default=0.0, init=False)

    def after(self, fault: Exception | None) -> float:
        """How long to wait after this one."""
        self._ceiling = min(self._ceiling * 2, self.longest) or self.first
        least = REFUSED_PAUSE if isinstance(fault, Refused) else 0.0
        return least + min(self._ceiling, self.longest - least) * self.chance()

    def reset(self) -> None:
        """Begin anew: it worked, or something has changed."""
        self._ceiling = 0.0


async def change_or_pause(access: Access, tried: Mark | None, seconds: float) -> bool:
    """Wait so long, or until `access` is no longer what was `tried`; whether that is why."""
    until = time.monotonic() + seconds
    while (rest := until - time.monotonic()) > 0:
        await asyncio.sleep(min(LOOK_EVERY, rest))
        if tried is not None and access.mark() != tried:
            return True
    return False


class TrustedUsers(Container[str]):
    """Whose `x-worker-*` headers are believed: those that are listed, and every user the worker itself has been.

    Another process may have read the file before this one, and published as the new user: so whoever is unknown makes
    this one look, too.
    """

    def __init__(self, listed: Container[str], access: Access) -> None:
        self._listed = listed
        self._access = access

    def __contains__(self, user: object) -> bool:
        if user is None or user in self._listed or user in self._access.users:
            return user is not None
        self._access.current()
        return user in self._access.users
