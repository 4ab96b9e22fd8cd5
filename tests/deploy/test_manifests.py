"""The judge of manifests finds what is planted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.manifests import check_deployment, check_pods_meant

LABELS = {"app.kubernetes.io/name": "worker"}


def deployment() -> dict[str, Any]:
    probes = {
        "startupProbe": {"httpGet": {"path": "/live"}},
        "livenessProbe": {"httpGet": {"path": "/live"}},
        "readinessProbe": {"httpGet": {"path": "/ready"}},
    }
    container = {
        "name": "worker",
        "env": [{"name": "WORKER_DRAIN_TIMEOUT", "value": "25s"}],
        "resources": {"limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **probes,
    }
    pod = {
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 35,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    template = {"metadata": {"labels": LABELS | {"more": "of them"}}, "spec": pod}
    return {"kind": "Deployment", "spec": {"selector": {"matchLabels": LABELS}, "template": template}}


Plant = Callable[[dict[str, Any], dict[str, Any]], object]
PLANTS: dict[str, Plant] = {
    "enableServiceLinks": lambda pod, _: pod.pop("enableServiceLinks"),
    "automountServiceAccountToken": lambda pod, _: pod.update(automountServiceAccountToken=True),
    "terminationGracePeriodSeconds": lambda pod, _: pod.update(terminationGracePeriodSeconds=34),
    "WORKER_DRAIN_TIMEOUT": lambda _, container: container.update(env=[]),
    "startupProbe": lambda _, container: container.pop("startupProbe"),
    "livenessProbe": lambda _, container: container.update(livenessProbe={"httpGet": {"path": "/ready"}}),
    "readinessProbe": lambda _, container: container.update(readinessProbe={"httpGet": {"path": "/live"}}),
    "root, or may": lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
    "seccomp": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "privileges": lambda _, container: container["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities": lambda _, container: container["securityContext"].update(capabilities={"drop": ["NET_RAW"]}),
    "write to its root": lambda _, container: container["securityContext"].pop("readOnlyRootFilesystem"),
    "memory limit": lambda _, container: container["resources"]["limits"].clear(),
    "forbids": lambda pod, _: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
}


def test_a_right_one_passes() -> None:
    assert list(check_deployment(deployment())) == []


@pytest.mark.parametrize("words", PLANTS)
def test_a_planted_fault_is_found_alone(words: str) -> None:
    planted = copy.deepcopy(deployment())
    pod = planted["spec"]["template"]["spec"]
    PLANTS[words](pod, pod["containers"][0])
    (found,) = check_deployment(planted)
    assert words in found


def test_a_selector_that_finds_no_pod() -> None:
    planted = deployment()
    planted["spec"]["selector"] = {"matchLabels": LABELS | {"version": "2"}}
    assert list(check_deployment(planted)) == ["the selector does not match the pods' labels"]


@pytest.mark.parametrize(
    ("kind", "field"),
    [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector"), ("PodMonitor", "selector")],
)
def test_what_selects_other_pods_is_found(kind: str, field: str) -> None:
    named = {"kind": kind, "metadata": {"name": "worker"}}
    right = named | {"spec": {field: {"matchLabels": LABELS}}}
    wrong = named | {"spec": {field: {}}}
    assert list(check_pods_meant([right])) == []
    assert len(list(check_pods_meant([right, wrong]))) == 1
