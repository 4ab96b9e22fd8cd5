"""worker: takes jobs off RabbitMQ, runs their network-heavy steps within limits, acknowledges them when done."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.core.outcome import Reject, Retry, Snooze
    from worker.core.strict_json import loads as read_json
    from worker.runtime.context import Context
    from worker.runtime.quick_retry import StepRetry
    from worker.runtime.registry import Registry
    from worker.runtime.transport import (
        Gate,
        Headers,
        Limits,
        MaybeSent,
        NotSent,
        Request,
        RequestError,
        RequestTimeout,
        Response,
        StatusError,
    )

__all__ = [
    "Context",
    "Gate",
    "Headers",
    "Limits",
    "MaybeSent",
    "NotSent",
    "Registry",
    "Reject",
    "Request",
    "RequestError",
    "RequestTimeout",
    "Response",
    "Retry",
    "Snooze",
    "StatusError",
    "StepRetry",
    "read_json",
]

_HOMES = {
    "Context": "worker.runtime.context",
    "Registry": "worker.runtime.registry",
    "Reject": "worker.core.outcome",
    "Retry": "worker.core.outcome",
    "Snooze": "worker.core.outcome",
    "StepRetry": "worker.runtime.quick_retry",
    "read_json": "worker.core.strict_json:loads",
}


def __getattr__(name: str) -> Any:
    # Looked up when first used: `worker --help` and the probe import this package, and need none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, _, name_there = _HOMES.get(name, "worker.runtime.transport").partition(":")
    found = globals()[name] = getattr(import_module(home), name_there or name)
    return found
