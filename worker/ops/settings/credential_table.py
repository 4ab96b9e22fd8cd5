"""[credentials.NAME] of worker.toml: its cells, and which of them make one credential."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from worker.ops.settings import kinds
from worker.ops.settings.addresses import parse_origin
from worker.ops.settings.catalogue import Credential, Setting
from worker.ops.settings.kinds import Kind, shortened
from worker.ops.settings.secret import MASK, Secret
from worker.ops.settings.sources import FILE_SUFFIX

KEY_BYTES: Final = range(24, 65)
MOST_KEYS: Final = 2

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # as in a job: worker/http/jobs/fields.py
_KEY: Final = re.compile(r"whsec_([A-Za-z0-9+/]+)={0,2}")
_SEPARATORS: Final = re.compile(r"[\s,]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_USER: Final = re.compile(r"[^:\x00-\x1f\x7f-\x9f]{1,255}")
_PASSWORD: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
# What the worker makes itself, from the request or for its job; httpx brings an Accept and a User-Agent of its own.
_OWN_HEADERS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"}
    | {"content-type", "accept", "accept-encoding", "user-agent", "idempotency-key", "traceparent", "tracestate"}
    | {"webhook-id", "webhook-timestamp", "webhook-signature"}
)

_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "bearer": ("bearer",),
    "basic": ("user", "password"),
    "header": ("header", "value"),
    "OAuth 2.0": ("token_url", "client_id", "client_secret"),
    "signing": ("signing_key",),
}
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {"OAuth 2.0": ("scope", "audience")}
_ANY: Final = (
    "bearer_file missing (or user and password_file, header and value_file, token_url with client_id and"
    " client_secret_file, signing_key_file, cert_file and key_file, or ca_file)"
)


def signing_keys(text: str) -> tuple[bytes, ...]:
    """The keys in `whsec_<base64>[,whsec_<base64>]`; a ValueError that shows nothing of them."""
    found = [part for part in _SEPARATORS.split(text) if part]
    if not 1 <= len(found) <= MOST_KEYS:
        raise ValueError(f"{len(found)} keys: one is needed, or two while a receiver goes over to the second")
    return tuple(_key(part) for part in found)


def check_name(name: str) -> None:
    """A ValueError for a name that no job can say."""
    if not _NAME.fullmatch(name):
        raise ValueError("a job could not name it: 1 to 100 letters without accents, digits, _ . and - are needed")


def credential_of(cells: Mapping[str, Any], files: Mapping[str, Path]) -> Credential:
    """The credential; a ValueError for cells that are missing, or that belong to different kinds."""
    missing = [*_missing(cells), *(["origins missing"] if "origins" not in cells else [])]
    if missing:
        raise ValueError(" and ".join(missing))
    credential = Credential(**{"bearer": None, **cells}, files=dict(files))
    _check_tls(credential)
    return credential


def _missing(cells: Mapping[str, Any]) -> list[str]:
    begun = {name: parts for name, parts in _KINDS.items() if any(part in cells for part in _all_of(name))}
    if len(begun) > 1:
        first, second = (next(part for part in _all_of(name) if part in cells) for name in [*begun][:2])
        raise ValueError(f"{first} and {second} are of different kinds: make two credentials of them")
    if "signing" in begun and "cert_file" in cells:
        raise ValueError("cert_file and signing_key are of different kinds: make two credentials of them")
    has_tls = any(part in cells for part in ("cert_file", "key_file", "ca_file"))
    if not begun and not has_tls:
        return [_ANY]
    wanted = [part for parts in begun.values() for part in parts]
    wanted += ["cert_file", "key_file"] if "cert_file" in cells or "key_file" in cells else []
    return [f"{_spelt(part)} missing" for part in wanted if part not in cells]


def _all_of(kind: str) -> tuple[str, ...]:
    return _KINDS[kind] + _OPTIONAL.get(kind, ())


def _spelt(name: str) -> str:
    return name + FILE_SUFFIX if name in SECRETS else name


def _check_tls(credential: Credential) -> None:
    if credential.cert_file is None and credential.ca_file is None:
        return
    import ssl  # `worker --help` reads this file, and has no use for it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if credential.cert_file is not None and credential.key_file is not None:
        try:
            context.load_cert_chain(credential.cert_file, credential.key_file, password="")
        except OSError:  # an ssl.SSLError is one
            raise ValueError(
                "cert_file and key_file are no certificate and its key: PEM files that belong together are needed,"
                " the key without a password"
            ) from None
    if credential.ca_file is not None:
        try:
            context.load_verify_locations(credential.ca_file)
        except OSError:
            raise ValueError("ca_file holds no certificates: a PEM file is needed") from None


def _key(text: str) -> bytes:
    found = _KEY.fullmatch(text)
    try:
        key = b"" if found is None else base64.b64decode(found[1] + "==")  # some leave the padding out
    except binascii.Error:
        key = b""
    if len(key) not in KEY_BYTES:
        raise ValueError(f"a key is not whsec_<base64> of {KEY_BYTES[0]} to {KEY_BYTES[-1]} bytes")
    return key


def _secret(pattern: re.Pattern[str], what: str) -> Kind[Secret]:
    def parse(text: str) -> Secret:
        if not pattern.fullmatch(text):
            raise ValueError(f"not {what}")
        return Secret(text)

    return Kind(parse, lambda _: MASK, secret=True)


def _signing_key(text: str) -> Secret:
    signing_keys(text)
    return Secret(text)


def _header_name(text: str) -> str:
    lower = text.lower()
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{_name_in(text)} is not a header name such as X-Api-Key")
    if lower in _OWN_HEADERS or lower.startswith("proxy-"):
        raise ValueError(f"{shortened(text)} is a header that the worker sets itself")
    return text


def _user(text: str) -> str:
    if not _USER.fullmatch(text):
        raise ValueError(f"{_name_in(text)} is not a user name: 1 to 255 printable characters without a colon")
    return text


def _name_in(text: str) -> str:
    """A name as messages show it; behind a colon there is the secret, written into the wrong place."""
    name, colon, _ = text.partition(":")
    return shortened(name + (colon and f":{MASK}"))


def _token_url(text: str) -> str:
    trouble = (
        "not a URL of a token endpoint: write https://host/path, the host as a name or a whole address, without user"
        " name, password and fragment"
    )
    try:
        parts = urlsplit(text)
        parse_origin(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        raise ValueError(trouble) from None
    if parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(trouble)
    return text


SECRETS: Final[Mapping[str, Kind[Secret]]] = {
    "bearer": kinds.token(1),
    "password": _secret(_PASSWORD, "a password: printable text"),
    "value": _secret(_VALUE, "a header's value: visible ASCII characters, spaces only between them"),
    "client_secret": _secret(_PASSWORD, "a client secret: printable text"),
    "signing_key": Kind(_signing_key, lambda _: MASK, many=True, secret=True),
}
"""The cells that hold secrets, by name."""


def _origins() -> Kind[tuple[str, ...]]:
    """Each once, however it is spelt."""
    listed = kinds.many(Kind(parse_origin, str), empty=False)
    return replace(listed, parse=lambda text: tuple(dict.fromkeys(listed.parse(text))))


def cell(name: str, kind: Kind[Any]) -> Setting:
    """A cell that a table may have."""
    return Setting(name, kind, "none", "")


CREDENTIAL: Final = (
    *(cell(name, kind) for name, kind in SECRETS.items()),
    cell("user", Kind(_user, str)),
    cell("header", Kind(_header_name, str)),
    cell("token_url", Kind(_token_url, str)),
    cell("client_id", kinds.text("a client id", 255)),
    cell("scope", kinds.text("a scope", 1024)),
    cell("audience", kinds.text("an audience", 1024)),
    cell("cert_file", kinds.file()),
    cell("key_file", kinds.file()),
    cell("ca_file", kinds.file()),
    cell("origins", _origins()),
)
"""The cells of one credential."""
