"""W3C trace context on requests, without a tracing library."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from worker.core.job import Job

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


def child_traceparent(job: Job) -> str:
    """A `traceparent` of the publisher's trace; of a trace named after the job id when there is none."""
    given = job.headers.get("traceparent")
    match = _TRACEPARENT.match(given) if isinstance(given, str) else None
    trace, flags = (match[1], match[3]) if match else (hashlib.sha256(job.id.encode()).hexdigest()[:32], "00")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"
