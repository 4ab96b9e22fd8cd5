"""Metrics of several processes as one: snapshots that travel as JSON, and the text of their sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypedDict

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

_LARGEST: Final = frozenset({"worker_loop_lag_seconds", "worker_breaker_open", "worker_build_info"})
"""Gauges whose sum over processes means nothing: the largest value stands for all."""


class Family(TypedDict):
    """One metric. A sample is its name, its labels in order, and its value."""

    name: str
    type: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


Snapshot = list[Family]
"""Every metric of one process; JSON-able."""


def take_snapshot(registry: CollectorRegistry) -> Snapshot:
    return [
        Family(
            name=metric.name,
            type=metric.type,
            help=metric.documentation,
            # `_created` times are a format's oddity: they double the page, and do not add up
            samples=[(one.name, one.labels, one.value) for one in metric.samples if not one.name.endswith("_created")],
        )
        for metric in registry.collect()
    ]


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of all; the largest value of loop lag, breakers and build info."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for snapshot in snapshots for family in snapshot):
        name = family["name"]
        families.setdefault(name, family)
        sums = values.setdefault(name, {})
        for sample, labels, value in family["samples"]:
            key = (sample, tuple(labels.items()))
            known = sums.get(key)
            if known is None:
                sums[key] = value
            else:
                sums[key] = max(known, value) if name in _LARGEST else known + value
    return [
        {**family, "samples": [(sample, dict(labels), value) for (sample, labels), value in values[name].items()]}
        for name, family in families.items()
    ]


def totals(snapshots: Iterable[Snapshot]) -> Snapshot:
    """What stays of processes that have ended: their counters and histograms, so that no total ever goes down."""
    return [family for family in merge(snapshots) if family["type"] in ("counter", "histogram")]


def exposition(snapshots: Iterable[Snapshot]) -> str:
    """The page Prometheus reads (text format 0.0.4) of all snapshots together."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(merge(snapshots)))
    return generate_latest(registry).decode()


class _Merged(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in self._snapshot:
            metric = Metric(family["name"], family["help"], family["type"])
            for name, labels, value in family["samples"]:
                metric.add_sample(name, labels, value)
            yield metric
