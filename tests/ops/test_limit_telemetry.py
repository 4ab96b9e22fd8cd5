"""What is told of limits: one log line for each change of a breaker, and metrics whose labels are bounded."""

from __future__ import annotations

from structlog.testing import capture_logs

from worker.ops.metrics import MOST_HOSTS, Metrics
from worker.ops.telemetry import OpsTelemetry


def shown(metrics: Metrics, line: str) -> bool:
    return line in metrics.text().splitlines()


def test_a_breaker_is_told_once_for_each_change() -> None:
    metrics = Metrics()
    telemetry = OpsTelemetry(metrics)
    with capture_logs() as lines:
        for state in ("open", "half_open", "open", "half_open", "closed"):
            telemetry.breaker_changed("api.example", state, failures=12, calls=20, seconds=5.04)
            assert shown(metrics, f'worker_breaker_open{{host="api.example"}} {0.0 if state == "closed" else 1.0}')
    told = [(line["event"], line["log_level"]) for line in lines]
    opened, half, closed = ("breaker.opened", "warning"), ("breaker.half_open", "info"), ("breaker.closed", "info")
    assert told == [opened, half, opened, half, closed]
    assert {key: lines[0][key] for key in ("key", "failures", "calls", "seconds")} == {
        "key": "api.example",
        "failures": 12,
        "calls": 20,
        "seconds": 5.0,
    }


def test_a_key_that_is_forgotten_is_open_no_more() -> None:
    metrics = Metrics()
    telemetry = OpsTelemetry(metrics)
    telemetry.breaker_changed("api.example", "open", failures=20, calls=20, seconds=5)
    for _ in range(2):
        telemetry.breaker_forgotten("api.example")
        assert shown(metrics, 'worker_breaker_open{host="api.example"} 0.0')


def test_hosts_beyond_the_most_are_counted_together() -> None:
    metrics = Metrics()
    for number in range(MOST_HOSTS + 3):
        metrics.breaker(f"h{number}", is_open=True)
    assert shown(metrics, 'worker_breaker_open{host="other"} 3.0')
    metrics.breaker(f"h{MOST_HOSTS}", is_open=False)
    assert shown(metrics, 'worker_breaker_open{host="other"} 2.0')


def test_an_adaptive_limit_shows_its_places() -> None:
    metrics = Metrics()
    OpsTelemetry(metrics).limit_changed("api.example", 35)
    assert shown(metrics, 'worker_limit_places{limit="api.example"} 35.0')
