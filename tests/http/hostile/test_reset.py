"""Targets that reset in the TLS handshake: each socket is closed once, and never with the number of another's."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvloop

from tests.http.conftest import LOOPBACK
from tests.http.hostile.connections import reset_at_once
from tests.http.hostile.corpus import Certificates
from tests.http.hostile.farm import Farm
from tests.http.hostile.probe import sockets
from worker import Limits, NotSent, Request
from worker.http.engine import Engine
from worker.http.guard import Guard

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TIMES = 48
"""How many of them are reset before the ClientHello is out is the machine's to say; of these some are."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """It runs when it is told to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_collected_later_closes_no_other_connection(loop: str) -> None:
    certificates, before = Certificates(), sockets()
    with warnings.catch_warnings(record=True) as warned, ExitStack() as others:
        warnings.simplefilter("always", ResourceWarning)
        with Farm() as farm:
            port, _ledger = farm.open(reset_at_once)
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(_called(f"https://localhost:{port}/", certificates))
        assert sockets() <= before, "one is left open"
        pairs = [socket.socketpair() for _ in range(TIMES)]  # they get the numbers of those that are closed
        for one in (one for pair in pairs for one in pair):
            others.callback(one.close)
        gc.collect()
        for here, there in pairs:
            here.send(b"x")
            assert there.recv(1) == b"x"
    assert [str(one.message) for one in warned] == []


async def _called(url: str, certificates: Certificates) -> None:
    limits = Limits(max_connections=TIMES, max_connections_per_host=TIMES)
    engine = Engine(limits, Guard(LOOPBACK), ssl_context=certificates.trusting())
    try:
        ends = await asyncio.gather(*(_end(engine, url) for _ in range(TIMES)))
    finally:
        await engine.aclose()
    assert set(ends) == {NotSent}


async def _end(engine: Engine, url: str) -> type[Exception]:
    try:
        await engine.send(Request("GET", url, timeout=8))
    except NotSent as error:
        return type(error)
    raise AssertionError("a reset is no answer")
