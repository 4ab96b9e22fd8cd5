"""A harness that writes down what the breakers tell, and jobs that ask one host."""

from __future__ import annotations

from collections import Counter
from typing import Any

from worker import Context, Registry
from worker.testing import Harness

URL = "http://down.example/x"


class Told(Harness):
    """A harness that writes down what the breakers tell."""

    def __init__(self, registry: Registry, **options: Any) -> None:
        super().__init__(registry, **options)
        self.changes: list[tuple[str, str]] = []
        reports = self.telemetry

        def changed(key: str, state: str, *, failures: int, calls: int, seconds: float) -> None:
            assert seconds >= 0
            self.changes.append((key, state))

        reports.breaker_changed = changed  # type: ignore[method-assign]

    def parked(self) -> Counter[str]:
        reasons = (report.reason for report in self.reports.all if report.disposition == "parked")
        return Counter(reason for reason in reasons if reason != "not_before")

    def attempts(self) -> int:
        return sum(report.ran and report.outcome != "snoozed" for report in self.reports.all)


def asking(url: str = URL, *, key: str | None = None, **options: Any) -> Registry:
    """A registry whose `job` makes one request."""
    registry = Registry()

    @registry.handler("job", key=(lambda payload: key) if key else None, backoff=(1, 2), **options)
    async def job(payload: Any, context: Context) -> None:
        (await context.request("GET", url, timeout=1)).raise_for_status()

    return registry


def fill(harness: Harness, jobs: int, first: int = 0) -> None:
    for number in range(first, first + jobs):
        harness.publish("job", number, id=f"id{number}")
