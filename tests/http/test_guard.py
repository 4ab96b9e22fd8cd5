"""Which addresses a job may reach: tables of decisions, then real connects where every address answers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.http.targets import Exchange, MakeEngine, Serve
from worker import Limits, NotSent, Reject, Request
from worker.http.engine import Engine
from worker.http.guard import Blocked, Guard, is_own
from worker.http.resolver import LookupThreads
from worker.http.url import parse_url

HERE = Path(__file__).parent
PUBLIC4, PUBLIC6 = "8.8.8.8", "2a00:1450:4001:81b::200e"


def vectors() -> list[tuple[str, str]]:
    lines = (HERE / "addresses.txt").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(verdict, json.loads(url)) for verdict, url in pairs]


def verdict(guard: Guard, url: str) -> str:
    try:
        parsed = parse_url(url)
    except ValueError:
        return "invalid"
    try:
        guard.check(parsed.host, parsed.port, ["127.0.0.1"] if parsed.literal is None else [parsed.host])
    except Blocked:
        return "blocked"
    return "public"


@pytest.mark.parametrize(("expected", "url"), vectors())
def test_the_corpus_with_nothing_allowed(expected: str, url: str) -> None:
    assert verdict(Guard(), url) == expected


# (allowed networks, allowed hosts, host, port, answers) -> reachable
DECISIONS: list[tuple[list[str], list[str], str, int, list[str], bool]] = [
    # one denied answer denies them all
    ([], [], "a.example", 443, [PUBLIC4, PUBLIC6], True),
    ([], [], "a.example", 443, [PUBLIC4, "10.0.0.1"], False),
    ([], [], "a.example", 443, [PUBLIC4, "::1"], False),
    ([], [], "a.example", 443, [], False),
    ([], [], "a.example", 443, ["no address"], False),
    ([], [], "a.example", 443, [f"1.1.{n // 250}.{n % 250 + 1}" for n in range(1000)] + ["127.0.0.1"], False),
    # a CIDR opens exactly what it holds, on any port
    (["10.1.0.0/16"], [], "10.1.2.3", 22, ["10.1.2.3"], True),
    (["10.1.0.0/16"], [], "10.2.0.1", 80, ["10.2.0.1"], False),
    (["10.1.0.0/16"], [], "a.example", 80, ["10.1.2.3", "10.2.0.1"], False),
    (["10.1.0.0/16"], [], "::ffff:10.1.2.3", 80, ["::ffff:10.1.2.3"], True),
    (["127.0.0.0/8"], [], "localhost", 9, ["127.0.0.1"], True),
    (["127.0.0.0/8"], [], "localhost", 9, ["127.0.0.1", "::1"], False),
    (["127.0.0.0/8"], [], "0.0.0.0", 80, ["0.0.0.0"], False),
    (["::1/128"], [], "::1", 80, ["::1"], True),
    (["169.254.169.254/32"], [], "169.254.169.254", 80, ["169.254.169.254"], True),
    (["64:ff9b:1::/48"], [], "64:ff9b:1::1", 80, ["64:ff9b:1::1"], True),
    (["10.0.0.0/8"], [], "8.8.8.8", 22, ["8.8.8.8"], False),
    # a name opens its private answers, on any port, never loopback, link-local or metadata
    ([], ["db.internal"], "db.internal", 22, ["10.0.0.1"], True),
    ([], ["db.internal"], "DB.internal.", 22, ["10.0.0.1", "fd00::1"], True),
    ([], ["DB.Internal."], "db.internal", 22, ["192.168.1.1"], True),
    ([], ["db.internal"], "db.internal", 22, [PUBLIC4], True),
    ([], ["db.internal"], "other.internal", 80, ["10.0.0.1"], False),
    ([], ["db.internal"], "x.db.internal", 80, ["10.0.0.1"], False),
    ([], ["db.internal"], "10.0.0.1", 80, ["10.0.0.1"], False),
    ([], ["db.internal"], "db.internal", 80, ["10.0.0.1", "127.0.0.1"], False),
    ([], ["db.internal"], "db.internal", 80, ["::ffff:127.0.0.1"], False),
    ([], ["db.internal"], "db.internal", 80, ["::1"], False),
    ([], ["db.internal"], "db.internal", 80, ["169.254.169.254"], False),
    ([], ["db.internal"], "db.internal", 80, ["fe80::1"], False),
    ([], ["db.internal"], "db.internal", 80, ["fe80::1%eth0"], False),
    ([], ["db.internal"], "db.internal", 80, ["168.63.129.16"], False),
    ([], ["db.internal"], "db.internal", 80, ["100.100.100.200"], False),
    ([], ["db.internal"], "db.internal", 80, ["fd00:ec2::254"], False),
    ([], ["db.internal"], "db.internal", 80, ["0.0.0.0"], False),
    ([], ["db.internal"], "db.internal", 80, ["224.0.0.1"], False),
    ([], ["localhost"], "localhost", 80, ["127.0.0.1"], False),
    ([], ["db.internal"], "db.internal", 0, ["10.0.0.1"], False),
    # ports
    ([], [], PUBLIC4, 80, [PUBLIC4], True),
    ([], [], PUBLIC4, 443, [PUBLIC4], True),
    ([], [], PUBLIC4, 1024, [PUBLIC4], True),
    ([], [], PUBLIC4, 65535, [PUBLIC4], True),
    ([], [], PUBLIC4, 1023, [PUBLIC4], False),
    ([], [], PUBLIC4, 444, [PUBLIC4], False),
]


@pytest.mark.parametrize(("networks", "hosts", "host", "port", "answers", "reachable"), DECISIONS)
def test_decisions(
    networks: list[str], hosts: list[str], host: str, port: int, answers: list[str], reachable: bool
) -> None:
    guard = Guard(networks, hosts)
    if reachable:
        guard.check(host, port, answers)
    else:
        with pytest.raises(Blocked):
            guard.check(host, port, answers)


OWN = {"127.0.0.1", "127.0.0.2", "::1", "10.9.9.9"}
EVERYTHING = ["0.0.0.0/0", "::/0"]

# (forbidden endpoint, host, port, address, resolved endpoint) -> reachable, with everything else allowed
ENDPOINTS: list[tuple[tuple[str, int], str, int, str, list[str], bool]] = [
    (("10.1.1.1", 5672), "10.1.1.1", 5672, "10.1.1.1", [], False),
    (("10.1.1.1", 5672), "10.1.1.1", 15672, "10.1.1.1", [], True),
    (("10.1.1.1", 5672), "10.1.1.2", 5672, "10.1.1.2", [], True),
    (("10.1.1.1", 5672), "a.example", 5672, "::ffff:10.1.1.1", [], False),
    (("[::1]", 5672), "::1", 5672, "::1", [], False),
    # two addresses of this machine are one: a listener on 0.0.0.0 answers on both
    (("127.0.0.1", 8080), "127.0.0.2", 8080, "127.0.0.2", [], False),
    (("127.0.0.1", 8080), "10.9.9.9", 8080, "10.9.9.9", [], False),
    (("0.0.0.0", 8080), "10.9.9.9", 8080, "10.9.9.9", [], False),
    (("::", 8080), "127.0.0.1", 8080, "127.0.0.1", [], False),
    (("127.0.0.1", 8080), "0.0.0.0", 8080, "0.0.0.0", [], False),
    (("127.0.0.1", 8080), "::", 8080, "::", [], False),
    (("127.0.0.1", 8080), "10.1.1.1", 8080, "10.1.1.1", [], True),
    # by name, and by what the name resolves to
    (("rabbit.internal", 5672), "Rabbit.internal.", 5672, "10.1.1.1", ["10.7.7.7"], False),
    (("rabbit.internal", 5672), "alias.internal", 5672, "10.7.7.7", ["10.7.7.7"], False),
    (("rabbit.internal", 5672), "alias.internal", 5672, "10.7.7.8", ["10.7.7.7"], True),
    (("localhost", 5672), "127.0.0.2", 5672, "127.0.0.2", ["127.0.0.1"], False),
]


@pytest.mark.parametrize(("endpoint", "host", "port", "address", "resolved", "reachable"), ENDPOINTS)
def test_the_brokers_and_the_admins_own_address_are_never_reachable(
    endpoint: tuple[str, int], host: str, port: int, address: str, resolved: list[str], reachable: bool
) -> None:
    guard = Guard(EVERYTHING, ["rabbit.internal"], [endpoint], is_own=lambda address: str(address) in OWN)
    if reachable:
        guard.check(host, port, [address], resolved)
    else:
        with pytest.raises(Blocked):
            guard.check(host, port, [address], resolved)


def test_what_is_this_machine() -> None:
    own = {text: is_own(parse_url(f"http://{text}/").literal) for text in ("127.0.0.1", "127.9.9.9", "192.0.2.77")}  # type: ignore[arg-type]
    assert own == {"127.0.0.1": True, "127.9.9.9": True, "192.0.2.77": False}


def test_entries_are_sorted_into_networks_and_names() -> None:
    guard = Guard.from_entries(["10.0.0.0/8", "192.168.1.1", "::1", "db.internal"])
    for host, address in [("x", "10.1.1.1"), ("x", "192.168.1.1"), ("x", "::1"), ("db.internal", "172.16.0.1")]:
        guard.check(host, 80, [address])
    with pytest.raises(Blocked):
        guard.check("x", 80, ["172.16.0.1"])


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "x/8", "10.0.0.0/8/9"])
def test_an_entry_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=entry.replace(".", r"\.")):
        Guard.from_entries([entry])


def test_the_reason_is_the_same_for_all_and_tells_nothing() -> None:
    texts = set()
    for answers in (["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1", PUBLIC4]):
        with pytest.raises(Reject) as caught:
            Guard().check("a.example", 80, answers)
        assert caught.value.code == "blocked_address"
        texts.add(caught.value.detail)
    assert texts == {"the address of a.example is not allowed"}


# --- the hooks, on loopback


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def resolving(answers: Any) -> LookupThreads:
    return LookupThreads(lambda host: list(answers(host)))


async def test_a_rebinding_name_is_looked_up_once_and_pinned(serve: Serve, make_engine: MakeEngine) -> None:
    """The address that was judged is the one dialled; the next connection asks again, and is judged again."""
    target = await serve(ok)
    asked: list[str] = []

    def answers(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.1", "10.0.0.1"]

    engine = make_engine(names=resolving(answers))
    url = f"http://rebind.example:{target.port}/"
    assert (await engine.send(Request("GET", url))).status == 200
    assert (await engine.send(Request("GET", url))).status == 200
    assert (asked, target.connections) == (["rebind.example"], 1)
    for writer in target.writers:
        writer.close()
    await asyncio.sleep(0.05)
    with pytest.raises(Blocked):
        await engine.send(Request("GET", url))
    assert (len(asked), target.connections) == (2, 1)


async def test_the_broker_is_closed_when_its_name_cannot_be_resolved(serve: Serve, make_engine: MakeEngine) -> None:
    target = await serve(ok)

    def answers(host: str) -> list[str]:
        raise OSError("no such name")

    guard = Guard(["127.0.0.0/8"], forbidden_endpoints=[("rabbit.internal", target.port)])
    with pytest.raises(Blocked):
        await make_engine(guard=guard, names=resolving(answers)).send(Request("GET", target.url))
    assert target.connections == 0


async def test_the_broker_is_closed_by_the_address_of_its_name(serve: Serve, make_engine: MakeEngine) -> None:
    target = await serve(ok)
    guard = Guard(["127.0.0.0/8"], forbidden_endpoints=[("rabbit.internal", target.port)])
    engine = make_engine(guard=guard, names=resolving(lambda host: ["127.0.0.1"]))
    for host in ("127.0.0.1", "127.0.0.2", "alias.example", "rabbit.internal"):
        with pytest.raises(Blocked):
            await engine.send(Request("GET", f"http://{host}:{target.port}/"))
    assert target.connections == 0


async def test_the_self_test_passes_and_sends_nothing(engine: Engine) -> None:
    await engine.self_test()


@pytest.mark.parametrize("hook", ["open_socket", "check"])
async def test_the_self_test_fails_when_a_hook_is_gone(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    import socket

    from worker.http import guard, resolver

    if hook == "check":
        monkeypatch.setattr(guard.Guard, "check", lambda *arguments: None)
    else:
        monkeypatch.setattr(resolver.GuardedResolver, "open_socket", lambda self, info: socket.socket(*info[:3]))
    with pytest.raises(RuntimeError, match="guard is not live"):
        await make_engine().self_test()


# --- lookups


async def test_a_slow_name_holds_nobody_up(serve: Serve, make_engine: MakeEngine) -> None:
    """200 requests for one hanging name take one thread; others are resolved meanwhile."""
    target = await serve(ok)
    release, threads = threading.Event(), set()

    def answers(host: str) -> list[str]:
        threads.add(threading.current_thread().name + str(threading.get_ident()))
        if host == "slow.example":
            release.wait(5)
        return ["127.0.0.1"]

    engine = make_engine(Limits(connect_timeout=2), names=LookupThreads(answers, threads=2))
    url = f"http://%s:{target.port}/"
    slow = [asyncio.create_task(engine.send(Request("GET", url % "slow.example", timeout=0.5))) for _ in range(200)]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    for number in range(10):
        assert (await engine.send(Request("GET", url % f"h{number}.example"))).status == 200
    assert time.monotonic() - began < 0.3
    ends = await asyncio.gather(*slow, return_exceptions=True)
    release.set()
    assert all(isinstance(end, NotSent) for end in ends)
    assert len(threads) == 2


async def test_an_abandoned_lookup_is_dropped_and_not_answered_later() -> None:
    release, asked = threading.Event(), list[str]()

    def answers(host: str) -> list[str]:
        asked.append(host)
        release.wait(5)
        return [str(len(asked))]

    names = LookupThreads(answers, threads=1)
    first = asyncio.create_task(names.addresses("first.example"))
    await asyncio.sleep(0.05)
    queued = [asyncio.create_task(names.addresses(f"q{number}.example")) for number in range(50)]
    await asyncio.sleep(0.05)
    for task in queued:
        task.cancel()
    await asyncio.gather(*queued, return_exceptions=True)
    release.set()
    assert await first == ["1"]
    assert await names.addresses("last.example") == ["2"]
    assert asked == ["first.example", "last.example"]
    names.close()


# --- where every address answers


def in_namespace(*arguments: str) -> Any:
    """The report of any_address.py, run where the whole internet is this machine and there is no way out of it."""
    for unshare in (["unshare", "-rn"], ["unshare", "-n"]):
        command = [*unshare, sys.executable, str(HERE / "any_address.py"), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except FileNotFoundError:
            break
        if done.stdout:
            return json.loads(done.stdout)
    pytest.skip("NO NETWORK NAMESPACE: neither user namespaces nor root here, the guard is only tested on paper")


@pytest.fixture(scope="module")
def report() -> Any:
    return in_namespace()


def test_the_namespace_has_no_way_out(report: Any) -> None:
    assert report["interfaces"] == ["lo"]
    assert report["routes_before"] == ""


def reachable() -> set[tuple[str, int]]:
    """Addresses and ports of the public vectors."""
    urls = [parse_url(url) for verdict, url in vectors() if verdict == "public"]
    return {(url.host.removeprefix("::ffff:"), url.port) for url in urls} | {("8.8.8.8", 80)}


@pytest.mark.parametrize("way", ["lean", "httpx", "redirect", "httpx redirect", "name", "name beside a public one"])
def test_no_vector_reaches_an_address_nobody_allowed(report: Any, way: str) -> None:
    """Not even one that httpx or a redirect has made another URL of: what counts is the address that was reached."""
    reached = {(address, port): one["url"] for one in report[way] for address, port in one["reached"]}
    assert {where: url for where, url in reached.items() if where not in reachable()} == {}
    assert [one for one in report[way] if one["verdict"] == "blocked" and one["reached"]] == []
    assert sum(one["verdict"] == "blocked" for one in report[way]) > 100


@pytest.mark.parametrize("way", ["lean", "name", "redirect"])
def test_public_addresses_are_reached(report: Any, way: str) -> None:
    """The control: here they answer, so a blocked one would have answered too."""
    assert [one for one in report[way] if one["verdict"] == "public" and not one["reached"]] == []


def test_each_end_is_named(report: Any) -> None:
    ends = {(one["verdict"], one["end"]) for one in report["lean"]}
    assert ends == {("blocked", "blocked_address"), ("invalid", "ValueError"), ("public", "200")}
