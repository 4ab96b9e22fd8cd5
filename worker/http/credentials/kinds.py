"""What a credential is: values, whose secrets are asked for anew at every use, since files change."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from worker.http.url import Url, parse_url

Text = Callable[[], str]
"""Gives a secret as it is by now."""

Notice = Callable[[str, str, str], None]
"""Is told an event, the credential's name and a reason without secrets.

`credential.unavailable`: its token or certificate cannot be had; `credential.available`: it can again, after that;
`credential.not_reloaded`: its new certificate cannot be used, and what was there stays in force.
"""

AUTHORIZATION: Final = "Authorization"
SIGNATURE_HEADERS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(frozen=True, slots=True)
class Bearer:
    """`Authorization: Bearer ...`."""

    token: Text


@dataclass(frozen=True, slots=True)
class Basic:
    """`Authorization: Basic ...`."""

    user: str
    password: Text


@dataclass(frozen=True, slots=True)
class ApiHeader:
    """A header of the operator's choice."""

    name: str
    value: Text


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """OAuth 2.0 client credentials: a bearer token that is fetched from `token_url`."""

    token_url: str
    client_id: str
    client_secret: Text
    scope: str | None = None
    audience: str | None = None


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Standard Webhooks: one key, or two while a receiver goes over from one to the other."""

    keys: Callable[[], tuple[bytes, ...]]


Kind = Bearer | Basic | ApiHeader | ClientCredentials | SigningKeys


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate that is shown with its key, and the only authorities that are believed."""

    cert: str | None = None
    key: str | None = None
    ca: str | None = None


@dataclass(frozen=True)
class Credential:
    """What requests may use by `name`, and the origins (`https://host[:port]`) it may go to.

    At least one of `kind` and `tls` is there.
    """

    name: str
    origins: tuple[str, ...]
    kind: Kind | None = None
    tls: TlsFiles | None = None

    @cached_property
    def _places(self) -> frozenset[tuple[str, str, int]]:
        # Read as the URLs of requests are read, so that no spelling is one origin here and another there.
        return frozenset(parse_url(origin).origin for origin in self.origins)

    def covers(self, url: Url) -> bool:
        """Whether it may go there."""
        return url.origin in self._places

    @property
    def signs(self) -> bool:
        """Whether it is for `sign`; all others are for `auth`."""
        return isinstance(self.kind, SigningKeys)

    @property
    def headers(self) -> tuple[str, ...]:
        """The headers it sets."""
        match self.kind:
            case None:
                return ()
            case ApiHeader(name=name):
                return (name,)
            case SigningKeys():
                return SIGNATURE_HEADERS
            case _:
                return (AUTHORIZATION,)


@dataclass(frozen=True, slots=True)
class Extras:
    """What the credentials add to one hop of one request. Never shown: the headers are secrets."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssl: ssl.SSLContext | None = None
    largest: int | None = None
    """Most bytes of the answer, where it is not the engine's limit."""


NOTHING: Final = Extras()
