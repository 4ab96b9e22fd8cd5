"""From [credentials] of worker.toml to what the engine takes: secrets become callables that read their files anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import structlog

from worker.ops.settings.credential_table import signing_keys
from worker.ops.settings.rotation import rotating

if TYPE_CHECKING:
    from worker.http.credentials import Credential
    from worker.http.credentials.kinds import Kind
    from worker.ops.settings import Credential as Written

log = structlog.get_logger("worker.credentials")


def credentials_of(written: Mapping[str, Written]) -> Iterator[Credential]:
    """The credentials by the settings' word."""
    from worker.http.credentials import Credential, TlsFiles

    for name, one in written.items():
        tls = TlsFiles(one.cert_file, one.key_file, one.ca_file)
        yield Credential(name, one.origins, _kind(one), None if tls == TlsFiles() else tls)


def tell(event: str, name: str, reason: str) -> None:
    """Log what an operator should know of a credential; of no job, and without any secret."""
    if event == "credential.available":
        log.info(event, credential=name)
    else:
        log.error(event, credential=name, reason=reason)


def _kind(one: Written) -> Kind | None:
    from worker.http.credentials import ApiHeader, Basic, Bearer, ClientCredentials, SigningKeys

    if one.bearer is not None:
        return Bearer(rotating(one, "bearer"))
    if one.user is not None:
        return Basic(one.user, rotating(one, "password"))
    if one.header is not None:
        return ApiHeader(one.header, rotating(one, "value"))
    if one.token_url is not None and one.client_id is not None:
        secret = rotating(one, "client_secret")
        return ClientCredentials(one.token_url, one.client_id, secret, one.scope, one.audience)
    if one.signing_key is not None:
        keys = rotating(one, "signing_key")
        return SigningKeys(lambda: signing_keys(keys()))
    return None
