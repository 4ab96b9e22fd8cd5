"""What Prometheus reads: one process counts here, a parent adds its children's snapshots up in `snapshots.py`."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from worker.ops.snapshots import Snapshot, exposition, take_snapshot

M = TypeVar("M", Counter, Gauge, Histogram)

OTHER: Final = "other"
UNKNOWN: Final = "unknown"

MOST_HOSTS: Final = 1000
MOST_WORDS: Final = 100
"""Limits and reasons that are told apart; both can be made up by a handler or a publisher."""

LONGEST_NAME: Final = 255

LAG_WINDOW: Final = 30.0
"""Seconds the worst lag of the loop stays visible, so that a scrape does not miss it."""

_JOB_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_HTTP_BUCKETS: Final = (0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # few: there may be 1000 hosts
_WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The metrics of one process, in a registry of its own. Methods are named by what happened; none of them raises.

    `types` are the registered job types; any other is counted as `unknown`. Hosts past the first 1000, limits and
    reasons past the first 100 are counted as `other`. Times in seconds.
    """

    def __init__(
        self, types: Collection[str] = (), *, version: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = CollectorRegistry()
        self._types = frozenset(types)
        self._clock = clock
        self._lags: deque[tuple[float, float]] = deque()
        self._open: set[str] = set()
        hosts, limits = _Names(MOST_HOSTS), _Names(MOST_WORDS)
        self._jobs = self._counter("worker_jobs_total", "Jobs that ended, by how: succeeded or dead.", "type outcome")
        self._attempts = self._counter(
            "worker_attempts_total",
            "Attempts that ended, by how: succeeded, failed, snoozed, rejected or interrupted.",
            "type result",
        )
        self._job_seconds = self._histogram(
            "worker_job_seconds", "Run time of the attempt that ended a job.", "type", _JOB_BUCKETS
        )
        self._parked = self._counter(
            "worker_parked_total", "Jobs that were put into the wait ladder.", "reason", _Names(MOST_WORDS)
        )
        self._dead = self._counter(
            "worker_dead_letters_total", "Jobs that went to the dead queue.", "reason", _Names(MOST_WORDS)
        )
        self._requests = self._counter(
            "worker_http_requests_total",
            "Requests jobs made, by status class or kind of failure.",
            "host result",
            hosts,
        )
        self._http_seconds = self._histogram(
            "worker_http_seconds", "Time until a request was answered or had failed.", "host", _HTTP_BUCKETS, hosts
        )
        self._limit_wait = self._histogram(
            "worker_limit_wait_seconds", "Time jobs waited for a busy limit.", "limit", _WAIT_BUCKETS, limits
        )
        self._limit_places = self._gauge(
            "worker_limit_places", "Places an adaptive limit has at present.", "limit", limits
        )
        self._breakers = self._gauge(
            "worker_breaker_open",
            "1 while requests to this host, or jobs of this key, are held back by its breaker.",
            "host",
            hosts,
        )
        self._jobs_running = self._gauge("worker_jobs_in_flight", "Jobs running now.").only
        self._steps_running = self._gauge("worker_steps_in_flight", "Network-heavy steps running now.").only
        self._consuming = self._gauge("worker_consuming", "Processes that consume from the work queue.").only
        self._reconnects = self._counter("worker_reconnects_total", "Connections to the broker made anew.").only
        self._lost_acks = self._counter(
            "worker_lost_acks_total", "Acknowledgements that came too late for their connection."
        ).only
        self._replies = self._counter(
            "worker_replies_total", "Results sent to whoever asked for them, or why not.", "result"
        )
        self._callbacks_failed = self._counter(
            "worker_callbacks_failed_total", "Callbacks of ended jobs that could not be made."
        ).only
        lag = self._gauge("worker_loop_lag_seconds", "Worst delay of the event loop in the last 30 s.").only
        lag.set_function(self._worst_lag)
        build = self._gauge("worker_build_info", "1; the labels say what runs.", "version python")
        build.of(version, platform.python_version()).set(1)

    def job_started(self) -> None:
        self._jobs_running.inc()

    def job_ended(self) -> None:
        self._jobs_running.dec()

    def job_finished(self, type: str, outcome: str, seconds: float) -> None:
        """A job ended for good: `succeeded` or `dead`. `seconds` is the run time of its last attempt."""
        known = self._known(type)
        self._jobs.of(known, outcome).inc()
        self._job_seconds.of(known).observe(seconds)

    def attempt(self, type: str, result: str) -> None:
        """An attempt ended: succeeded, failed, snoozed, rejected or interrupted."""
        self._attempts.of(self._known(type), result).inc()

    def parked(self, reason: str) -> None:
        self._parked.of(reason).inc()

    def dead_lettered(self, reason: str) -> None:
        self._dead.of(reason).inc()

    def step_started(self) -> None:
        self._steps_running.inc()

    def step_ended(self) -> None:
        self._steps_running.dec()

    def http_request(self, host: str, result: str, seconds: float) -> None:
        """`result` is a status class (2xx) or a word for a failure; callers have a closed list of them."""
        self._requests.of(host, result).inc()
        self._http_seconds.of(host).observe(seconds)

    def limit_wait(self, limit: str, seconds: float) -> None:
        self._limit_wait.of(limit).observe(seconds)

    def limit_places(self, limit: str, places: int) -> None:
        self._limit_places.of(limit).set(places)

    def breaker(self, host: str, *, is_open: bool) -> None:
        gauge = self._breakers.of(host)
        if is_open and host not in self._open:
            self._open.add(host)
            gauge.inc()  # not set: `other` stands for many
        elif not is_open and host in self._open:
            self._open.remove(host)
            gauge.dec()

    def consuming(self, yes: bool) -> None:
        self._consuming.set(yes)

    def reconnected(self) -> None:
        self._reconnects.inc()

    def lost_ack(self) -> None:
        self._lost_acks.inc()

    def reply(self, result: str) -> None:
        self._replies.of(result).inc()

    def callback_failed(self) -> None:
        self._callbacks_failed.inc()

    def loop_lag(self, seconds: float) -> None:
        now = self._clock()
        while self._lags and self._lags[-1][1] <= seconds:  # a worse one makes those before it invisible
            self._lags.pop()
        self._lags.append((now, seconds))
        while self._lags[0][0] < now - LAG_WINDOW:
            self._lags.popleft()

    def snapshot(self) -> Snapshot:
        """All values now, as JSON can carry them. May be called in another thread."""
        return take_snapshot(self.registry)

    def text(self) -> str:
        """All values now, as Prometheus reads them. With 1000 hosts 0.1 s of work: call it in a thread."""
        return exposition([self.snapshot()])

    def _worst_lag(self) -> float:
        since = self._clock() - LAG_WINDOW
        return max((lag for at, lag in tuple(self._lags) if at >= since), default=0.0)

    def _known(self, job_type: str) -> str:
        return job_type if job_type in self._types else UNKNOWN

    def _counter(self, name: str, doc: str, labels: str = "", names: _Names | None = None) -> _Family[Counter]:
        return _Family(Counter(name, doc, labels.split(), registry=self.registry), names)

    def _gauge(self, name: str, doc: str, labels: str = "", names: _Names | None = None) -> _Family[Gauge]:
        return _Family(Gauge(name, doc, labels.split(), registry=self.registry), names)

    def _histogram(
        self, name: str, doc: str, labels: str, buckets: tuple[float, ...], names: _Names | None = None
    ) -> _Family[Histogram]:
        return _Family(Histogram(name, doc, labels.split(), buckets=buckets, registry=self.registry), names)


class _Names:
    """The first `most` names that come up; any later one is `other`, and so is one that no page could show.

    Shared by metrics with the same label.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def bounded(self, name: str) -> str:
        if name in self._seen:
            return name
        if len(self._seen) >= self._most or len(name) > LONGEST_NAME or not name.isprintable():
            return OTHER
        self._seen.add(name)
        return name


class _Family(Generic[M]):
    """A metric and its children, kept by label values: `labels()` costs more than all the rest of counting.

    `names` bounds the first label.
    """

    def __init__(self, metric: M, names: _Names | None) -> None:
        self.only: M = metric
        self._names = names
        self._children: dict[tuple[str, ...], M] = {}

    def of(self, *labels: str) -> M:
        return self._children.get(labels) or self._add(labels)

    def _add(self, labels: tuple[str, ...]) -> M:
        bounded = labels if self._names is None else (self._names.bounded(labels[0]), *labels[1:])
        if bounded != labels:
            return self.of(*bounded)
        child: M = self.only.labels(*labels)
        self._children[labels] = child
        return child
