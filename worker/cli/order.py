"""How the parent of `worker run` starts its children, and what it tells them. Imports little, as the parent does."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from worker.ops.settings import Settings


@dataclass(frozen=True, slots=True)
class Order:
    """All a child needs to know. `admin` is where the admin listener is bound."""

    settings: Settings
    apps: tuple[str, ...]
    builtin: bool
    admin: tuple[str, int] | None
    version: str
    json_logs: bool


@dataclass(frozen=True, slots=True)
class CpuOrder:
    """All a process for CPU-bound work needs to know: how to log."""

    log: str
    json_logs: bool


def command(role: str) -> tuple[str, ...]:
    """How to start a child; the line's descriptor comes last."""
    return (sys.executable, "-m", "worker.cli.child", role)


def cpu_command() -> tuple[str, ...]:
    """How to start a process for CPU-bound work; the line's descriptor comes last."""
    return (sys.executable, "-m", "worker.cli.cpu_child")
