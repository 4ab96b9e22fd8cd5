"""Fixtures of the HTTP tests; what they hand out is in targets.py."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.http.targets import MakeEngine, Script, Serve, Target
from worker import Limits
from worker.http.engine import Engine
from worker.http.guard import Guard

LOOPBACK = ["127.0.0.0/8", "::1/128"]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    started: list[tuple[asyncio.Server, Target]] = []

    async def start(script: Script, *, tls: ssl.SSLContext | None = None) -> Target:
        target = Target(script, tls=tls is not None)
        server = await asyncio.start_server(target.accept, "127.0.0.1", 0, ssl=tls, backlog=2048)
        target.port = server.sockets[0].getsockname()[1]
        started.append((server, target))
        return target

    yield start
    for server, target in started:
        server.close()
        for writer in target.writers:
            writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def make_engine() -> AsyncIterator[MakeEngine]:
    made: list[Engine] = []

    def make(limits: Limits | None = None, guard: Guard | None = None, **options: Any) -> Engine:
        engine = Engine(limits or Limits(), guard or Guard(LOOPBACK), **options)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        await engine.aclose()


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()
