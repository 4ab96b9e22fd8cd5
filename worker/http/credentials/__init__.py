"""Credentials by name: bound to origins, given to a request at the last moment, and never shown.

kinds.py     what they are          store.py    who may use which where
tokens.py    OAuth 2.0 tokens       tls.py      certificates       signing.py   Standard Webhooks
"""

from __future__ import annotations

from worker.http.credentials.kinds import (
    ApiHeader,
    Basic,
    Bearer,
    ClientCredentials,
    Credential,
    Extras,
    Notice,
    SigningKeys,
    TlsFiles,
)
from worker.http.credentials.store import Credentials

__all__ = [
    "ApiHeader",
    "Basic",
    "Bearer",
    "ClientCredentials",
    "Credential",
    "Credentials",
    "Extras",
    "Notice",
    "SigningKeys",
    "TlsFiles",
]
