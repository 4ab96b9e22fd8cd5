"""Every check of deploy/ that a program has to make, and for each a fault that it must find.

A check takes the folder and gives a list of faults, empty when all is well; it raises Missing where its program is not.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.deploy.manifests import check_deployment, check_own_kinds, check_pods_meant, is_own_kind, read_yaml
from tests.deploy.queries import as_rules, dashboard_queries
from tests.deploy.tools import Done, compose, installed, kustomize, promtool, run, wheel
from worker.ops.metrics import Metrics

KUBERNETES: Final = ("1.30", "1.37")
"""The oldest and the newest that the manifests are held against."""

MOST_EXPOSED: Final = 20
"""Tenths of systemd-analyze's exposure level, of 100."""

_KUSTOMIZATIONS: Final = ("overlays/dev", "overlays/prod", "rabbitmq")
_UNIT: Final = "worker@.service"


def dockerfile(deploy: Path) -> list[str]:
    return _faults(run([wheel("hadolint"), "--no-color", deploy / "Dockerfile"]))


def compose_schema(deploy: Path) -> list[str]:
    command = [wheel("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", deploy / "compose.yaml"]
    return _faults(run(command))


def compose_config(deploy: Path) -> list[str]:
    """What the schema cannot see: names that nothing is called, files that are not there."""
    with copied(deploy) as copy:
        made = run(["sh", "compose/make-secrets.sh"], where=copy)
        if made.code:
            return _faults(made)
        file = copy / "compose.yaml"
        command = [*compose(), "-f", file, "--profile", "watch", "config", "--format", "json"]
        done = run(command, where=copy)
        return _faults(done) or list(_missing_files(json.loads(done.output)))


def kubernetes(deploy: Path) -> list[str]:
    return [f"{name}: {fault}" for name in _KUSTOMIZATIONS for fault in _kustomization(deploy / "kubernetes" / name)]


def alert_rules(deploy: Path) -> list[str]:
    tool = promtool()
    rules, tests = (deploy / "prometheus" / name for name in ("worker.rules.yaml", "worker.rules.test.yaml"))
    return _faults(run([tool, "check", "rules", rules])) + _faults(run([tool, "test", "rules", tests]))


def prometheus_config(deploy: Path) -> list[str]:
    with copied(deploy) as copy:
        shutil.copytree(copy / "prometheus", copy / "compose" / "rules")
        return _faults(run([promtool(), "check", "config", copy / "compose" / "prometheus.yml"]))


def dashboard(deploy: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "queries.json"
        rules.write_text(as_rules(dashboard_queries(deploy / "grafana" / "worker.json")), encoding="utf-8")
        return _faults(run([promtool(), "check", "rules", rules]))


def provisioning(deploy: Path) -> list[str]:
    """Grafana itself is not to be had: its files are at least YAML that names what is there."""

    def read(name: str) -> Any:
        return read_yaml((deploy / name).read_text(encoding="utf-8"))[0]

    sources = read("compose/grafana/datasources.yaml")["datasources"]
    folders = read("compose/grafana/dashboards.yaml")["providers"]
    mounts = read("compose.yaml")["services"]["grafana"]["volumes"]
    targets = [mount.split(":")[1] for mount in mounts]
    faults = [f"{one['options']['path']} is not mounted" for one in folders if one["options"]["path"] not in targets]
    return faults + [f"no data source at {one['url']}" for one in sources if one["url"] != "http://prometheus:9090"]


def metrics_page(_: Path) -> list[str]:
    return _faults(run([promtool(), "check", "metrics"], given=Metrics().text()))


def systemd_unit(deploy: Path) -> list[str]:
    """`verify` prints what is wrong and ends with 0; the program need not be on this machine."""
    analyze = installed("systemd-analyze", "check the unit on a machine that has systemd")
    unit = deploy / "systemd" / _UNIT
    with tempfile.TemporaryDirectory() as folder:
        startable = Path(folder) / _UNIT
        text = re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/sh", unit.read_text(encoding="utf-8"))
        startable.write_text(text, encoding="utf-8")
        said = run([analyze, "verify", startable]).said
    exposed = run([analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit])
    return said.splitlines() + ([exposed.said.splitlines()[-1]] if exposed.code else [])


@dataclass(frozen=True, slots=True)
class Check:
    """`planted` is a fault that `look` must find, as a file, a text in it, and what stands there instead."""

    name: str
    look: Callable[[Path], list[str]]
    planted: tuple[str, str, str] | None

    def finds_planted(self, deploy: Path) -> bool:
        """Whether it sees the fault in a copy of `deploy`. Raises Missing."""
        if self.planted is None:
            return True
        name, right, wrong = self.planted
        with copied(deploy) as copy:
            file = copy / name
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(right, wrong, 1), encoding="utf-8")
            return file.read_text(encoding="utf-8") != text and bool(self.look(copy))


CHECKS: Final = (
    Check("Dockerfile (hadolint)", dockerfile, ("Dockerfile", "USER 10001:10001", "USER root")),
    Check("compose.yaml (schema)", compose_schema, ("compose.yaml", "mem_limit:", "memory_limit:")),
    Check(
        "compose.yaml (docker compose config)", compose_config, ("compose.yaml", "      - amqp-url\n", "      - nope\n")
    ),
    Check(
        "kubernetes (kustomize, schemas, policy)",
        kubernetes,
        ("kubernetes/base/deployment.yaml", "terminationGracePeriodSeconds: 80", "terminationGracePeriodSeconds: 30"),
    ),
    Check(
        "kubernetes (custom resources)",
        kubernetes,
        ("kubernetes/components/keda/scaledobject.yaml", "minReplicaCount: 2", "minReplicaCount: 0"),
    ),
    Check(
        "alert rules (promtool check and test)",
        alert_rules,
        ("prometheus/worker.rules.yaml", '|tls"}[15m]) > 0\n', '|tls"}[15m])\n'),
    ),
    Check(
        "prometheus.yml (promtool)",
        prometheus_config,
        ("compose/prometheus.yml", "refresh_interval: 10s", "refresh: 10s"),
    ),
    Check(
        "dashboard queries (promtool)", dashboard, ("grafana/worker.json", "sum by (type, outcome) (", "sum by (type (")
    ),
    Check(
        "Grafana provisioning (read only)",
        provisioning,
        ("compose/grafana/dashboards.yaml", "/var/lib/grafana/dashboards/worker", "/etc/elsewhere"),
    ),
    Check("/metrics page (promtool)", metrics_page, None),
    Check(
        "systemd unit (systemd-analyze)",
        systemd_unit,
        ("systemd/worker@.service", "ProtectHome=yes", "ProtectHome=maybe"),
    ),
)


@contextmanager
def copied(deploy: Path) -> Iterator[Path]:
    """A copy, in which secrets may be made and faults planted; the folder itself stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "deploy"
        shutil.copytree(deploy, copy, ignore=shutil.ignore_patterns("secrets"))
        yield copy


def _faults(done: Done) -> list[str]:
    return (done.said.splitlines() or [f"ended with {done.code}"]) if done.code else []


def _missing_files(config: dict[str, dict[str, dict[str, str]]]) -> Iterator[str]:
    for kind in ("configs", "secrets"):
        for name, entry in config[kind].items():
            if not Path(entry["file"]).is_file():
                yield f"{kind} {name}: there is no {entry['file']}"


def _kustomization(folder: Path) -> Iterator[str]:
    built = run([*kustomize(), folder])
    if built.code:
        yield from _faults(built)
        return
    manifests = read_yaml(built.output)
    ours = [one for one in manifests if is_own_kind(one)]
    yield from check_own_kinds(ours)
    yield from check_pods_meant(manifests)
    for one in manifests:
        if one["kind"] == "Deployment":
            yield from check_deployment(one)
    with tempfile.TemporaryDirectory() as work:
        files = [Path(work) / f"{number}.json" for number in range(len(manifests))]
        for file, one in zip(files, manifests, strict=True):
            file.write_text(json.dumps(one), encoding="utf-8")
        core = [file for file, one in zip(files, manifests, strict=True) if one not in ours]
        for version in KUBERNETES:
            command = [wheel("kubernetes-validate"), "--strict", "--quiet", "-k", version, *core]
            yield from _faults(run(command))
