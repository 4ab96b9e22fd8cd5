"""worker: takes jobs off RabbitMQ, runs their network-heavy steps within limits, acknowledges them when done."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.core.child import ChildJob
    from worker.core.outcome import Reject, Retry, Snooze
    from worker.core.result import Result
    from worker.core.strict_json import loads as read_json
    from worker.httpx_face import httpx_client, is_transient
    from worker.runtime.clock import SystemClock
    from worker.runtime.context import Context
    from worker.runtime.cpu import CpuProcessDied
    from worker.runtime.crossing import harmless_headers
    from worker.runtime.quick_retry import StepRetry
    from worker.runtime.registry import Registry
    from worker.runtime.statuses import asks_to_wait, is_retried, named_wait
    from worker.runtime.transport import (
        BadAnswer,
        Call,
        CredentialUnavailable,
        Gate,
        Headers,
        Limits,
        MaybeSent,
        NotInTime,
        NotSent,
        Request,
        RequestError,
        RequestTimeout,
        Response,
        StatusError,
        mark_sent,
        may_be_sent,
    )

__all__ = [
    "BadAnswer",
    "Call",
    "ChildJob",
    "Context",
    "CpuProcessDied",
    "CredentialUnavailable",
    "Gate",
    "Headers",
    "Limits",
    "MaybeSent",
    "NotInTime",
    "NotSent",
    "Registry",
    "Reject",
    "Request",
    "RequestError",
    "RequestTimeout",
    "Response",
    "Result",
    "Retry",
    "Snooze",
    "StatusError",
    "StepRetry",
    "SystemClock",
    "asks_to_wait",
    "harmless_headers",
    "httpx_client",
    "is_retried",
    "is_transient",
    "mark_sent",
    "may_be_sent",
    "named_wait",
    "read_json",
]

_HOMES = {
    "ChildJob": "worker.core.child",
    "Context": "worker.runtime.context",
    "CpuProcessDied": "worker.runtime.cpu",
    "Registry": "worker.runtime.registry",
    "Reject": "worker.core.outcome",
    "Result": "worker.core.result",
    "Retry": "worker.core.outcome",
    "Snooze": "worker.core.outcome",
    "StepRetry": "worker.runtime.quick_retry",
    "SystemClock": "worker.runtime.clock",
    "asks_to_wait": "worker.runtime.statuses",
    "harmless_headers": "worker.runtime.crossing",
    "httpx_client": "worker.httpx_face",
    "is_retried": "worker.runtime.statuses",
    "is_transient": "worker.httpx_face",
    "named_wait": "worker.runtime.statuses",
    "read_json": "worker.core.strict_json:loads",
}


def __getattr__(name: str) -> Any:
    # Looked up when first used: `worker --help` and the probe import this package, and need none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, _, name_there = _HOMES.get(name, "worker.runtime.transport").partition(":")
    found = globals()[name] = getattr(import_module(home), name_there or name)
    return found
