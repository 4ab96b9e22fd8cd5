"""What `worker check` can say without a broker: settings that hardly fit each other, or the machine they are on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from worker.core.units import format_duration, format_size
from worker.ops.settings.contradictions import HANDBACK, doubts

if TYPE_CHECKING:
    from worker.ops.settings import Loaded

BASE_MEMORY: Final = 100 * 1024 * 1024
"""Bytes that a worker process takes without any job, roughly."""

_FIXES: Final[Mapping[tuple[str, ...], str]] = {
    ("job_timeout", "drain_timeout"): "raise WORKER_DRAIN_TIMEOUT and the supervisor's grace, or lower the job timeout",
    ("types", "drain_timeout"): "raise WORKER_DRAIN_TIMEOUT and the supervisor's grace, or lower the type's timeout",
    ("step_timeout", "job_timeout"): "lower WORKER_STEP_TIMEOUT, or raise WORKER_JOB_TIMEOUT",
    ("amqp_url",): "use amqps:// and WORKER_AMQP_CA",
    ("http_allow",): "name the networks and hosts that jobs need",
    ("admin", "admin_token"): "set WORKER_ADMIN_TOKEN_FILE, or WORKER_ADMIN=127.0.0.1:8080",
    ("admin_token",): "make a longer one, as with: openssl rand -hex 32",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how it is, what was looked at, and what to do about it."""

    level: Literal["ok", "warn", "fail"]
    what: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"  ({self.fix})" if self.fix else ""
        return f"{self.level:<4}  {self.what}{fix}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the command runs. `memory` in bytes, None when nobody tells; `supervisor` what ends processes here."""

    memory: int | None
    supervisor: Literal["kubernetes", "systemd", "container", ""]


GRACE: Final = {
    "kubernetes": (30.0, "terminationGracePeriodSeconds", "30 s unless the pod says otherwise"),
    "systemd": (90.0, "TimeoutStopSec", "90 s unless the unit says otherwise"),
    "container": (10.0, "docker stop --time, or stop_grace_period of compose", "10 s unless told otherwise"),
}
"""How long a supervisor waits after SIGTERM by default, and what sets it."""


def surroundings(environ: Mapping[str, str], root: Path = Path("/")) -> Surroundings:
    """What can be known of where this runs."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        return Surroundings(memory_limit(root), "kubernetes")
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return Surroundings(memory_limit(root), "container")
    return Surroundings(memory_limit(root), "systemd" if "INVOCATION_ID" in environ else "")


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that may be used here: the control group's limit, else what the machine has."""
    found = [_number(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    limits = [limit for limit in (*found, _machine(root / "proc/meminfo")) if limit is not None]
    return min(limits, default=None)


def of_settings(loaded: Loaded, around: Surroundings, grace: float | None) -> Iterator[Finding]:
    """Everything about the settings. `grace` in seconds is what the supervisor waits, None if nobody said."""
    settings = loaded.settings
    yield Finding("ok", f"settings: {len(loaded.sources)} set, the rest by default", "worker config shows them")
    broker = f"the broker's own must not be shorter than {format_duration(settings.consumer_timeout)}"
    yield Finding("ok", f"{loaded.where('job_timeout')} is below {loaded.where('consumer_timeout')}", broker)
    if settings.queue_type == "classic":
        text = f"{loaded.where('queue_type')}: a lost broker node can lose jobs"
        yield Finding("warn", text, "use quorum where the broker has it")
    for doubt in doubts(settings, loaded.where):
        yield Finding("warn", doubt.text, _FIXES.get(doubt.about, ""))
    yield _of_grace(loaded, around, grace)
    yield _of_memory(loaded, around)


def _of_grace(loaded: Loaded, around: Surroundings, grace: float | None) -> Finding:
    drain = loaded.settings.drain_timeout
    where, needed = loaded.where("drain_timeout"), format_duration(drain + HANDBACK)
    if grace is not None:
        if grace < drain:
            text = f"{where} is longer than the supervisor's grace {format_duration(grace)}, which ends it early"
            return Finding("fail", text, f"give it {needed} or more, or lower WORKER_DRAIN_TIMEOUT")
        return Finding("ok", f"{where} is within the supervisor's grace {format_duration(grace)}")
    if not around.supervisor:
        return Finding(
            "ok", f"{where}: whatever ends the worker must wait longer", f"{needed} or more; --grace checks it"
        )
    usual, name, default = GRACE[around.supervisor]
    level: Literal["ok", "warn"] = "warn" if usual < drain else "ok"
    return Finding(level, f"{where}: {name} must be longer, and is {default}", f"{needed} or more; --grace checks it")


def _of_memory(loaded: Loaded, around: Surroundings) -> Finding:
    settings = loaded.settings
    bodies = settings.replicas * settings.prefetch * settings.max_body
    needed = bodies + settings.replicas * BASE_MEMORY
    where = f"{loaded.where('prefetch')} x max_body {format_size(settings.max_body)} x replicas {settings.replicas}"
    if around.memory is None:
        return Finding("ok", f"{where}: up to {_mib(bodies)} of bodies, and about {_mib(needed)} in all")
    if needed > around.memory:
        text = f"{where}: {_mib(bodies)} of bodies, about {_mib(needed)} in all, and here are {_mib(around.memory)}"
        return Finding("warn", text, "lower WORKER_PREFETCH with WORKER_CONCURRENCY, or WORKER_MAX_BODY; or give more")
    return Finding("ok", f"{where}: about {_mib(needed)} in all, of {_mib(around.memory)}")


def _mib(size: int) -> str:
    return f"{size / (1024 * 1024):.0f} MiB"


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    # Without a limit it is "max", or by the older kind a number beyond all memory.
    return int(text) if text.isdecimal() and int(text) < 1 << 60 else None


def _machine(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    total = next((line.split()[1] for line in lines if line.startswith("MemTotal:")), "")
    return int(total) * 1024 if total.isdecimal() else None


def here() -> Surroundings:
    """Where this process runs."""
    return surroundings(os.environ)
