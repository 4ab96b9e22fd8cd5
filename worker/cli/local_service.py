"""What the admin listener of a `worker run` tells, for people who ask how it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from worker.ops.probe import ask, reason_of

if TYPE_CHECKING:
    from worker.ops.settings import Settings

OK: Final = 200
MOST: Final = 8 * 1024 * 1024
"""Bytes of a page."""


@dataclass(frozen=True, slots=True)
class LocalService:
    """What one service tells; `trouble` says why it does not.

    `ready` is what /ready says, `running` the number of its jobs, None where /jobs may not be asked. `held_back` are
    the hosts whose breaker is open.
    """

    address: str
    trouble: str = ""
    is_ready: bool = False
    ready: dict[str, Any] = field(default_factory=dict)
    running: int | None = None
    held_back: tuple[str, ...] = ()


def ask_local(settings: Settings) -> LocalService:
    """Ask the service that WORKER_ADMIN names. Never raises."""
    admin = settings.admin
    if admin is None:
        return LocalService("off", "WORKER_ADMIN is off")
    if admin.port == 0:
        return LocalService(str(admin), "WORKER_ADMIN has port 0: the worker picked one, and only its log tells which")
    token = settings.admin_token.reveal() if settings.admin_token else None
    try:
        pages = [
            ask(admin.host, admin.port, f"GET {path}", token, most=MOST) for path in ("/ready", "/jobs", "/metrics")
        ]
        (status, page), jobs, metrics = pages
        ready = _read_ready(page)
        running = len(json.loads(jobs[1])) if jobs[0] == OK else None
    except (OSError, ValueError) as error:
        is_other = isinstance(error, json.JSONDecodeError)
        return LocalService(str(admin), "what answers is no worker" if is_other else reason_of(error))
    return LocalService(
        str(admin),
        is_ready=status == OK,
        ready={name: value for name, value in ready.items() if name != "ok"},
        running=running,
        held_back=_open_breakers(metrics[1].decode("utf-8", "replace")),
    )


def _read_ready(page: bytes) -> dict[str, Any]:
    found = json.loads(page)
    if not isinstance(found, dict) or "ok" not in found:
        raise ValueError("what answers is no worker")
    return found


def _open_breakers(page: str) -> tuple[str, ...]:
    found = []
    for line in page.splitlines():
        name, _, rest = line.partition('{host="')
        host, _, value = rest.rpartition('"} ')
        if name == "worker_breaker_open" and value.strip() not in ("", "0", "0.0"):
            found.append(host)
    return tuple(sorted(found))
