"""The credentials of a process: who may use which where, and what they add to a request at the last moment."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace

from worker import CredentialUnavailable, MaybeSent, Reject, Request, Response
from worker.http.credentials.kinds import (
    AUTHORIZATION,
    NOTHING,
    ApiHeader,
    Basic,
    Bearer,
    ClientCredentials,
    Credential,
    Extras,
    Notice,
    SigningKeys,
)
from worker.http.credentials.signing import signature_headers
from worker.http.credentials.tls import RenewedContext
from worker.http.credentials.tokens import Fetch, Token, Tokens
from worker.http.trail import Trail
from worker.http.url import Url, parse_url

Hop = Callable[[Extras], Awaitable[Response]]
"""Sends one hop of a request with what the credentials add to it."""


class Credentials:
    """Looks credentials up by name and applies them.

    `fetch` sends requests to token endpoints, each for at most `timeout` seconds. `clock` is monotonic, `now` epoch
    seconds.
    """

    def __init__(
        self,
        credentials: Iterable[Credential],
        fetch: Fetch,
        *,
        notice: Notice | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        told = notice or _untold
        self._by_name = {one.name: one for one in credentials}
        self._now = now
        self._contexts = {
            one.name: RenewedContext(one.name, one.tls, told, clock)
            for one in self._by_name.values()
            if one.tls is not None
        }
        self._tokens = {
            one.name: Tokens(one.name, one.kind, self._reaching(one, fetch), told, clock=clock, timeout=timeout)
            for one in self._by_name.values()
            if isinstance(one.kind, ClientCredentials)
        }

    def fault(self, *, auth: str | None, sign: str | None, url: str | None, headers: Collection[str]) -> str | None:
        """What forbids a request with these headers to use these credentials, in words without its URL; or None.

        A `url` that is not known yet forbids nothing.
        """
        place = None if url is None else parse_url(url)
        for name, is_sign in ((auth, False), (sign, True)):
            if name is not None and (fault := self._fault(name, place, headers, is_sign=is_sign)):
                return fault
        return None

    def check(self, request: Request) -> None:
        """A Reject when the request may not use what it names."""
        if request.auth is None and request.sign is None:
            return
        fault = self.fault(auth=request.auth, sign=request.sign, url=request.url, headers=request.headers.keys())
        if fault:
            raise Reject(fault, code="credential")

    async def exchange(self, request: Request, url: Url, hop: Hop, trail: Trail) -> Response:
        """The answer of `hop`, called with what belongs to `url`: nothing where a redirect has left the origins.

        Called a second time when the target refuses a token (401) that had been there for a while: such a request was
        not executed. CredentialUnavailable when a token or certificate cannot be had; MaybeSent if an earlier hop was
        answered.
        """
        if request.auth is None and request.sign is None:
            return await hop(NOTHING)
        extras, token = await self._extras(request, url, trail)
        response = await hop(extras)
        if response.status != 401 or token is None:
            return response
        tokens = self._tokens[str(request.auth)]
        if not tokens.may_be_mended(token, url.origin):
            return response
        trail.refused()
        extras, _ = await self._extras(request, url, trail)
        response = await hop(extras)
        if response.status == 401:
            tokens.not_mended(url.origin)
        return response

    def close(self) -> None:
        """Stop fetching tokens."""
        for tokens in self._tokens.values():
            tokens.close()

    def _fault(self, name: str, place: Url | None, headers: Collection[str], *, is_sign: bool) -> str | None:
        shown = ascii(name[:100])
        credential = self._by_name.get(name)
        if credential is None:
            return f"no credential named {shown} is configured"
        if credential.signs != is_sign:
            what, word = ("a signing key", "sign") if credential.signs else ("no signing key", "auth")
            return f"credential {shown} is {what}: name it in {word!r}"
        if place is not None and not credential.covers(place):
            scheme, host, port = place.origin
            return f"credential {shown} may not be sent to {host} ({scheme}, port {port}): not one of its origins"
        ours = {header.lower(): header for header in credential.headers}
        for header in headers:
            if header.lower() in ours:
                return f"credential {shown} sets the header {ours[header.lower()]}, which is there already"
        return None

    async def _extras(self, request: Request, url: Url, trail: Trail) -> tuple[Extras, Token | None]:
        """What belongs to this hop, and the token in it."""
        auth, sign = self._covering(request.auth, url), self._covering(request.sign, url)
        headers: dict[str, str] = {}
        token: Token | None = None
        try:
            contexts = [self._contexts[one.name]() for one in (auth, sign) if one is not None and one.tls is not None]
            if auth is not None:
                with trail.waits_for_token():
                    told, token = await self._authorization(auth)
                headers |= told
        except CredentialUnavailable as error:
            if trail.may_be_sent:
                raise MaybeSent(str(error)) from None
            raise
        if sign is not None and isinstance(sign.kind, SigningKeys):
            headers |= signature_headers(_id_of(request), int(self._now()), request.body or b"", sign.kind.keys())
        return Extras(headers, contexts[0] if contexts else None), token

    def _covering(self, name: str | None, url: Url) -> Credential | None:
        credential = None if name is None else self._by_name[name]
        return credential if credential is not None and credential.covers(url) else None

    async def _authorization(self, credential: Credential) -> tuple[dict[str, str], Token | None]:
        match credential.kind:
            case Bearer(token=token):
                return {AUTHORIZATION: f"Bearer {token()}"}, None
            case Basic(user=user, password=password):
                login = base64.b64encode(f"{user}:{password()}".encode()).decode()
                return {AUTHORIZATION: f"Basic {login}"}, None
            case ApiHeader(name=name, value=value):
                return {name: value()}, None
            case ClientCredentials():
                found = await self._tokens[credential.name].token()
                return {AUTHORIZATION: f"Bearer {found.text}"}, found
            case _:
                return {}, None

    def _reaching(self, credential: Credential, fetch: Fetch) -> Fetch:
        """`fetch`, which believes the credential's own authorities where the token endpoint is one of its origins."""

        async def through(request: Request, extras: Extras) -> Response:
            if credential.name in self._contexts and credential.covers(parse_url(request.url)):
                extras = replace(extras, ssl=self._contexts[credential.name]())
            return await fetch(request, extras)

        return through


def _id_of(request: Request) -> str:
    """What a receiver knows a repeat by. Outside a job nobody has given the request a key."""
    keys = (value for name, value in request.headers.items() if name.lower() == "idempotency-key")
    return next(keys, None) or uuid.uuid4().hex


def _untold(event: str, name: str, reason: str) -> None:
    """Nobody is told."""
