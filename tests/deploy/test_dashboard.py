"""The dashboard asks for what there is. What promtool thinks of its queries: `make check-deploy`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.deploy.queries import BROKERS, DASHBOARD, dashboard_queries, metrics_in, own_samples, panels, plain

PROMETHEUS_LABELS = {"job", "instance", "queue"}
"""Labels that do not come from our page."""

TITLES = [panel["title"] for panel in panels()]


def labels_in(query: str) -> set[str]:
    """Those it groups or selects by."""
    grouped = [name for names in re.findall(r"\bby \(([^)]*)\)", query) for name in names.split(", ")]
    return {*grouped, *re.findall(r"[{,]\s*([a-z_]+)\s*[=!]", query)}


@pytest.mark.parametrize("query", dashboard_queries())
def test_a_query_asks_for_metrics_and_labels_that_exist(query: str) -> None:
    own, asked = own_samples(), metrics_in(query)
    assert asked
    assert asked <= own.keys() | BROKERS
    for metric in asked & own.keys():
        assert labels_in(query) <= own[metric] | PROMETHEUS_LABELS


def test_every_metric_of_ours_is_shown() -> None:
    shown = {metric for query in dashboard_queries() for metric in metrics_in(query)}
    families = {re.sub(r"_(bucket|sum|count)$", "", sample) for sample in own_samples()}
    assert families == {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in shown - BROKERS}


def test_titles_and_ids_are_told_apart() -> None:
    everything = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    ids = [panel["id"] for panel in everything]
    assert len(set(ids)) == len(ids)
    by_place = [(panel["title"], panel["gridPos"]["y"]) for panel in everything]
    assert len(set(by_place)) == len(by_place)


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", list(panels()), ids=TITLES)
def test_a_panel_says_what_it_shows_and_asks_the_source_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["description"]
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@pytest.mark.parametrize("query", dashboard_queries())
def test_every_variable_of_a_query_is_known(query: str) -> None:
    assert "$" not in plain(query)
