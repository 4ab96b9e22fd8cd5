"""What Kubernetes manifests must say beyond their schemas, so that a worker runs there as it promises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.deploy.tools import run, wheel
from worker.core.units import parse_duration

Manifest = dict[str, Any]

SPARE: Final = 10.0
"""Seconds the supervisor must wait longer than the drain takes."""

_OWN_KINDS: Final = Path(__file__).with_name("kinds.json")

_WORKERS: Final = {"app.kubernetes.io/name": "worker"}
_BROKERS: Final = {"app.kubernetes.io/component": "rabbitmq"}

_VOLUMES: Final = frozenset(
    ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
)
"""The kinds of volumes that `restricted` leaves."""

_READ: Final = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)"
_CHECK: Final = """
import json, sys, jsonschema
schemas, manifests = json.load(sys.stdin)
for one in manifests:
    schema = schemas[one["apiVersion"] + "/" + one["kind"]]
    for fault in jsonschema.Draft202012Validator(schema).iter_errors(one["spec"]):
        print(f"{one['kind']} {one['metadata']['name']}: {fault.json_path}: {fault.message}")
"""


@cache
def own_kinds() -> dict[str, Any]:
    """Our own schemas of the fields we use of kinds that are no part of Kubernetes, by apiVersion and kind."""
    found: dict[str, Any] = json.loads(_OWN_KINDS.read_text(encoding="utf-8"))
    return found


def read_yaml(text: str) -> list[Any]:
    """All documents of a YAML text. Raises Missing."""
    done = run([wheel("python"), "-c", _READ], given=text)
    if done.code:
        raise ValueError(done.said.splitlines()[-1])
    found: list[Any] = json.loads(done.output)
    return found


def is_own_kind(manifest: Manifest) -> bool:
    return f"{manifest['apiVersion']}/{manifest['kind']}" in own_kinds()


def check_own_kinds(manifests: Iterable[Manifest]) -> list[str]:
    """What is wrong with those that Kubernetes itself has no schema of. Raises Missing."""
    done = run([wheel("python"), "-c", _CHECK], given=json.dumps([own_kinds(), list(manifests)]))
    return done.said.splitlines()


def check_deployment(manifest: Manifest) -> Iterator[str]:
    """What a Deployment of workers must have, whatever else an overlay changes."""
    spec = manifest["spec"]["template"]["spec"]
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false: a Service called worker would be read as settings"
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    if not manifest["spec"]["selector"]["matchLabels"].items() <= labels.items():
        yield "the selector does not match the pods' labels"
    for container in spec["containers"]:
        yield from _check_time(container, spec)
        yield from _check_probes(container)
        yield from _check_restricted(container, spec)


def check_pods_meant(manifests: Iterable[Manifest]) -> Iterator[str]:
    """Budgets, policies and monitors that select nothing, or more than the workers."""
    for one in manifests:
        wanted = _BROKERS if one["metadata"]["name"] == "worker-broker" else _WORKERS
        match one["kind"]:
            case "PodDisruptionBudget" | "PodMonitor":
                selector = one["spec"]["selector"]
            case "NetworkPolicy":
                selector = one["spec"]["podSelector"]
            case _:
                continue
        if selector.get("matchLabels") != wanted:
            yield f"{one['kind']} selects {selector}, not {wanted}"


def _check_time(container: Manifest, spec: Manifest) -> Iterator[str]:
    drain = next((one["value"] for one in container["env"] if one["name"] == "WORKER_DRAIN_TIMEOUT"), None)
    if drain is None:
        yield "WORKER_DRAIN_TIMEOUT is not stated beside terminationGracePeriodSeconds"
    elif spec.get("terminationGracePeriodSeconds", 30) < parse_duration(drain) + SPARE:
        yield f"terminationGracePeriodSeconds is not {SPARE:.0f} s above WORKER_DRAIN_TIMEOUT={drain}"


def _check_probes(container: Manifest) -> Iterator[str]:
    for probe, path in (("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")):
        asked = container.get(probe, {}).get("httpGet", {}).get("path")
        if asked != path:
            yield f"{probe} asks {asked}, not {path}"


def _check_restricted(container: Manifest, spec: Manifest) -> Iterator[str]:
    """Kubernetes' `restricted` pod security standard, and a root that cannot be written."""
    pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
        yield "runs as root, or may"
    if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no memory limit"
    for volume in spec.get("volumes", ()):
        if not volume.keys() - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']} is of a kind that `restricted` forbids"
