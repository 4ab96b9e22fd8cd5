"""Alerts ask for what there is, are explained, and are shown to fire. When they do: `make check-deploy`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.queries import BROKERS, DEPLOY, RULES, alerts, metrics_in, own_samples, wrapped_rules
from worker.core.outcome import REASONS

RULES_TEXT = RULES.read_text(encoding="utf-8")
TESTS = RULES.with_name("worker.rules.test.yaml").read_text(encoding="utf-8")
RUNBOOK = (DEPLOY / "README.md").read_text(encoding="utf-8")
PROMETHEUS_RULE = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"


def test_they_ask_for_metrics_that_exist() -> None:
    code = "\n".join(line for line in RULES_TEXT.splitlines() if not line.lstrip().startswith("#"))
    asked = metrics_in(re.sub(r"queue_coarse_metrics", "", code))
    assert asked
    assert asked <= own_samples().keys() | BROKERS


def test_reasons_they_name_exist() -> None:
    named = {reason for words in re.findall(r'reason=~"([^"]+)"', RULES_TEXT) for reason in words.split("|")}
    assert named
    assert named <= REASONS - {"delivery_limit"}  # made by the broker, and never counted


@pytest.mark.parametrize("alert", alerts())
def test_each_is_in_the_runbook_and_is_tested(alert: str) -> None:
    assert f"### {alert}\n" in RUNBOOK
    assert re.search(rf'alertname: {alert}\n|alertname="{alert}"|[|"]{alert}[|"]', TESTS)


def test_the_runbook_explains_no_others() -> None:
    assert set(re.findall(r"^### (Worker\w+)$", RUNBOOK, re.MULTILINE)) == set(alerts())


def test_kubernetes_gets_the_same_rules() -> None:
    text = PROMETHEUS_RULE.read_text(encoding="utf-8")
    assert text.partition("spec:\n")[2] == wrapped_rules()


def test_rules_that_differ_would_be_seen(tmp_path: Path) -> None:
    other = tmp_path / "rules.yaml"
    other.write_text(RULES_TEXT.replace("for: 5m", "for: 6m", 1), encoding="utf-8")
    assert wrapped_rules(other) != wrapped_rules()
