"""OAuth 2.0 tokens: fetched once for all who need one, kept until shortly before their end."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import math
import re
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from worker import CredentialUnavailable, Reject, Request, RequestError, Response, read_json
from worker.http.credentials.kinds import AUTHORIZATION, ClientCredentials, Extras, Notice

LARGEST_ANSWER: Final = 64 << 10
"""Bytes of what a token endpoint may answer."""

DEFAULT_LIFE: Final = 300.0
"""Seconds of a token whose endpoint does not say."""

LONGEST_MARGIN: Final = 30.0
"""Seconds before its end from which a token is not used any more; of a short life a fifth."""

LONGEST_CALL: Final = 30.0
"""Seconds a call of the endpoint may take, where requests may take longer: all wait for the one that is under way."""

PAUSE: Final = 1.0
"""Seconds after a failure in which the endpoint is left alone: what is tried meanwhile fails as that did."""

YOUNG: Final = 5.0
"""Seconds in which a token that its target refuses is kept: one that was just fetched will not get better."""

STUBBORN: Final = 60.0
"""Seconds in which a target that refused a new token, too, gets none on account of its refusals."""

_VISIBLE: Final = re.compile(r"[!-~]{1,16384}")

Fetch = Callable[[Request, Extras], Awaitable[Response]]
"""Sends a request without any credential of its own."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and the moments (of the monotonic clock) since when it is there and until which it is used."""

    text: str = field(repr=False)
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    until: float
    secret: str = field(repr=False)


class Tokens:
    """The token of one credential. `timeout` (seconds) bounds one call of the endpoint, besides LONGEST_CALL."""

    def __init__(
        self,
        name: str,
        client: ClientCredentials,
        fetch: Fetch,
        notice: Notice,
        *,
        clock: Callable[[], float],
        timeout: float,
    ) -> None:
        self._name = name
        self._client = client
        self._fetch = fetch
        self._notice = notice
        self._clock = clock
        self._timeout = min(timeout, LONGEST_CALL)
        self._token: Token | None = None
        self._failure: _Failure | None = None
        self._fetching: asyncio.Task[Token | _Failure] | None = None
        self._stubborn: dict[Hashable, float] = {}
        self._is_available = True
        self._is_closed = False

    async def token(self) -> Token:
        """A token; CredentialUnavailable when none can be had."""
        if self._token is not None and self._clock() < self._token.until:
            return self._token
        found = self._recent_failure() or await self._fetched()
        if isinstance(found, _Failure):
            raise CredentialUnavailable(f"credential {self._name!r}: no token, {found.reason}")
        return found

    def may_be_mended(self, token: Token, target: Hashable) -> bool:
        """Whether a newer token may please the target that has refused this one; if so, this one is forgotten.

        A target that refuses whatever it gets costs one call of the endpoint in a while, not one for each request.
        """
        if self._token is not token:
            return True
        now = self._clock()
        if now - token.since < YOUNG or now < self._stubborn.get(target, -math.inf):
            return False
        self._token = None
        return True

    def not_mended(self, target: Hashable) -> None:
        """It has refused the newer one, too. Targets are the origins of the credential, so there are few of them."""
        self._stubborn[target] = self._clock() + STUBBORN

    def close(self) -> None:
        """Stop fetching, for ever."""
        self._is_closed = True
        if self._fetching is not None:
            self._fetching.cancel()

    def _recent_failure(self) -> _Failure | None:
        failure = self._failure
        if failure is None or self._clock() >= failure.until or failure.secret != self._client.client_secret():
            return None
        return failure

    async def _fetched(self) -> Token | _Failure:
        if self._is_closed:
            raise CredentialUnavailable("the engine is closed")
        if self._fetching is None:
            # Of no job: it goes on when the one that was first gives up, and belongs to none in the log.
            self._fetching = asyncio.get_running_loop().create_task(
                self._call(), name=f"token of {self._name}", context=contextvars.Context()
            )
        task = self._fetching
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not _is_stopped():
                raise CredentialUnavailable("the engine is closed") from None
            raise

    async def _call(self) -> Token | _Failure:
        secret = self._client.client_secret()
        try:
            token = _token_of(await self._fetch(*self._request(secret)), self._clock())
        except RequestError as error:
            return self._failed(str(error), secret)
        except Reject as error:  # a forbidden address, a bad certificate: the operator's, and no job's end
            return self._failed(error.detail, secret)
        except ValueError as fault:
            return self._failed(str(fault), secret)
        finally:
            self._fetching = None
        self._token, self._failure = token, None
        if not self._is_available:
            self._is_available = True
            self._notice("credential.available", self._name, "")
        return token

    def _request(self, secret: str) -> tuple[Request, Extras]:
        client = self._client
        fields = {"grant_type": "client_credentials", "scope": client.scope, "audience": client.audience}
        body = urlencode({name: value for name, value in fields.items() if value}).encode()
        login = f"{quote_plus(client.client_id)}:{quote_plus(secret)}".encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        request = Request("POST", client.token_url, headers, body, timeout=self._timeout)
        authorization = f"Basic {base64.b64encode(login).decode()}"
        return request, Extras({AUTHORIZATION: authorization}, largest=LARGEST_ANSWER)

    def _failed(self, reason: str, secret: str) -> _Failure:
        if self._is_available or (self._failure is not None and self._failure.reason != reason):
            self._notice("credential.unavailable", self._name, reason)
        self._is_available = False
        self._failure = _Failure(reason, self._clock() + PAUSE, secret)
        return self._failure


def _is_stopped() -> bool:
    """Whether the task that asks is itself told to stop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _token_of(answer: Response, now: float) -> Token:
    """The token in an answer; a ValueError that repeats nothing of what is no token."""
    if answer.status != 200:
        raise ValueError(f"the token endpoint answers {answer.status}")
    try:
        found = read_json(answer.body)
    except ValueError:
        raise ValueError("the token endpoint answers no JSON that is taken") from None
    text = found.get("access_token") if isinstance(found, dict) else None
    if not isinstance(text, str) or not _VISIBLE.fullmatch(text):
        raise ValueError("the token endpoint answers without an access_token")
    kind = found.get("token_type")
    if kind is not None and str(kind).lower() != "bearer":
        raise ValueError("the token endpoint answers a token that is no bearer token")
    life = _life(found.get("expires_in"))
    return Token(text, now, now + life - min(LONGEST_MARGIN, life / 5))


def _life(said: Any) -> float:
    """Seconds; also written as text, as some do."""
    try:
        life = float(said) if isinstance(said, int | float | str) and not isinstance(said, bool) else DEFAULT_LIFE
    except ValueError:
        return DEFAULT_LIFE
    return max(0.0, life) if math.isfinite(life) else DEFAULT_LIFE
