"""worker: takes jobs off RabbitMQ, runs their network-heavy steps within limits, acknowledges them when done."""

from worker.core.outcome import Reject, Retry, Snooze
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
]
