"""An OAuth 2.0 token endpoint on loopback that counts its calls, and a target that knows which tokens are good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.http.targets import Exchange, MakeEngine, Serve, Target
from worker import Limits, Request
from worker.http.credentials import ClientCredentials, Credential
from worker.http.engine import Engine


@dataclass
class Endpoint:
    """A script. Gives `token-1`, `token-2`, ...; `answers` are given instead, one call each, as long as there are any.

    A call waits for `gate` when that is there.
    """

    life: Any = 3600
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    calls: list[Exchange] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    given: int = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.calls.append(exchange)
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.answers:
            status, body = self.answers.pop(0)
            await exchange.answer(status, body)
            return
        self.given += 1
        told = {"access_token": f"token-{self.given}", "token_type": "Bearer"}
        if self.life is not None:
            told["expires_in"] = self.life
        await exchange.answer(200, json.dumps(told).encode())


@dataclass
class Resource:
    """A script that takes the tokens in `good`, or any when that is None, and answers 401 to all others."""

    good: set[str] | None = None

    async def __call__(self, exchange: Exchange) -> None:
        token = str(exchange.header("authorization")).removeprefix("Bearer ")
        await exchange.answer(200 if self.good is None or token in self.good else 401)


@dataclass
class Office:
    """An engine with one credential, its token endpoint and the target it is for. `notes` is what an operator reads."""

    endpoint: Endpoint
    tokens: Target
    target: Target
    engine: Engine
    now: list[float]
    secrets: list[str]
    notes: list[tuple[str, str, str]] = field(default_factory=list)

    def request(self, method: str = "GET", **fields: Any) -> Request:
        return Request(method, fields.pop("url", self.target.url), auth="api", **fields)

    async def grown_old(self) -> None:
        """The token is fetched, and has been there for a while."""
        await self.engine.send(self.request())
        self.now[0] += 10

    @property
    def sent(self) -> list[str | None]:
        return [seen.header("authorization") for seen in self.target.seen]


async def open_office(
    serve: Serve,
    make_engine: MakeEngine,
    endpoint: Endpoint | None = None,
    script: Any = None,
    *,
    limits: Limits | None = None,
    origins: tuple[str, ...] = (),
    **client: Any,
) -> Office:
    """An office whose credential is for its target, and for `origins`; `client` are fields of ClientCredentials."""
    endpoint = endpoint or Endpoint()
    tokens, target = await serve(endpoint), await serve(script or Resource())
    now, secrets, notes = [1000.0], ["s3cret"], list[tuple[str, str, str]]()
    kind = ClientCredentials(f"{tokens.url}token", "me", lambda: secrets[-1])
    credential = Credential("api", (target.url.rstrip("/"), *origins), replace(kind, **client))
    engine = make_engine(limits, credentials=[credential], on_credential=lambda *told: notes.append(told))
    engine.credentials._tokens["api"]._clock = lambda: now[0]
    return Office(endpoint, tokens, target, engine, now, secrets, notes)


Open = Callable[..., Awaitable[Office]]
"""`await opened(endpoint, script, limits=, origins=, **client)`: see `open_office`."""
