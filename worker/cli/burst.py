"""`worker run --burst`: sees when there is nothing left to do.

A message can be on its way where nobody sees it: from a wait queue back into the work queue, or from a queue to a
worker process. So one look that finds nothing proves nothing. Two in a row do, if between them no process finished
anything: each process was idle all that time, so nothing was put into a queue either, and what was on its way at the
first look has arrived, in a queue or in a process, where the second one sees it.

And a quorum queue whose leader is away or slow says 0, whatever it holds. So what was in a queue, and is gone without
any process having finished anything since, is missed for a while: another service may have taken it, or it is still
there.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from worker.amqp.connecting import BROKEN, Access, Connected, Refused, Unreachable, open_connection
from worker.amqp.queues import passive_count
from worker.core.topology import Topology
from worker.ops.admin import Watched

log = structlog.get_logger("worker.burst")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks: far longer than any message is on its way."""

CALM: Final = 10.0
"""Seconds until empty queues are believed after the broker was away, or after something was gone unexplained."""

_COUNTERS: Final = ("worker_attempts_total", "worker_parked_total", "worker_dead_letters_total")
"""Whatever becomes of a delivery, one of these goes up."""


class Burst:
    """Watches the queues of `topology` and the worker processes behind `workers`."""

    def __init__(self, access: Access, topology: Topology, workers: Watched) -> None:
        self._access = access
        self._workers = workers
        # In the order in which messages go through them, so that none gets past the eye that follows.
        self._queues = [queue.name for queue in (*topology.waits, topology.suspect, topology.work)]
        self._last = topology.name
        self._connected: Connected | None = None
        self._away = False
        self._believed_from = 0.0
        self._seen_at: str | None = None

    async def over(self) -> None:
        """Return when nothing is queued, waiting or under way; for a broker that is away it waits."""
        before: str | None = None
        try:
            while (now := await self._look()) is None or now != before:
                before = now
                await asyncio.sleep(LOOK_EVERY)
        finally:
            await self._hang_up()

    async def _look(self) -> str | None:
        """What has been finished so far if nothing is left to be seen, else None."""
        if not (await self._workers.ready()).ok:
            return None
        queued = await self._something_queued()
        if queued is None:
            self._doubt(None)
            return None
        if not queued and await self._workers.jobs():
            return None
        finished = await self._finished()
        if queued:
            self._doubt(finished)
            return None
        doubtful = self._seen_at in (None, finished) and asyncio.get_running_loop().time() < self._believed_from
        return None if doubtful else finished

    def _doubt(self, seen_at: str | None) -> None:
        """Believe in empty queues when more than `seen_at` is finished, None for never; or after a while."""
        self._seen_at, self._believed_from = seen_at, asyncio.get_running_loop().time() + CALM

    async def _finished(self) -> str:
        page = await self._workers.metrics()
        return "\n".join(line for line in page.splitlines() if line.startswith(_COUNTERS))

    async def _something_queued(self) -> bool | None:
        """None when nobody can tell."""
        try:
            connected = await self._connection()
            # First where there was something the last time: that is one question, also while a job waits for days.
            return await self._holds(connected, self._last) or await self._any_holds(connected)
        except (Unreachable, Refused) as error:
            reason = str(error)
        except BROKEN as error:
            reason = str(error) or type(error).__name__
        await self._hang_up()
        if not self._away:
            log.warning("burst.cannot_look", reason=reason)
        self._away = True
        return None

    async def _any_holds(self, connected: Connected) -> bool:
        for queue in self._queues:
            if await self._holds(connected, queue):
                return True
        self._away = False
        return False

    async def _holds(self, connected: Connected, queue: str) -> bool:
        if not await passive_count(connected.amqp, queue):
            return False
        self._last, self._away = queue, False
        return True

    async def _connection(self) -> Connected:
        if self._connected is None:
            self._connected = await open_connection(self._access, "burst")
        return self._connected

    async def _hang_up(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected.close()
