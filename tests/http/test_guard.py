"""Which addresses a job may reach: tables of decisions. Real connects are in test_any_address.py."""

from __future__ import annotations

import ipaddress

import pytest

from tests.http.any_address import PUBLIC4, PUBLIC6, vectors
from worker import Reject
from worker.http import guard as guards
from worker.http.guard import Blocked, Guard, is_own
from worker.http.lookups import LookupThreads
from worker.http.resolver import DIALLED, GuardedResolver
from worker.http.url import parse_url
from worker.ops.settings.addresses import http_allow


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


@pytest.mark.parametrize("table", ["_DENIED_IPV4", "_DENIED_IPV6"])
def test_the_corpus_notices_any_range_that_is_missing(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    whole = getattr(guards, table)
    for hole in whole:
        monkeypatch.setattr(guards, table, tuple(network for network in whole if network != hole))
        noticed = [url for expected, url in vectors() if verdict(Guard(), url) != expected]
        assert noticed, f"no vector is in {hole}"


def test_the_corpus_notices_where_what_is_routed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for wider in ("::/2", "::/1", "::/0"):
        monkeypatch.setattr(guards, "_ROUTED_IPV6", ipaddress.IPv6Network(wider))
        assert [url for expected, url in vectors() if verdict(Guard(), url) != expected]


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
    ([], ["db.internal"], "db.internal", 80, ["fd00:ec2::23"], False),
    ([], ["db.internal"], "db.internal", 80, ["fd20:ce::254"], False),
    ([], ["db.internal"], "db.internal", 80, ["fd00:42::42"], False),
    ([], ["db.internal"], "db.internal", 80, ["fd00:c1::a9fe:a9fe"], False),
    ([], ["db.internal"], "db.internal", 80, ["fd00:a9fe:a9fe::1"], False),
    ([], ["db.internal"], "db.internal", 80, ["64:ff9b::100.100.100.200"], False),
    ([], ["db.internal"], "db.internal", 80, ["64:ff9b::127.0.0.1"], False),
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


def test_endpoints_may_change() -> None:
    """A broker whose URL is given new content in its file is closed at once."""
    now = [("10.1.1.1", 5672)]
    guard = Guard(["10.0.0.0/8"], forbidden_endpoints=lambda: now)
    guard.check("10.1.1.2", 5672, ["10.1.1.2"])
    now.append(("10.1.1.2", 5672))
    for host in ("10.1.1.1", "10.1.1.2"):
        with pytest.raises(Blocked):
            guard.check(host, 5672, [host])


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
    # by way of a translator, a relay or a tunnel
    (("10.1.1.1", 5672), "a.example", 5672, "64:ff9b::a01:101", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "64:ff9b:1::a01:101", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "2002:a01:101::1", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "::10.1.1.1", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "2a00::5efe:a01:101", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "2001:0:a01:101::", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "2001::f5fe:fefe", [], False),
    (("10.1.1.1", 5672), "a.example", 5672, "2002:a01:102::1", [], True),
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


def test_what_the_setting_lists_is_open() -> None:
    """As worker/cli/wiring.py hands it on."""
    allow = http_allow().parse("10.0.0.0/8, 192.168.1.1, ::1, db.internal")
    guard = Guard(map(str, allow.networks), allow.hosts)
    for host, address in [("x", "10.1.1.1"), ("x", "192.168.1.1"), ("x", "::1"), ("db.internal", "172.16.0.1")]:
        guard.check(host, 80, [address])
    with pytest.raises(Blocked):
        guard.check("x", 80, ["172.16.0.1"])


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "x/8", "10.0.0.0/8/9"])
def test_an_entry_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=entry.replace(".", r"\.")):
        Guard([entry])


async def test_every_answer_is_judged_also_those_that_are_not_dialled() -> None:
    answers = [f"203.0.114.{number}" for number in range(1, DIALLED + 1)]
    good = GuardedResolver(Guard(), LookupThreads(lambda _: answers))
    assert [one["host"] for one in await good.resolve("a.example", 443)] == answers
    bad = GuardedResolver(Guard(), LookupThreads(lambda _: [*answers, "10.0.0.1"]))
    with pytest.raises(Blocked):
        await bad.resolve("a.example", 443)


def test_the_reason_is_the_same_for_all_and_tells_nothing() -> None:
    texts = set()
    for answers in (["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1", PUBLIC4]):
        with pytest.raises(Reject) as caught:
            Guard().check("a.example", 80, answers)
        assert caught.value.code == "blocked_address"
        texts.add(caught.value.detail)
    assert texts == {"the address of a.example is not allowed"}
