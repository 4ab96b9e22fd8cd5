"""Jobs that only park, and jobs that only end: the APP `tests.benchmarks.isolation.parking_app:registry`."""

from __future__ import annotations

from worker import Registry, Snooze

PARK_SECONDS = 5.0
"""A rung of the ladder: one copy is one park."""

registry = Registry()


@registry.handler("park")
async def park(job: object) -> None:
    raise Snooze(PARK_SECONDS)


@registry.handler("end")
async def end(job: object) -> None:
    pass
