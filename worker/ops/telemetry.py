"""What the runtime reports, as metrics and log lines."""

from __future__ import annotations

from typing import Any

import structlog

from worker.core.report import AttemptReport
from worker.ops.metrics import Metrics

log = structlog.get_logger("worker.job")
limits = structlog.get_logger("worker.limits")

_LEVELS = {"dead": "warning", "done": "info"}


class OpsTelemetry:
    """Fulfils `worker.runtime.telemetry.Telemetry`: counts in `metrics`, and one `job.finished` for each attempt."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempt_started(self, type: str) -> None:  # noqa: ARG002 - the gauge has no label
        self._metrics.job_started()

    def attempt_finished(self, report: AttemptReport) -> None:
        if report.ran:
            self._metrics.job_ended()
            self._metrics.attempt(report.type, report.outcome)
        match report.disposition:
            case "done":
                self._metrics.job_finished(report.type, "succeeded", report.seconds)
            case "dead":
                self._metrics.job_finished(report.type, "dead", report.seconds)
                self._metrics.dead_lettered(report.reason)
            case "parked":
                self._metrics.parked(report.reason)
        if report.ran or report.disposition == "dead":
            level = _LEVELS.get(report.disposition, "info")
            getattr(log, level)("job.finished", **_told(report))
        else:
            log.debug("job.not_started", **_told(report))

    def step_started(self) -> None:
        self._metrics.step_started()

    def step_ended(self) -> None:
        self._metrics.step_ended()

    def limit_waited(self, limit: str, seconds: float) -> None:
        self._metrics.limit_wait(limit, seconds)

    def limit_changed(self, limit: str, places: int) -> None:
        self._metrics.limit_places(limit, places)

    def breaker_changed(self, key: str, state: str, *, failures: int, calls: int, seconds: float) -> None:
        told = {"key": key, "failures": failures, "calls": calls, "seconds": round(seconds, 1)}
        self._metrics.breaker(key, is_open=state != "closed")
        if state == "open":
            limits.warning("breaker.opened", **told)
        else:
            limits.info(f"breaker.{state}", **told)

    def breaker_forgotten(self, key: str) -> None:
        self._metrics.breaker(key, is_open=False)

    def ack_lost(self) -> None:
        self._metrics.lost_ack()

    def reply_ended(self, result: str) -> None:
        self._metrics.reply(result)

    def callback_failed(self) -> None:
        self._metrics.callback_failed()


def _told(report: AttemptReport) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": report.id,
        "type": report.type,
        "attempt": report.attempt,
        "outcome": report.outcome,
        "then": report.disposition,
        "seconds": round(report.seconds, 4),
        "admission": round(report.admission, 4),
        "network": round(report.network, 4),
        "requests": report.requests,
    }
    optional = {
        "queue": None if report.queued is None else round(report.queued, 1),
        "snoozes": report.snoozes,
        "reason": report.reason,
        "detail": report.detail,
        "next_in": None if report.next_in is None else round(report.next_in, 1),
    }
    return told | {name: value for name, value in optional.items() if value} | dict(report.trouble)
