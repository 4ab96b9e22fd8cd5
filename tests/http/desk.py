"""Runs `http` jobs over real sockets: memory broker, the real engine, a target that answers by path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.http.targets import Exchange, MakeEngine, Script, Target
from worker.core.report import AttemptReport
from worker.http.client import HttpTransport
from worker.http.handler import http_registry
from worker.runtime.context import job_gate
from worker.testing import Harness
from worker.testing.published import Aside


@dataclass(frozen=True)
class Answer:
    """One answer. `value` becomes JSON."""

    status: int = 200
    value: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    async def give(self, exchange: Exchange) -> None:
        body = json.dumps(self.value).encode()
        await exchange.answer(self.status, body, **{"Content_Type": "application/json", **self.headers})


PATIENCE = 0.5
"""Real seconds without news after which the clock is moved: more than any request takes on a busy machine."""


@dataclass(frozen=True)
class Done:
    """How a job ended. `runs` are its attempts, `published` the payloads of the jobs it published."""

    status: str
    reason: str | None
    detail: str
    value: Any
    runs: tuple[AttemptReport, ...]
    published: tuple[Any, ...]

    @property
    def attempts(self) -> int:
        return self.runs[-1].attempt if self.runs else 0

    @property
    def snoozes(self) -> int:
        return sum(run.outcome == "snoozed" for run in self.runs)


class Desk:
    """Runs one job after the other."""

    def __init__(self, make_engine: MakeEngine) -> None:
        self.transport = HttpTransport(make_engine(), gate=job_gate)

    async def run(self, payload: Any, **options: Any) -> Done:
        """The job `job-1` to its end; `options` are those of `Harness`."""
        async with Harness(http_registry(), transport=self.transport, **options) as harness:
            aside = Aside("job-1", harness.clock)
            harness.broker.aside = aside.takes
            harness.publish("http", payload, id="job-1")
            await harness.until_quiet(patience=PATIENCE)
            runs = tuple(report for report in harness.reports.all if report.ran)
            last = harness.reports.all[-1]
            dead = last.disposition == "dead"
            return Done(
                status="dead" if dead else "succeeded",
                reason=last.reason if dead else None,
                detail=last.detail,
                value=None if dead else harness.watching.returned["job-1"].plain,
                runs=runs,
                published=tuple(one.payload for one in aside.published),
            )


class Crowd:
    """A script that answers once `together` requests are there, or after a moment, and knows the most there were."""

    def __init__(self, together: asyncio.Barrier | None = None) -> None:
        self.most = self._now = 0
        self._together = together

    async def __call__(self, exchange: Exchange) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        await (asyncio.sleep(0.01) if self._together is None else self._together.wait())
        self._now -= 1
        await exchange.answer()


def by_path(answers: Mapping[str, Answer | list[Answer]]) -> Script:
    """Answers by path: one always the same, or several in turn, the last one for ever; 404 elsewhere."""
    left = {path: list(several) if isinstance(several, list) else [several] for path, several in answers.items()}

    async def script(exchange: Exchange) -> None:
        turns = left.get(path_of(exchange), [Answer(404)])
        await (turns.pop(0) if len(turns) > 1 else turns[0]).give(exchange)

    return script


def path_of(exchange: Exchange) -> str:
    """Without the query."""
    return exchange.line.split(" ")[1].partition("?")[0]


def paths(target: Target) -> list[str]:
    """What was asked for, in order of arrival, with the query."""
    return [exchange.line.split(" ")[1] for exchange in target.seen]


def keys(target: Target) -> list[str | None]:
    """The Idempotency-Keys that arrived, in order."""
    return [exchange.header("idempotency-key") for exchange in target.seen]


def chain(url: str, *ids: str, **more: Any) -> dict[str, Any]:
    """Steps that need the one before; their ids are their paths."""
    steps = [
        {"id": one, "url": f"{url}{one}", "needs": list(before), "retry": {"attempts": 1}}
        for one, before in zip(ids, [(), *((one,) for one in ids)], strict=False)
    ]
    return {"steps": steps, **more}
