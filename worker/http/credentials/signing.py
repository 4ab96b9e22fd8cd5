"""Standard Webhooks signatures: who sends it, and that nothing was changed or sent again later."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable

from worker.http.credentials.kinds import SIGNATURE_HEADERS

_PLAIN_ID = re.compile(r"[!-\-/-~]+")  # visible ASCII without the dot, which ends the id in what is signed


def signature_headers(id: str, seconds: int, body: bytes, keys: Iterable[bytes]) -> dict[str, str]:
    """The three headers: `id` stays the same over retries, `seconds` (epoch) is the moment of this try.

    An id that could be mistaken for something else (it holds a dot, or no plain text) is replaced by its hash.
    """
    plain = id if _PLAIN_ID.fullmatch(id) else f"sha256-{hashlib.sha256(id.encode()).hexdigest()}"
    signed = b"%s.%d.%s" % (plain.encode(), seconds, body)
    signatures = " ".join(f"v1,{_signature(key, signed)}" for key in keys)
    return dict(zip(SIGNATURE_HEADERS, (plain, str(seconds), signatures), strict=True))


def _signature(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
