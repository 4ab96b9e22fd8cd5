"""Every hostile target against the real engine: the right end, in time, no lie, no second request, no slot lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from tests.http.conftest import LOOPBACK
from tests.http.hostile.behaviour import GOOD, Behaviour, end_of, says
from tests.http.hostile.corpus import CORPUS, Certificates, Stand, stand
from tests.http.hostile.farm import Farm, Peer
from worker import Limits, NotSent, Reject, Request, RequestError
from worker.http.engine import Engine
from worker.http.guard import Guard

AT_ONCE = 16
LATE = 1.0
"""Seconds a call may take beyond its deadline."""

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass(frozen=True)
class Outcome:
    """How the call against one target ended."""

    stand: Stand
    end: str
    error: BaseException | None
    seconds: float


@dataclass(frozen=True)
class Trial:
    """The whole corpus, run over one engine with few connections; and what the same engine could do afterwards."""

    outcomes: dict[str, Outcome]
    good: list[str]


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture(scope="module", params=LOOPS)
def trial(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Trial]:
    with Farm() as farm:
        stands = [stand(farm, certificates, behaviour) for behaviour in CORPUS]
        port, _ = farm.open(_once_all_are_there(AT_ONCE))
        yield _run(request.param, _corpus(stands, f"http://127.0.0.1:{port}/", certificates))


def _run(loop: str, work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(work)


def _once_all_are_there(number: int) -> Callable[[Peer], Any]:
    barrier = asyncio.Barrier(number)

    async def script(peer: Peer) -> None:
        await peer.request()
        await barrier.wait()
        await peer.say(GOOD)

    return script


async def _corpus(stands: list[Stand], good: str, certificates: Certificates) -> Trial:
    engine = Engine(Limits(max_connections=AT_ONCE), Guard(LOOPBACK), ssl_context=certificates.trusting())
    places = asyncio.Semaphore(AT_ONCE)
    try:
        # First those whose time is short: the others keep the machine busy.
        timed = await asyncio.gather(*(_call(engine, one, places) for one in stands if one.is_timed))
        others = await asyncio.gather(*(_call(engine, one, places) for one in stands if not one.is_timed))
        after = await asyncio.gather(*(_end(engine, Request("GET", good)) for _ in range(AT_ONCE)))
    finally:
        await engine.aclose()
    return Trial({one.stand.behaviour.name: one for one in (*timed, *others)}, [end for end, _ in after])


async def _call(engine: Engine, stand: Stand, places: asyncio.Semaphore) -> Outcome:
    async with places:
        began = time.monotonic()
        end, error = await _end(engine, stand.request)
        return Outcome(stand, end, error, time.monotonic() - began)


async def _end(engine: Engine, request: Request) -> tuple[str, BaseException | None]:
    try:
        return end_of(await engine.send(request)), None
    except (RequestError, Reject) as error:
        return end_of(error), error


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({behaviour.name for behaviour in CORPUS}) == len(CORPUS) >= 60


@pytest.mark.parametrize("behaviour", CORPUS, ids=lambda one: one.name)
def test_each_ends_as_it_must_and_in_time(trial: Trial, behaviour: Behaviour) -> None:
    outcome = trial.outcomes[behaviour.name]
    ledger = outcome.stand.ledger
    assert outcome.end in behaviour.end.split("|"), outcome
    assert outcome.seconds < outcome.stand.request.timeout + LATE
    assert len(ledger.requests) <= 1 + behaviour.redirects, "nothing is sent twice"
    assert not any("cookie:" in head.lower() for head in ledger.heads)
    if isinstance(outcome.error, NotSent):
        assert (ledger.heads, ledger.requests) == ([], []), "not sent, and the target has read it"
        assert behaviour.secure or ledger.read == 0


def test_no_slot_is_lost(trial: Trial) -> None:
    """As many requests as there are connections, each answered only once all of them are there."""
    assert trial.good == ["200"] * AT_ONCE


# --- cut at each byte

ANSWERS = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: v\r\n\r\n",
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["close", "reset", "cut"])
@pytest.mark.parametrize("framing", ANSWERS)
def test_cut_at_each_byte_it_may_have_been_sent(certificates: Certificates, loop: str, how: str, framing: str) -> None:
    answer = ANSWERS[framing]
    tls = "good" if how == "cut" else None
    cuts = [
        Behaviour(f"{at}", says(answer[:at], then=how), "", tls=tls, secure=tls is not None)
        for at in range(len(answer) + 1)
    ]
    with Farm() as farm:
        stands = [stand(farm, certificates, one) for one in cuts]
        outcomes = _run(loop, _outcomes(stands, certificates))
    assert [one.end for one in outcomes[:-1] if one.end not in ("MaybeSent", "BadAnswer")] == []
    assert outcomes[-1].end == "200"
    assert [len(one.ledger.requests) for one in stands] == [1] * len(stands)


async def _outcomes(stands: list[Stand], certificates: Certificates) -> list[Outcome]:
    engine = Engine(Limits(), Guard(LOOPBACK), ssl_context=certificates.trusting())
    places = asyncio.Semaphore(AT_ONCE)
    try:
        return await asyncio.gather(*(_call(engine, one, places) for one in stands))
    finally:
        await engine.aclose()
