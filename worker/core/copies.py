"""The messages that replace or follow a job: wait copies, dead letters, suspects; and what they may carry."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, assert_never

from worker.core.finished import Elements, Step, decode_steps, fit_steps
from worker.core.job import Job, Malformed
from worker.core.message import Message, Outgoing, Properties, Undecodable, own_headers
from worker.core.outcome import DETAIL_LIMIT, Reason
from worker.core.policy import DeadLetter, Park
from worker.core.topology import Topology
from worker.core.wire_size import entry_size, header_frame_size

STEPS_LIMIT: Final = 64 * 1024
RAW_LIMIT: Final = 8 * 1024
HISTORY_LIMIT: Final = 100
NAMES_IN_DETAIL: Final = 10
USER_ID_ROOM: Final = 256
"""The connection that publishes adds its user: a short string."""


@dataclass(frozen=True, slots=True)
class CopyRules:
    """What a copy needs to know: its queues, and how many bytes of header the connection takes.

    `header_budget` is the negotiated frame size less 8 KiB.
    """

    topology: Topology
    header_budget: int = 131_072 - 8 * 1024


class TooManyHeaders(Exception):
    """The publisher's own headers leave no room for what the worker must add."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("headers too large")
        self.names = names


def wait_copy(job: Job, park: Park, *, copy_id: str, due: float, rules: CopyRules) -> Outgoing:
    """The copy that waits until `due` (epoch seconds). Raises TooManyHeaders."""
    headers = _progress(job, park.attempt) | {
        "x-worker-snoozes": park.snoozes,
        "x-worker-interruptions": park.interruptions,
        **_crashes(job),
        "x-worker-not-before": round(due * 1000),
    }
    message = _fit(_copy(job, copy_id, headers), job.steps, job.history, "", rules)
    return Outgoing(rules.topology.queue_for(park.delay), message)


def suspect_copy(job: Job, *, copy_id: str, rules: CopyRules) -> Outgoing:
    """The copy that runs apart from its neighbours. Raises TooManyHeaders."""
    headers = _progress(job, job.attempt) | {
        "x-worker-snoozes": job.snoozes,
        "x-worker-interruptions": job.interruptions,
        **_crashes(job),
    }
    if job.not_before is not None:
        headers["x-worker-not-before"] = round(job.not_before * 1000)
    message = _fit(_copy(job, copy_id, headers), job.steps, job.history, "", rules)
    return Outgoing(rules.topology.suspect_name, message)


def dead_copy(
    job: Job, letter: DeadLetter, *, copy_id: str, rules: CopyRules, died_at: float | None = None
) -> Outgoing:
    """The dead letter of a job that died at `died_at` (epoch seconds).

    Headers of the publisher that leave no room are left out and named in the detail.
    """
    headers = _progress(job, letter.attempts) | _ending(letter.reason, died_at) | {"x-worker-snoozes": job.snoozes}
    message = _fit_or_leave_out(_copy(job, copy_id, headers), job.steps, job.history, letter.detail, rules)
    return Outgoing(rules.topology.dead_name, message)


def malformed_copy(
    message: Message, malformed: Malformed, *, copy_id: str, rules: CopyRules, died_at: float | None = None
) -> Outgoing:
    """The dead letter of a message that is no job: its body, and of its properties what can be read."""
    headers: dict[str, Any] = {
        "x-worker-id": malformed.id,
        "x-worker-attempt": malformed.attempts,
        **_ending(malformed.reason, died_at),
    }
    match message.properties:
        case Undecodable(raw, _):
            headers["x-worker-raw"] = base64.b64encode(raw[:RAW_LIMIT]).decode("ascii")
            copy = Message(message.body, Properties(message_id=copy_id, headers=headers))
        case Properties() as properties:
            own = own_headers(properties.headers)
            copy = Message(message.body, _kept(properties, copy_id, own | headers))
        case _:
            assert_never(message.properties)
    return Outgoing(rules.topology.dead_name, _fit_or_leave_out(copy, {}, (), malformed.detail, rules))


def history_entry(job: Job, result: str, *, started: float, seconds: float) -> str:
    """One attempt that ran, in a line: number, start (UTC), duration, how it ended."""
    when = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _unicode(f"{job.attempt} {when} {seconds:.3f}s {result}"[:120])


def forgets(copy: Outgoing, job: Job) -> bool:
    """Whether `copy` had no room for one of the finished steps of `job`, which would then run again."""
    assert isinstance(copy.message.properties, Properties)
    carried = decode_steps(copy.message.properties.headers.get("x-worker-steps"))
    return {name: _done(step) for name, step in job.steps.items()} != {
        name: _done(step) for name, step in carried.items()
    }


def _done(step: Step) -> int:
    return len(step.done) if isinstance(step, Elements) else 1


def _progress(job: Job, attempt: int) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "x-worker-id": job.id,
        "x-worker-attempt": attempt,
        "x-worker-first-seen": round(job.first_seen * 1000),
    }
    if job.wait_deadline is not None:
        headers["x-worker-deadline"] = round(job.wait_deadline * 1000)
    return headers


def _crashes(job: Job) -> dict[str, Any]:
    # A copy is a fresh message, of which the broker has counted nothing yet.
    return {"x-worker-crashes": job.crashes} if job.crashes else {}


def _ending(reason: Reason, died_at: float | None) -> dict[str, Any]:
    return {"x-worker-reason": reason} | ({} if died_at is None else {"x-worker-died-at": round(died_at * 1000)})


def _copy(job: Job, copy_id: str, headers: Mapping[str, Any]) -> Message:
    return Message(job.body, _kept(job.properties, copy_id, own_headers(job.properties.headers) | dict(headers)))


def _kept(properties: Properties, copy_id: str, headers: Mapping[str, Any]) -> Properties:
    # A kept `expiration` would cut the wait short; `user_id` is set by the connection that publishes.
    return replace(properties, message_id=copy_id, expiration=None, user_id=None, headers=headers)


def _fit(copy: Message, steps: Mapping[str, Step], history: tuple[str, ...], detail: str, rules: CopyRules) -> Message:
    """Add what travels along as far as the budget goes.

    What goes first is the results nobody needs, then the history, then the detail, and last whole finished steps.
    """
    assert isinstance(copy.properties, Properties)
    room = rules.header_budget - header_frame_size(copy.properties) - USER_ID_ROOM
    if room < 0:
        raise TooManyHeaders(_largest_own(copy.properties.headers))
    added: dict[str, Any] = {}
    rest = {"x-worker-detail": _plain_detail(detail), "x-worker-history": list(history[-HISTORY_LIMIT:])}
    beside = sum(entry_size(name, value) for name, value in rest.items() if value)
    for name, value in (
        ("x-worker-steps", _fitting_steps(steps, wanted=room - beside, limit=room)),
        ("x-worker-detail", rest["x-worker-detail"]),
    ):
        if value and (size := entry_size(name, value)) <= room:
            added[name] = value
            room -= size
    if kept := _fitting_history(history, room):
        added["x-worker-history"] = kept
    return replace(copy, properties=replace(copy.properties, headers={**copy.properties.headers, **added}))


def _fit_or_leave_out(
    copy: Message, steps: Mapping[str, Step], history: tuple[str, ...], detail: str, rules: CopyRules
) -> Message:
    """For dead letters: a header of the publisher that is too large must not keep the letter from being written."""
    try:
        return _fit(copy, steps, history, detail, rules)
    except TooManyHeaders as error:
        return _fit(_without(copy, error.names, detail), steps, history, "", rules)


def _fitting_steps(steps: Mapping[str, Step], *, wanted: int, limit: int) -> str:
    """The steps as text that takes at most `limit` bytes as a header, and `wanted` if that costs nobody a result."""
    if not steps:
        return ""
    frame = entry_size("x-worker-steps", "")
    return fit_steps(steps, wanted=min(STEPS_LIMIT, wanted) - frame, limit=min(STEPS_LIMIT, limit) - frame)


def _fitting_history(history: tuple[str, ...], room: int) -> list[str]:
    kept = list(history[-HISTORY_LIMIT:])
    while kept and entry_size("x-worker-history", kept) > room:
        del kept[0]
    return kept


def _largest_own(headers: Mapping[str, Any]) -> list[str]:
    own = own_headers(headers)
    return sorted(own, key=lambda name: entry_size(name, own[name]), reverse=True)


def _without(copy: Message, names: list[str], detail: str) -> Message:
    """The copy without these headers. Its detail names them, whatever else finds room."""
    assert isinstance(copy.properties, Properties)
    left = set(names)
    headers = {name: value for name, value in copy.properties.headers.items() if name not in left}
    headers["x-worker-detail"] = _plain_detail(_left_out(detail, names))
    return replace(copy, properties=replace(copy.properties, headers=headers))


def _plain_detail(detail: str) -> str:
    return _unicode(detail[:DETAIL_LIMIT])


def _unicode(text: str) -> str:
    # What a handler says may hold lone surrogates, which no header can carry.
    return text.encode("utf-8", "replace").decode("utf-8")


def _left_out(detail: str, names: list[str]) -> str:
    listed = ", ".join(name[:40] for name in names[:NAMES_IN_DETAIL])
    more = f" and {len(names) - NAMES_IN_DETAIL} more" if len(names) > NAMES_IN_DETAIL else ""
    return f"headers left out: {listed}{more}; {detail}"
