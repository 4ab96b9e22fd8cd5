"""What the admin listener of a `worker run` tells, for people who ask how it is."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from worker.ops.settings import Settings

SECONDS: Final = 3.0
MOST: Final = 8 * 1024 * 1024
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


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
    token = settings.admin_token.reveal() if settings.admin_token else ""
    try:
        status, page = _get(admin.host, admin.port, "/ready", token)
        ready = _read_ready(page)
        jobs, metrics = _get(admin.host, admin.port, "/jobs", token), _get(admin.host, admin.port, "/metrics", token)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return LocalService(str(admin), _reason(error))
    return LocalService(
        str(admin),
        is_ready=status == http.client.OK,
        ready={name: value for name, value in ready.items() if name != "ok"},
        running=len(json.loads(jobs[1])) if jobs[0] == http.client.OK else None,
        held_back=_open_breakers(metrics[1].decode("utf-8", "replace")),
    )


def _get(host: str, port: int, path: str, token: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(_ANYWHERE.get(host, host), port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read(MOST)
    finally:
        connection.close()


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


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, json.JSONDecodeError):
        return "what answers is no worker"
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
