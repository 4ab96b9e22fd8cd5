"""A token that its target refuses: replaced once, and honest about what was executed when that fails."""

from __future__ import annotations

import asyncio
import functools

import pytest

from tests.http.targets import Exchange, MakeEngine, Serve, Target
from tests.http.token_endpoint import Open, Resource, open_office
from worker import MaybeSent, NotSent, Request, RequestTimeout, may_be_sent
from worker.http.credentials import Bearer, Credential

MANY = 100


@pytest.fixture
def opened(serve: Serve, make_engine: MakeEngine) -> Open:
    return functools.partial(open_office, serve, make_engine)


async def test_a_refused_token_is_replaced_and_the_request_sent_once_more(opened: Open) -> None:
    resource = Resource({"token-1"})
    office = await opened(script=resource)
    await office.grown_old()
    resource.good = {"token-2"}
    answer = await office.engine.send(office.request("POST", body=b"hello"))
    assert answer.status == 200
    assert office.sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    assert [seen.body for seen in office.target.seen] == [b"", b"hello", b"hello"]
    assert len(office.endpoint.calls) == 2


async def test_a_hundred_refusals_make_one_call(opened: Open) -> None:
    resource = Resource({"token-1"})
    office = await opened(script=resource)
    await office.grown_old()
    resource.good = {"token-2"}
    answers = await asyncio.gather(*(office.engine.send(office.request()) for _ in range(MANY)))
    assert {answer.status for answer in answers} == {200}
    assert len(office.endpoint.calls) == 2


async def test_a_late_refusal_of_an_old_token_does_not_cost_the_new_one(opened: Open) -> None:
    late = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.line.startswith("GET /late") and exchange.header("authorization") == "Bearer token-1":
            reached.set()
            await late.wait()
        await Resource(good)(exchange)

    good, reached = {"token-1"}, asyncio.Event()
    office = await opened(script=script)
    await office.grown_old()
    good.clear()
    good.add("token-2")
    slow = asyncio.create_task(office.engine.send(office.request(url=f"{office.target.url}late")))
    await reached.wait()
    assert (await office.engine.send(office.request())).status == 200
    late.set()
    assert (await slow).status == 200
    assert len(office.endpoint.calls) == 2


async def test_a_token_that_was_just_fetched_is_refused_for_good(opened: Open) -> None:
    """It will not get better by another."""
    office = await opened(script=Resource(set()))
    for _ in range(5):
        assert (await office.engine.send(office.request())).status == 401
        office.now[0] += 0.9
    assert office.sent == ["Bearer token-1"] * 5
    assert len(office.endpoint.calls) == 1


async def test_a_refusal_that_does_not_go_away_costs_a_call_a_minute(opened: Open) -> None:
    office = await opened(script=Resource(set()))
    for _ in range(180):
        assert (await office.engine.send(office.request())).status == 401
        office.now[0] += 1
    assert len(office.endpoint.calls) == 1 + 3, "at first, after 5 s, and 60 s after each"
    assert len(office.sent) == 180 + 3


async def test_a_target_that_refuses_all_takes_the_new_token_from_no_other(serve: Serve, opened: Open) -> None:
    other, resource = await serve(Resource(set())), Resource()
    office = await opened(script=resource, origins=(other.url.rstrip("/"),))
    await office.grown_old()
    assert (await office.engine.send(office.request(url=other.url))).status == 401
    office.now[0] += 10
    resource.good = {"token-3"}
    assert (await office.engine.send(office.request())).status == 200
    assert len(office.endpoint.calls) == 3


async def test_a_token_is_as_old_as_it_is_also_after_a_redirect(opened: Open) -> None:
    """Looked up a second time it was there already, for some milliseconds."""

    async def script(exchange: Exchange) -> None:
        if exchange.line.startswith("GET /next"):
            await exchange.answer(401)
        else:
            await exchange.answer(302, Location="/next")

    office = await opened(script=script)
    assert (await office.engine.send(office.request(redirects=1))).status == 401
    assert len(office.target.seen) == 2
    assert len(office.endpoint.calls) == 1


async def test_a_refusal_of_a_fixed_secret_is_the_answer(serve: Serve, make_engine: MakeEngine) -> None:
    target = await serve(Resource(set()))
    engine = make_engine(credentials=[Credential("crm", (target.url.rstrip("/"),), Bearer(lambda: "x"))])
    for _ in range(2):
        assert (await engine.send(Request("GET", target.url, auth="crm"))).status == 401
    assert len(target.seen) == 2


async def test_no_fresh_token_after_a_refusal_is_not_sent(opened: Open) -> None:
    """A 401 was not executed: the job may go on as if nothing had been sent."""
    resource = Resource()
    office = await opened(script=resource)
    await office.grown_old()
    resource.good = set()
    office.endpoint.answers = [(500, b"")]
    with pytest.raises(NotSent) as caught:
        await office.engine.send(office.request("POST"))
    assert not isinstance(caught.value, MaybeSent)


async def test_after_a_redirect_no_token_means_maybe_sent(opened: Open) -> None:
    """The POST was executed when the answer to it asks for a GET that cannot be sent."""

    async def script(exchange: Exchange) -> None:
        office.now[0] += 10_000  # the token ends in between
        office.endpoint.answers = [(500, b"")]
        await exchange.answer(303, Location="/done")

    office = await opened(script=script)
    with pytest.raises(MaybeSent, match="answers 500"):
        await office.engine.send(office.request("POST", body=b"x", redirects=1))
    assert len(office.target.seen) == 1


@pytest.mark.parametrize("ends", ["deadline", "cancelled"])
async def test_waiting_for_a_fresh_token_after_a_refusal_is_not_sent(opened: Open, ends: str) -> None:
    resource = Resource()
    office = await opened(script=resource)
    await office.grown_old()
    resource.good, office.endpoint.gate = set(), asyncio.Event()
    office.endpoint.called.clear()
    if ends == "deadline":
        with pytest.raises(NotSent, match=r"within 0\.3 s"):
            await office.engine.send(office.request("POST", timeout=0.3))
    else:
        waiting = asyncio.create_task(office.engine.send(office.request("POST")))
        await office.endpoint.called.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        assert not may_be_sent(caught.value)
    assert len(office.target.seen) == 2


async def test_a_target_that_is_gone_after_a_refusal_is_not_sent(opened: Open) -> None:
    async def refuse_and_go(exchange: Exchange) -> None:
        listener.close()
        await exchange.answer(401, Connection="close")
        exchange.writer.close()

    gone = Target(refuse_and_go)
    listener = await asyncio.start_server(gone.accept, "127.0.0.1", 0)
    gone.port = listener.sockets[0].getsockname()[1]
    office = await opened(origins=(gone.url.rstrip("/"),))
    await office.engine.credentials._tokens["api"].token()
    office.now[0] += 10
    with pytest.raises(NotSent, match="ECONNREFUSED"):
        await office.engine.send(office.request("POST", url=gone.url))
    assert (len(gone.seen), len(office.endpoint.calls)) == (1, 2)


async def test_a_deadline_while_sending_again_is_maybe_sent(opened: Open) -> None:
    async def script(exchange: Exchange) -> None:
        if len(office.target.seen) == 1:
            await exchange.answer()
        elif len(office.target.seen) == 2:
            await exchange.answer(401)
        else:
            await asyncio.Event().wait()

    office = await opened(script=script)
    await office.grown_old()
    with pytest.raises(RequestTimeout):
        await office.engine.send(office.request(timeout=0.3))
    assert len(office.target.seen) == 3
