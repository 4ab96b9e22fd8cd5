"""What may go along when a redirect leads to another origin: one rule for both faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# A list of what may, since nobody can list every header that carries a secret.
_HARMLESS: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "user-agent", "idempotency-key", "traceparent", "tracestate"}
)


def harmless_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of a request's headers that may follow a redirect to another origin."""
    return {name: value for name, value in headers.items() if name.lower() in _HARMLESS}
