"""One job from its publishing to its end, in one call: what most tests need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.core.job import safe_id
from worker.core.message import Message, Outgoing, Properties
from worker.core.replay import NotReplayable, replay_copy
from worker.core.report import AttemptReport
from worker.core.result import Value
from worker.runtime.registry import Registry
from worker.runtime.transport import Transport
from worker.testing.harness import Harness
from worker.testing.letters import letter as read_letter
from worker.testing.memory_broker import WORKER_USER
from worker.testing.published import Aside, Published


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    `status` is "succeeded" or "dead"; `attempts` how many were made, 0 if it never ran; `seconds` the time that passed
    on the moved clock, `waits` its parts between the runs. `value` is what the handler returned, as JSON. A dead job
    has a `reason`, a `detail` and its `dead_letter`. `published` are the jobs it published, `replies` what went to its
    `reply_to`. `errors` is what its handler raised, attempt by attempt (a CancelledError where its timeout ended it);
    `reports` is what the log was told.
    """

    status: str
    attempts: int
    snoozes: int
    seconds: float
    reason: str | None = None
    detail: str = ""
    dead_letter: Message | None = field(default=None, repr=False)
    value: Any = None
    waits: tuple[float, ...] = ()
    requests: int = 0
    published: tuple[Published, ...] = ()
    replies: tuple[Published, ...] = ()
    errors: tuple[BaseException, ...] = ()
    reports: tuple[AttemptReport, ...] = field(default=(), repr=False)


async def run_job(
    registry: Registry,
    type: str,
    payload: Any = None,
    *,
    id: str = "job-1",
    headers: Mapping[str, Any] | None = None,
    reply_to: str | None = None,
    deadline: float | None = None,
    transport: Transport | None = None,
    **options: Any,
) -> JobResult:
    """Run one job to its end, over all its retries and waits, and say how it ended.

    `transport` is what it makes requests to, a `FakeTarget` for instance; `deadline` is in seconds from now. Jobs that
    it publishes are not run, but are in the result. `options` are those of `Harness`: `attempts`, `backoff`, `timeout`,
    `max_age`, `max_requests`, ...
    """
    async with Harness(registry, transport=transport, **options) as harness:
        sent = dict(headers or {})
        if deadline is not None:
            sent["x-worker-deadline"] = round((harness.clock.now() + deadline) * 1000)
        harness.publish(type, payload, id=id, headers=sent, reply_to=reply_to)
        return await _ended(harness, safe_id(id), reply_to)


async def replay_letter(
    registry: Registry, source: Message | str | Path, *, transport: Transport | None = None, **options: Any
) -> JobResult:
    """Run the job of a dead letter again, as `worker dead replay` would: from attempt 1, its finished steps kept.

    `source` is the output of `worker dead show ID --json`, the path of a file that holds it, what `letter()` made of
    it, or the `dead_letter` of another result. `options` are those of `Harness`. A ValueError says why it cannot be
    replayed.
    """
    message = source if isinstance(source, Message) else read_letter(source)
    async with Harness(registry, transport=transport, **options) as harness:
        copy = _copy(message, harness.broker.topology.name)
        properties = copy.message.properties
        assert isinstance(properties, Properties)
        await harness.broker.publish(copy)
        return await _ended(harness, properties.headers["x-worker-id"], properties.reply_to)


def _copy(message: Message, queue: str) -> Outgoing:
    properties = message.properties
    readable = properties if isinstance(properties, Properties) else Properties()
    job_id = safe_id(readable.headers.get("x-worker-id") or readable.message_id or "job-1")
    believed = readable.user_id == WORKER_USER
    try:
        return replay_copy(message, queue=queue, job_id=job_id, copy_id="replayed-1", believed=believed)
    except NotReplayable as error:
        raise ValueError(f"the letter cannot be replayed: {error}") from None


async def _ended(harness: Harness, id: str, reply_to: str | None) -> JobResult:
    aside = Aside(id, harness.clock)
    harness.broker.aside = aside.takes
    since = harness.clock.now()
    await harness.until_quiet()
    reports = tuple(harness.reports.all)
    ran = [report for report in reports if report.ran]
    dead = harness.broker.dead
    returned = harness.watching.returned.get(id, Value())
    reason, detail = _why(dead[0]) if dead else (None, returned.fault)
    return JobResult(
        status="dead" if dead else "succeeded",
        attempts=ran[-1].attempt if ran else 0,
        snoozes=sum(report.outcome == "snoozed" for report in ran),
        seconds=harness.clock.now() - since,
        reason=reason,
        detail=detail,
        dead_letter=dead[0] if dead else None,
        value=None if dead else returned.plain,
        waits=tuple(one.next_in for one in reports if one.next_in is not None and one.reason != "not_before"),
        requests=sum(report.requests for report in ran),
        published=tuple(one for one in aside.published if one.queue != reply_to),
        replies=tuple(one for one in aside.published if one.queue == reply_to),
        errors=tuple(harness.watching.raised.get(id, ())),
        reports=reports,
    )


def _why(letter: Message) -> tuple[str | None, str]:
    assert isinstance(letter.properties, Properties)
    found = letter.properties.headers
    return found.get("x-worker-reason"), found.get("x-worker-detail", "")
