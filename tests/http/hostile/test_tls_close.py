"""Long answers over TLS whose peer closes right behind them, read slowly: whole ones are whole, cut ones are cut.

What came while nobody was reading is still to be read when the connection is lost. How much that is differs from call
to call, so each is made many times.
"""

from __future__ import annotations

import asyncio
import gzip
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import uvloop

from tests.http.conftest import LOOPBACK
from tests.http.hostile.behaviour import OK, end_of, says
from tests.http.hostile.corpus import Certificates
from tests.http.hostile.farm import Farm, Script
from worker import Limits, Reject, Request, RequestError
from worker.http.engine import Engine
from worker.http.guard import Guard

TIMES = 25
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
RAW = random.Random(1).randbytes(900_000)
PACKED = gzip.compress(RAW)
"""Read in pieces, with a turn of the loop between: slowly."""

CLOSE = OK + b"Connection: close\r\n"
ENCODED = CLOSE + b"Content-Encoding: gzip\r\n"
WHOLE = {
    "packed, up to the close": ENCODED + b"\r\n" + PACKED,
    "packed, with a length": ENCODED + b"Content-Length: %d\r\n\r\n" % len(PACKED) + PACKED,
    "packed, in one chunk": ENCODED
    + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(PACKED)
    + PACKED
    + b"\r\n0\r\n\r\n",
    "as it is, up to the close": CLOSE + b"\r\n" + RAW,
}
CUT = {
    "up to the close, without a close_notify": says(CLOSE + b"\r\n" + RAW, then="cut"),
    "with a length, closed in the midst": says(CLOSE + b"Content-Length: 900001\r\n\r\n" + RAW),
    "packed, without a close_notify": says(ENCODED + b"\r\n" + PACKED, then="cut"),
    "in one chunk, closed in the midst": says(CLOSE + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + RAW),
}


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("framing", WHOLE)
def test_a_whole_answer_is_whole(farm: Farm, certificates: Certificates, loop: str, framing: str) -> None:
    assert _ends(farm, certificates, loop, says(WHOLE[framing])) == {"whole": TIMES}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("framing", CUT)
def test_one_that_was_cut_is_none(farm: Farm, certificates: Certificates, loop: str, framing: str) -> None:
    assert _ends(farm, certificates, loop, CUT[framing]) == {"BadAnswer": TIMES}


def _ends(farm: Farm, certificates: Certificates, loop: str, script: Script) -> Counter[str]:
    port, _ = farm.open(script, certificates.shown("good"))
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(_called(f"https://localhost:{port}/", certificates))


async def _called(url: str, certificates: Certificates) -> Counter[str]:
    engine = Engine(Limits(), Guard(LOOPBACK), ssl_context=certificates.trusting())
    try:
        return Counter([await _end(engine, url) for _ in range(TIMES)])
    finally:
        await engine.aclose()


async def _end(engine: Engine, url: str) -> str:
    try:
        answer = await engine.send(Request("GET", url, timeout=8))
    except (RequestError, Reject) as error:
        return end_of(error)
    return "whole" if answer.body == RAW else f"{len(answer.body)} bytes"
