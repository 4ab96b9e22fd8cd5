"""What `worker check` says without a broker: graces, memory, versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from worker.cli.check import of_version
from worker.cli.findings import Finding, Surroundings, memory_limit, of_settings, surroundings
from worker.ops.settings import Settings, load_settings

MIB = 1024 * 1024


Supervisor = Literal["kubernetes", "systemd", "container", ""]


def found(
    flags: Mapping[str, str], memory: int | None = None, supervisor: Supervisor = "", grace: float | None = None
) -> list[Finding]:
    loaded = load_settings(flags, {}, cwd="/nonexistent")
    return list(of_settings(loaded, Surroundings(memory, supervisor), grace))


def about(findings: list[Finding], word: str) -> Finding:
    (finding,) = [one for one in findings if one.what.startswith(word)]
    return finding


@pytest.mark.parametrize(
    ("supervisor", "grace", "drain", "level", "says"),
    [
        ("", None, "25s", "ok", "whatever ends the worker must wait longer"),
        ("kubernetes", None, "25s", "ok", "terminationGracePeriodSeconds must be longer, and is 30 s"),
        ("kubernetes", None, "40s", "warn", "terminationGracePeriodSeconds"),
        ("systemd", None, "60s", "ok", "TimeoutStopSec"),
        ("systemd", None, "2m", "warn", "TimeoutStopSec"),
        ("container", None, "25s", "warn", "stop_grace_period"),
        ("container", 30.0, "25s", "ok", "within the supervisor's grace 30s"),
        ("kubernetes", 20.0, "25s", "fail", "longer than the supervisor's grace 20s"),
    ],
)
def test_the_supervisor_must_wait_longer_than_the_drain(
    supervisor: Supervisor,
    grace: float | None,
    drain: str,
    level: str,
    says: str,
) -> None:
    finding = about(found({"drain_timeout": drain}, supervisor=supervisor, grace=grace), "drain_timeout")
    assert finding.level == level
    assert says in finding.what
    assert finding.fix or finding.level == "ok"


@pytest.mark.parametrize(
    ("memory", "flags", "level"),
    [
        (None, {}, "ok"),
        (512 * MIB, {}, "ok"),
        (200 * MIB, {}, "warn"),
        (512 * MIB, {"replicas": "4"}, "warn"),
        (512 * MIB, {"replicas": "4", "max_body": "64KiB"}, "ok"),
        (1024 * MIB, {"prefetch": "1000"}, "warn"),
    ],
)
def test_what_is_held_must_fit_into_the_memory(memory: int | None, flags: dict[str, str], level: str) -> None:
    finding = about(found(flags, memory), "prefetch")
    assert finding.level == level
    assert bool(finding.fix) is (level == "warn")


def test_doubts_have_a_fix() -> None:
    findings = found(
        {
            "amqp_url": "amqp://worker@rabbit.example.com",
            "http_allow": "0.0.0.0/0",
            "job_timeout": "5m",
            "step_timeout": "6m",
            "admin": "0.0.0.0:8080",
            "admin_token": "12345678",
        }
    )
    warned = [one for one in findings if one.level == "warn"]
    assert len(warned) >= 5
    assert [one.what for one in warned if not one.fix] == []


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_limit_of_the_control_group_counts(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    write(tmp_path, "proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n")
    assert memory_limit(tmp_path) == 2 * MIB
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert memory_limit(tmp_path) == 2 * MIB
    write(tmp_path, "sys/fs/cgroup/memory.max", f"{MIB}\n")
    assert memory_limit(tmp_path) == MIB
    write(tmp_path, "sys/fs/cgroup/memory.max", "what\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{1 << 63}\n")
    assert memory_limit(tmp_path) == 2 * MIB
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n")
    assert memory_limit(tmp_path) == 4096


def test_the_supervisor_is_guessed(tmp_path: Path) -> None:
    assert surroundings({}, tmp_path).supervisor == ""
    assert surroundings({"INVOCATION_ID": "1"}, tmp_path).supervisor == "systemd"
    write(tmp_path, ".dockerenv", "")
    assert surroundings({}, tmp_path).supervisor == "container"
    assert surroundings({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path).supervisor == "kubernetes"


@pytest.mark.parametrize(
    ("version", "flags", "levels"),
    [
        ("3.9.29", {}, ["ok", "fail"]),
        ("3.9.29", {"queue_type": "classic"}, ["ok"]),
        ("3.10.8", {}, ["ok"]),
        ("3.13.7", {}, ["ok"]),
        ("4.0.5", {}, ["ok", "warn", "warn"]),
        ("4.2.6", {"topology": "passive"}, ["ok", "warn", "warn", "warn"]),
        ("4.2.7", {}, ["ok", "warn"]),
        ("4.3.0", {}, ["ok", "warn", "warn"]),
        ("4.3.2+7.gabc", {}, ["ok", "warn"]),
        ("4.3.3", {}, ["ok"]),
        ("", {}, ["ok"]),
        ("four", {}, ["ok"]),
    ],
)
def test_versions_with_known_faults_are_told(version: str, flags: dict[str, str], levels: list[str]) -> None:
    settings: Settings = load_settings(flags, {}, cwd="/nonexistent").settings
    findings = list(of_version(version, "amqp://here/", settings))
    assert [one.level for one in findings] == levels
    assert all(one.fix for one in findings[1:])
