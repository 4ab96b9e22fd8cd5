"""Lookups: bounded threads, names that hang, and what their errors say."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Limits, NotInTime, NotSent, Request
from worker.http.lookups import FAILURES, THREADS, LookupThreads, lookup

SOON = 1.0
"""Seconds a lookup may take that has nothing to wait for, on a busy machine."""


class Names:
    """A name server in which names that begin with `hang` get no answer before `release` is set, and `failing` none."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.failing: set[str] = set()
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.hanging = 0
        self.most_hanging = 0
        self._lock = threading.Lock()

    def __call__(self, host: str) -> list[str]:
        with self._lock:
            self.asked.append(host)
            self.threads.add(threading.get_ident())
        if host.startswith("hang"):
            self._hang()
        if host in self.failing:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return ["127.0.0.1"]

    def _hang(self) -> None:
        with self._lock:
            self.hanging += 1
            self.most_hanging = max(self.most_hanging, self.hanging)
        self.release.wait(60)
        with self._lock:
            self.hanging -= 1


@pytest.fixture
def server() -> Iterator[Names]:
    names = Names()
    yield names
    names.release.set()


async def until(holds: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends, f"not in time: {what}"
        await asyncio.sleep(0.002)


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def ask(names: LookupThreads, *hosts: str) -> list[asyncio.Task[list[str]]]:
    return [asyncio.create_task(names.addresses(host)) for host in hosts]


async def give_up(tasks: list[asyncio.Task[list[str]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def seconds_of(names: LookupThreads, host: str) -> float:
    began = time.monotonic()
    await names.addresses(host)
    return time.monotonic() - began


async def knowing(server: Names, *hosts: str, **options: Any) -> LookupThreads:
    """Threads that have resolved these names while none of them hung."""
    server.release.set()
    names = LookupThreads(server, **options)
    await asyncio.gather(*ask(names, *hosts))
    server.release.clear()
    return names


async def fails(names: LookupThreads, server: Names, host: str, *, times: int) -> None:
    server.failing.add(host)
    for _ in range(times):
        with pytest.raises(OSError, match="no such name"):
            await names.addresses(host)
    server.failing.discard(host)


def alive(server: Names) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.ident in server.threads]


# --- one name, many requests


async def test_requests_for_one_name_share_one_lookup_and_one_thread(server: Names) -> None:
    names = LookupThreads(server)
    waiting = ask(names, *["hang.example"] * 200)
    await until(lambda: server.hanging, "the lookup runs")
    assert [await seconds_of(names, f"h{number}.example") < SOON for number in range(20)] == [True] * 20
    server.release.set()
    assert await asyncio.gather(*waiting) == [["127.0.0.1"]] * 200
    assert (server.asked.count("hang.example"), server.most_hanging) == (1, 1)


async def test_a_name_is_asked_for_again_each_time(server: Names) -> None:
    """Nothing is kept: a changed address is seen at once."""
    names = LookupThreads(server)
    for _ in range(3):
        await names.addresses("h.example")
    assert server.asked == ["h.example"] * 3


# --- many names that hang


async def test_ten_thousand_names_that_hang_leave_the_known_ones_alone(server: Names) -> None:
    names = LookupThreads(server, given_up=0)
    known = [f"h{number}.example" for number in range(50)]
    await asyncio.gather(*ask(names, *known))
    hanging = ask(names, *(f"hang{number}.example" for number in range(10_000)))
    await until(lambda: server.hanging == THREADS * 3 // 4, "no thread is left for unknown names")
    seconds = [await seconds_of(names, host) for host in known]
    assert max(seconds) < SOON
    assert server.most_hanging == THREADS * 3 // 4
    assert len(server.threads) <= THREADS
    await give_up(hanging)
    assert len(names._pending) == THREADS * 3 // 4  # those that threads are at
    assert (len(names._later), len(names._first)) == (0, 0)


async def test_an_unknown_name_is_resolved_when_those_that_hang_are_given_up(server: Names) -> None:
    names = LookupThreads(server, threads=4, given_up=0)
    hanging = ask(names, *(f"hang{number}.example" for number in range(100)))
    await until(lambda: server.hanging == 3, "three of four threads hang")
    [late] = ask(names, "late.example")
    await give_up(hanging)
    server.release.set()
    assert await late == ["127.0.0.1"]
    assert len([host for host in server.asked if host.startswith("hang")]) == 3


async def test_known_names_that_hang_hold_up_no_other_for_long(server: Names) -> None:
    hanging = [f"hang{number}.example" for number in range(THREADS)]
    names = await knowing(server, *hanging, "good.example")
    waiting = ask(names, *hanging)
    await until(lambda: server.hanging == THREADS, "every thread hangs")
    assert await seconds_of(names, "good.example") < 1 + SOON
    assert not any(host in names._known for host in hanging)
    server.release.set()
    assert await asyncio.gather(*waiting) == [["127.0.0.1"]] * THREADS, "who waits on is answered"
    await until(lambda: len(alive(server)) <= THREADS, "threads that were replaced have ended")


async def test_a_lookup_nobody_waits_for_is_given_up_before_its_time(server: Names) -> None:
    hanging = [f"hang{number}.example" for number in range(4)]
    names = await knowing(server, *hanging, "good.example", threads=4, patience=4)
    waiting = ask(names, *hanging)
    await until(lambda: server.hanging == 4, "every thread hangs")
    await give_up(waiting)
    assert await seconds_of(names, "good.example") < 3


async def test_threads_that_hang_are_bounded(server: Names) -> None:
    hanging = [f"hang{number}.example" for number in range(40)]
    names = await knowing(server, *hanging, threads=4, given_up=6, patience=0.05)
    waiting = ask(names, *hanging)
    await until(lambda: server.hanging == 10, "four threads hang, and six that were given up on")
    await asyncio.sleep(0.2)  # in which others would be given up on, if there were no bound
    assert (server.most_hanging, names._given_up, len(alive(server))) == (10, 6, 10)
    server.release.set()
    await asyncio.gather(*waiting)
    assert (names._given_up, len(names._running)) == (0, 0)


async def test_unknown_names_may_use_up_half_of_that(server: Names) -> None:
    """So that what hangs among the known ones can be replaced, whatever else comes."""
    names = await knowing(server, "hang.example", "good.example", threads=4, given_up=4, patience=0.05)
    waiting = ask(names, *(f"hang{number}.example" for number in range(40)))
    await until(lambda: names._given_up == 2, "two of four are given up on")
    waiting += ask(names, "hang.example")
    await until(lambda: names._given_up == 3, "the known one is, too")
    assert await seconds_of(names, "good.example") < SOON
    assert server.hanging == 6
    await give_up(waiting)


async def test_a_known_name_that_was_given_up_on_is_unknown(server: Names) -> None:
    """So it takes a thread of the known ones once, not for ever."""
    names = await knowing(server, "hang.example", "good.example", patience=0.05)
    [waiting] = ask(names, "hang.example")
    await until(lambda: names._given_up, "it is given up on")
    assert list(names._known) == ["good.example"]
    server.release.set()
    assert await waiting == ["127.0.0.1"]
    assert list(names._known) == ["good.example"], "it came too late"


async def test_a_name_stays_known_when_it_fails_once(server: Names) -> None:
    names = await knowing(server, "h.example")
    for _ in range(2):
        await fails(names, server, "h.example", times=FAILURES - 1)
        assert list(names._known) == ["h.example"]
        await names.addresses("h.example")
    await fails(names, server, "h.example", times=FAILURES)
    assert list(names._known) == []


async def test_a_name_that_never_resolved_is_not_known_by_failing(server: Names) -> None:
    names = LookupThreads(server)
    await fails(names, server, "none.example", times=1)
    assert list(names._known) == []


async def test_few_names_are_remembered(server: Names) -> None:
    names = LookupThreads(server, known_names=10)
    for number in range(25):
        await names.addresses(f"h{number}.example")
    assert list(names._known) == [f"h{number}.example" for number in range(15, 25)]


async def test_lookups_nobody_waits_for_are_dropped(server: Names) -> None:
    names = LookupThreads(server, threads=1)
    [first] = ask(names, "hang.example")
    await until(lambda: server.hanging, "the only thread hangs")
    await give_up(ask(names, *(f"q{number}.example" for number in range(50))))
    server.release.set()
    assert await first == ["127.0.0.1"]
    await names.addresses("last.example")
    assert server.asked == ["hang.example", "last.example"]


async def test_after_the_close_threads_end_and_calls_are_refused(server: Names) -> None:
    names = LookupThreads(server, threads=4)
    await asyncio.gather(*ask(names, "a.example", "b.example"))
    before = {thread for thread in threading.enumerate() if thread.ident in server.threads}
    names.close()
    await until(lambda: not any(thread.is_alive() for thread in before), "the threads have ended")
    with pytest.raises(OSError, match="closed"):
        await names.addresses("c.example")


# --- what requests are told


async def test_other_hosts_are_reached_while_one_name_hangs(
    serve: Serve, make_engine: MakeEngine, server: Names
) -> None:
    target = await serve(ok)
    engine = make_engine(Limits(connect_timeout=20), names=LookupThreads(server, threads=2))
    url = f"http://%s:{target.port}/"
    slow = [asyncio.create_task(engine.send(Request("GET", url % "hang.example", timeout=20))) for _ in range(200)]
    await until(lambda: server.hanging, "the lookup runs")
    began = time.monotonic()
    for number in range(10):
        assert (await engine.send(Request("GET", url % f"h{number}.example"))).status == 200
    assert time.monotonic() - began < SOON
    server.release.set()
    assert {answer.status for answer in await asyncio.gather(*slow)} == {200}
    assert server.most_hanging == 1


async def test_a_lookup_that_hangs_ends_at_the_connect_timeout(make_engine: MakeEngine, server: Names) -> None:
    engine = make_engine(Limits(connect_timeout=0.2), names=LookupThreads(server))
    began = time.monotonic()
    with pytest.raises(NotInTime):
        await engine.send(Request("GET", "http://hang.example/", timeout=30))
    assert 0.15 < time.monotonic() - began < SOON


@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_NODATA])
async def test_a_name_without_addresses_was_not_sent(make_engine: MakeEngine, number: int) -> None:
    def answers(host: str) -> list[str]:
        raise socket.gaierror(number, "what the resolver says")

    with pytest.raises(NotSent) as caught:
        await make_engine(names=LookupThreads(answers)).send(Request("GET", "http://a.example/"))
    assert str(caught.value) == "the name was not resolved"


async def test_a_lookup_that_breaks_in_an_odd_way_was_not_sent(make_engine: MakeEngine) -> None:
    """A name the system's codec refuses, for instance: nobody waits for ever."""

    def answers(host: str) -> list[str]:
        raise UnicodeError("label too long")

    with pytest.raises(NotSent):
        await make_engine(names=LookupThreads(answers)).send(Request("GET", "http://a.example/"))


def test_the_systems_resolver_gives_each_address_once() -> None:
    assert lookup("localhost")
    assert len(set(lookup("localhost"))) == len(lookup("localhost"))
