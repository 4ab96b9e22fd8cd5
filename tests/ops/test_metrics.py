"""Metrics: the contract's names and labels, bounded label values, and processes that are added up."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.ops.metrics import MOST_HOSTS, MOST_WORDS, Metrics
from worker.ops.snapshots import exposition, merge, totals

# PRODUCT's list, copied by hand: name, labels, type.
CONTRACT = {
    "worker_jobs_total": ({"type", "outcome"}, "counter"),
    "worker_job_seconds": ({"type"}, "histogram"),
    "worker_jobs_in_flight": (set(), "gauge"),
    "worker_steps_in_flight": (set(), "gauge"),
    "worker_attempts_total": ({"type", "result"}, "counter"),
    "worker_parked_total": ({"reason"}, "counter"),
    "worker_dead_letters_total": ({"reason"}, "counter"),
    "worker_http_requests_total": ({"host", "result"}, "counter"),
    "worker_http_seconds": ({"host"}, "histogram"),
    "worker_limit_wait_seconds": ({"limit"}, "histogram"),
    "worker_breaker_open": ({"host"}, "gauge"),
    "worker_limit_places": ({"limit"}, "gauge"),
    "worker_consuming": (set(), "gauge"),
    "worker_reconnects_total": (set(), "counter"),
    "worker_lost_acks_total": (set(), "counter"),
    "worker_loop_lag_seconds": (set(), "gauge"),
    "worker_build_info": ({"version", "python"}, "gauge"),
}
ADDED = {"worker_replies_total": ({"result"}, "counter"), "worker_callbacks_failed_total": (set(), "counter")}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            key = (one.name, frozenset(one.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = one.value
    return found


def value(metrics: Metrics | str, name: str, **labels: str) -> float | None:
    text = metrics if isinstance(metrics, str) else metrics.text()
    return samples(text).get((name, frozenset(labels.items())))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics({"order.sync", "http"}, version="1.2.3", clock=clock)


def everything(metrics: Metrics) -> None:
    metrics.job_started()
    metrics.job_finished("http", "succeeded", 0.2)
    metrics.attempt("http", "failed")
    metrics.parked("retry")
    metrics.dead_lettered("rejected")
    metrics.step_started()
    metrics.http_request("h", "2xx", 0.1)
    metrics.limit_wait("h", 0.1)
    metrics.breaker("h", is_open=True)
    metrics.limit_places("api", 5)
    metrics.consuming(True)
    metrics.reconnected()
    metrics.lost_ack()
    metrics.reply("sent")
    metrics.callback_failed()
    metrics.loop_lag(0.5)


def test_names_labels_and_types_are_the_contracts(metrics: Metrics) -> None:
    everything(metrics)
    found = {}
    for family in text_string_to_metric_families(metrics.text()):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert family.documentation
        found[name] = (set(family.samples[0].labels) - {"le"}, family.type)
    assert found == CONTRACT | ADDED


Event = Callable[[Metrics], None]


def both(first: Event, second: Event) -> Event:
    def event(metrics: Metrics) -> None:
        first(metrics)
        second(metrics)

    return event


EVENTS: list[tuple[Event, str, dict[str, str], float]] = [
    (lambda m: m.job_finished("http", "dead", 3), "worker_jobs_total", {"type": "http", "outcome": "dead"}, 1),
    (lambda m: m.job_finished("http", "dead", 3), "worker_job_seconds_sum", {"type": "http"}, 3),
    (lambda m: m.attempt("http", "snoozed"), "worker_attempts_total", {"type": "http", "result": "snoozed"}, 1),
    (lambda m: m.attempt("x", "failed"), "worker_attempts_total", {"type": "unknown", "result": "failed"}, 1),
    (lambda m: m.parked("retry"), "worker_parked_total", {"reason": "retry"}, 1),
    (lambda m: m.dead_lettered("tls"), "worker_dead_letters_total", {"reason": "tls"}, 1),
    (lambda m: m.job_started(), "worker_jobs_in_flight", {}, 1),
    (both(lambda m: m.job_started(), lambda m: m.job_ended()), "worker_jobs_in_flight", {}, 0),
    (lambda m: m.step_started(), "worker_steps_in_flight", {}, 1),
    (both(lambda m: m.step_started(), lambda m: m.step_ended()), "worker_steps_in_flight", {}, 0),
    (lambda m: m.http_request("h", "5xx", 2), "worker_http_requests_total", {"host": "h", "result": "5xx"}, 1),
    (lambda m: m.http_request("h", "5xx", 2), "worker_http_seconds_sum", {"host": "h"}, 2),
    (lambda m: m.limit_wait("k", 0.5), "worker_limit_wait_seconds_sum", {"limit": "k"}, 0.5),
    (lambda m: m.breaker("h", is_open=True), "worker_breaker_open", {"host": "h"}, 1),
    (
        both(lambda m: m.breaker("h", is_open=True), lambda m: m.breaker("h", is_open=False)),
        "worker_breaker_open",
        {"host": "h"},
        0,
    ),
    (lambda m: m.consuming(True), "worker_consuming", {}, 1),
    (both(lambda m: m.consuming(True), lambda m: m.consuming(False)), "worker_consuming", {}, 0),
    (lambda m: m.reconnected(), "worker_reconnects_total", {}, 1),
    (lambda m: m.lost_ack(), "worker_lost_acks_total", {}, 1),
    (lambda m: m.reply("refused"), "worker_replies_total", {"result": "refused"}, 1),
    (lambda m: m.callback_failed(), "worker_callbacks_failed_total", {}, 1),
]


@pytest.mark.parametrize(("event", "name", "labels", "counted"), EVENTS)
def test_an_event_is_counted(metrics: Metrics, event: Event, name: str, labels: dict[str, str], counted: float) -> None:
    event(metrics)
    assert value(metrics, name, **labels) == counted


def test_what_has_no_labels_is_there_from_the_start(metrics: Metrics) -> None:
    for name, (labels, _) in CONTRACT.items():
        if not labels:
            assert value(metrics, name) == 0
    assert [name for name, _ in samples(metrics.text())].count("worker_build_info") == 1


def test_hosts_are_bounded_and_share_their_names(metrics: Metrics) -> None:
    for number in range(MOST_HOSTS + 50):
        metrics.http_request(f"h{number}", "2xx", 0.1)
        metrics.breaker(f"h{number}", is_open=True)
    found = samples(metrics.text())
    for name in ("worker_http_requests_total", "worker_breaker_open", "worker_http_seconds_count"):
        hosts = {dict(labels)["host"] for sample, labels in found if sample == name}
        assert hosts == {f"h{number}" for number in range(MOST_HOSTS)} | {"other"}
    assert value(metrics, "worker_http_requests_total", host="other", result="2xx") == 50
    metrics.http_request("h0", "2xx", 0.1)
    assert value(metrics, "worker_http_requests_total", host="h0", result="2xx") == 2


@pytest.mark.parametrize(
    ("event", "name"), [("parked", "worker_parked_total"), ("limit", "worker_limit_wait_seconds_count")]
)
def test_reasons_and_limits_are_bounded(metrics: Metrics, event: str, name: str) -> None:
    for number in range(MOST_WORDS + 7):
        if event == "parked":
            metrics.parked(f"w{number}")
        else:
            metrics.limit_wait(f"w{number}", 0.1)
    found = [(dict(labels), count) for (sample, labels), count in samples(metrics.text()).items() if sample == name]
    assert len(found) == MOST_WORDS + 1
    assert [count for labels, count in found if "other" in labels.values()] == [7]


@pytest.mark.parametrize("limit", ["\ud800", "a\nb", "x" * 300])
def test_a_name_no_page_could_show_does_not_break_the_page(metrics: Metrics, limit: str) -> None:
    metrics.limit_wait(limit, 0.1)
    assert value(metrics, "worker_limit_wait_seconds_count", limit="other") == 1


@pytest.mark.parametrize("limit", ['a"b', "a\\b", "mandant-ü"])
def test_odd_names_are_escaped(metrics: Metrics, limit: str) -> None:
    metrics.limit_wait(limit, 0.1)
    assert value(metrics, "worker_limit_wait_seconds_count", limit=limit) == 1


def test_the_worst_lag_stays_for_a_while(metrics: Metrics, clock: Clock) -> None:
    table = [(0.0, 0.2, 0.2), (10.0, 3.0, 3.0), (20.0, 0.5, 3.0), (35.0, 0.1, 3.0), (41.0, 0.1, 0.5), (52.0, 0.0, 0.1)]
    for at, lag, worst in table:
        clock.now = 1000 + at
        metrics.loop_lag(lag)
        assert value(metrics, "worker_loop_lag_seconds") == worst
    clock.now = 2000
    assert value(metrics, "worker_loop_lag_seconds") == 0


def test_no_more_lags_are_kept_than_are_looked_at(metrics: Metrics, clock: Clock) -> None:
    for second in range(1000):
        clock.now = second
        metrics.loop_lag(1000 - second)
    assert len(metrics._lags) == 31


# --- several processes


def two() -> tuple[Metrics, Metrics]:
    one, other = Metrics({"http"}, version="1"), Metrics({"http"}, version="1")
    everything(one)
    everything(other)
    other.loop_lag(2.0)
    other.breaker("h", is_open=False)
    other.http_request("only-here", "2xx", 40.0)
    return one, other


def test_processes_add_up() -> None:
    snapshots = [json.loads(json.dumps(metrics.snapshot())) for metrics in two()]
    text = exposition(snapshots)
    assert value(text, "worker_jobs_total", type="http", outcome="succeeded") == 2
    assert value(text, "worker_job_seconds_count", type="http") == 2
    assert value(text, "worker_job_seconds_bucket", type="http", le="0.25") == 2
    assert value(text, "worker_jobs_in_flight") == 2
    assert value(text, "worker_consuming") == 2
    assert value(text, "worker_loop_lag_seconds") == 2.0
    assert value(text, "worker_breaker_open", host="h") == 1
    assert value(text, "worker_http_requests_total", host="only-here", result="2xx") == 1
    assert [count for (name, _), count in samples(text).items() if name == "worker_build_info"] == [1]
    assert text.count("# HELP worker_jobs_total ") == 1


def test_one_process_is_the_sum_of_itself() -> None:
    one, _ = two()
    assert exposition([one.snapshot()]) == one.text()
    assert merge([one.snapshot()]) == merge([merge([one.snapshot()])])


def test_adding_up_changes_nothing_it_was_given() -> None:
    snapshots = [metrics.snapshot() for metrics in two()]
    before = json.dumps(snapshots)
    exposition(snapshots)
    assert json.dumps(snapshots) == before


def test_of_a_process_that_ended_only_its_totals_stay() -> None:
    one, other = two()
    text = exposition([totals([one.snapshot()]), other.snapshot()])
    assert value(text, "worker_jobs_total", type="http", outcome="succeeded") == 2
    assert value(text, "worker_jobs_in_flight") == 1


def test_no_processes_are_an_empty_page() -> None:
    assert exposition([]) == ""


def test_a_histogram_keeps_its_buckets_in_order() -> None:
    one, other = two()
    [family] = [f for f in merge([one.snapshot(), other.snapshot()]) if f["name"] == "worker_http_seconds"]
    bounds = [
        labels["le"] for name, labels, _ in family["samples"] if name.endswith("_bucket") and labels["host"] == "h"
    ]
    assert bounds[-1] == "+Inf"
    assert [float(bound) for bound in bounds] == sorted(float(bound) for bound in bounds)
