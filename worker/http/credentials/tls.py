"""TLS contexts made of files, and made anew when these change: new connections then use the new certificate."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from worker import CredentialUnavailable
from worker.http.connector import trusted_context
from worker.http.credentials.kinds import Notice, TlsFiles

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the files."""

_Marks = tuple[tuple[int, int, int] | None, ...]


class RenewedContext:
    """The context of one credential, as its files are by now."""

    def __init__(self, name: str, files: TlsFiles, notice: Notice, clock: Callable[[], float]) -> None:
        self._name = name
        self._files = files
        self._notice = notice
        self._clock = clock
        self._context: ssl.SSLContext | None = None
        self._marks: _Marks = ()
        self._looked = -math.inf
        self._is_good = True

    def __call__(self) -> ssl.SSLContext:
        """CredentialUnavailable when the files make no context; once they did, the last good one stays in force."""
        if self._clock() - self._looked >= LOOK_EVERY:
            self._looked = self._clock()
            marks = tuple(_mark(path) for path in (self._files.cert, self._files.key, self._files.ca))
            if marks != self._marks or not self._is_good:
                self._marks = marks
                self._make()
        if self._context is None:
            raise CredentialUnavailable(f"credential {self._name!r}: its certificate or key cannot be used")
        return self._context

    def _make(self) -> None:
        try:
            self._context = context_of(self._files)
        except OSError as error:  # an ssl.SSLError is one; half of a pair may be new, and the rest comes in a moment
            self._tell(f"its certificate, key or authorities cannot be used ({type(error).__name__})")
            self._is_good = False
        else:
            if not self._is_good:
                self._notice("credential.available", self._name, "")
            self._is_good = True

    def _tell(self, reason: str) -> None:
        if self._is_good:
            event = "credential.unavailable" if self._context is None else "credential.not_reloaded"
            self._notice(event, self._name, reason)


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """A context that shows the certificate and believes the authorities; an OSError when they cannot be used."""
    if files.cert is not None:
        # First alone: what is bad is looked at every second, and the system's authorities take the loop tens of ms.
        _show(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    context = trusted_context(files.ca)
    if files.cert is not None:
        _show(context, files)
    return context


def _show(context: ssl.SSLContext, files: TlsFiles) -> None:
    # Without a password of our own OpenSSL would ask for one at the terminal.
    context.load_cert_chain(str(files.cert), files.key, password="")


def _mark(path: str | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
