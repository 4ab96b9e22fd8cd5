"""The queries of the dashboard and of the alert rules, and which metrics they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.deploy.tools import CHECKOUT
from worker.ops.metrics import Metrics

DEPLOY: Final = CHECKOUT / "deploy"
DASHBOARD: Final = DEPLOY / "grafana" / "worker.json"
RULES: Final = DEPLOY / "prometheus" / "worker.rules.yaml"

BROKERS: Final = frozenset(
    {
        "rabbitmq_alarms_free_disk_space_watermark",
        "rabbitmq_alarms_memory_used_watermark",
        "rabbitmq_detailed_queue_messages",
        "rabbitmq_detailed_queue_messages_ready",
        "rabbitmq_detailed_queue_messages_unacked",
    }
)
"""Metrics of the broker that may be asked for; a test looks for each at a real one."""

_METRIC: Final = re.compile(r"\b(?:worker|rabbitmq)_[a-z0-9_]+")
_VARIABLES: Final = {"$__rate_interval": "5m", "$__interval": "1m", "$job": "worker"}


@cache
def own_samples() -> Mapping[str, frozenset[str]]:
    """Every sample our /metrics page can have, with the labels it has."""
    registry = Metrics().registry
    samples: dict[str, frozenset[str]] = {}
    for metric in registry.collect():
        # Private, as the library has no other way to tell the labels of a metric nothing was counted of yet.
        collector: Any = registry._names_to_collectors[metric.name]
        labels = frozenset(collector._labelnames)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
        for suffix in suffixes:
            samples[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else frozenset())
    return samples


def metrics_in(query: str) -> set[str]:
    return set(_METRIC.findall(query))


def panels(dashboard: Path = DASHBOARD) -> Iterator[dict[str, Any]]:
    """Those with queries."""
    found: list[dict[str, Any]] = json.loads(dashboard.read_text(encoding="utf-8"))["panels"]
    yield from (panel for panel in found if panel["type"] != "row")


def dashboard_queries(dashboard: Path = DASHBOARD) -> list[str]:
    return [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]


def plain(query: str) -> str:
    """As Prometheus would get it, with Grafana's variables filled in."""
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    return query


def as_rules(queries: Iterable[str]) -> str:
    """The queries as recording rules: the form in which promtool reads them."""
    rules = [{"record": f"query:{number}", "expr": plain(query)} for number, query in enumerate(queries)]
    return json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})


def alerts() -> list[str]:
    """The alerts' names, in order."""
    return re.findall(r"^ +- alert: (\w+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)


def wrapped_rules(rules: Path = RULES) -> str:
    """What must stand under `spec:` of the PrometheusRule."""
    text = rules.read_text(encoding="utf-8")
    lines = text[text.index("groups:\n") :].splitlines(keepends=True)
    return "".join("  " + line if line.strip() else line for line in lines)
