"""All hostile targets, the certificates they show, and how a call against one of them is made."""

from __future__ import annotations

import datetime as dt
import ssl
import warnings
from dataclasses import dataclass

import trustme

from tests.http.hostile.behaviour import Behaviour
from tests.http.hostile.bodies import BODIES
from tests.http.hostile.connections import CONNECTIONS, TLS
from tests.http.hostile.farm import Farm, Ledger
from tests.http.hostile.heads import HEADS
from tests.http.hostile.redirects import REDIRECTS
from worker import Request

CORPUS: tuple[Behaviour, ...] = HEADS + BODIES + CONNECTIONS + TLS + REDIRECTS

QUICK = 1.0
"""Seconds for a call that is expected to take all its time."""

PATIENT = 8.0
"""Seconds for any other: it must end by itself, and the machine may be busy."""


class Certificates:
    """One authority that is trusted, and what targets show."""

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self._made: dict[str, ssl.SSLContext] = {}

    @property
    def authority(self) -> str:
        """The certificate to trust, as PEM."""
        return self._authority.cert_pem.bytes().decode()

    def trusting(self) -> ssl.SSLContext:
        """For the engine."""
        return ssl.create_default_context(cadata=self.authority)

    def shown(self, name: str | None) -> ssl.SSLContext | None:
        """For a target, by `Behaviour.tls`."""
        if name is None:
            return None
        if name not in self._made:
            self._made[name] = self._server(name)
        return self._made[name]

    def _server(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        match name:
            case "expired":
                self._authority.issue_cert("localhost", not_after=now - day).configure_cert(context)
            case "future":
                self._authority.issue_cert("localhost", not_before=now + day).configure_cert(context)
            case "other name":
                self._authority.issue_cert("elsewhere.example").configure_cert(context)
            case "self-signed":
                other = trustme.CA()
                with other.private_key_pem.tempfile() as key, other.cert_pem.tempfile() as certificate:
                    context.load_cert_chain(certificate, key)
            case "unknown":
                trustme.CA().issue_cert("localhost").configure_cert(context)
            case _:
                self._authority.issue_cert("localhost").configure_cert(context)
        if name == "old":
            with warnings.catch_warnings(action="ignore"):
                context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
            context.set_ciphers("ALL:@SECLEVEL=0")
        return context


@dataclass(frozen=True)
class Stand:
    """A behaviour that stands ready in a farm."""

    behaviour: Behaviour
    url: str
    ledger: Ledger

    @property
    def is_timed(self) -> bool:
        """Whether the call takes all the time it gets."""
        return self.behaviour.end in ("RequestTimeout", "NotInTime")

    @property
    def request(self) -> Request:
        one = self.behaviour
        seconds = QUICK if self.is_timed else PATIENT
        return Request(one.method, self.url, body=one.body, timeout=seconds, redirects=one.redirects)


def stand(farm: Farm, certificates: Certificates, behaviour: Behaviour) -> Stand:
    """Make `behaviour` ready to be called."""
    port, ledger = farm.open(behaviour.script, certificates.shown(behaviour.tls))
    scheme, host = ("https", "localhost") if behaviour.secure else ("http", "127.0.0.1")
    return Stand(behaviour, f"{scheme}://{host}:{port}/", ledger)
