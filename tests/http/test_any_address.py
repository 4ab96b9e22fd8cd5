"""The guard where every address answers: the corpus by every way, in a network namespace with no way out of it."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.any_address import INTERFACE, PUBLIC4, PUBLIC6, START_ADDRESS, vectors
from tests.http.ways import MANY, OPENED, SOME, WAYS
from worker.http.url import parse_url

pytestmark = pytest.mark.timeout(300)  # ten seconds, where the machine has nothing else to do

HERE = Path(__file__).parent
NAMES = [way for way in SOME if way.startswith("name")]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> list[Network]:
    return [ipaddress.ip_network(entry) for entry in text.split()]


PRIVATE = networks("10.0.0.0/8 100.64.0.0/10 172.16.0.0/12 192.168.0.0/16 fc00::/7")
METADATA = networks("100.100.100.200 fd00:ec2::/32 fd20:ce::254 fd00:42::42 fd00:c1::a9fe:a9fe fd00:a9fe:a9fe::1")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
PUBLIC = {START_ADDRESS, PUBLIC4, PUBLIC6, *MANY} | {
    parse_url(url).host.removeprefix("::ffff:") for verdict, url in vectors() if verdict == "public"
}
"""The addresses that may be reached, one by one, as the operator of these tests would list them."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report of any_address.py, run where the whole internet is this machine and there is no way out of it."""
    directory = str(tmp_path_factory.mktemp("namespace"))
    for unshare in (["unshare", "-rn"], ["unshare", "-n"]):
        command = [*unshare, sys.executable, str(HERE / "any_address.py"), directory]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        except FileNotFoundError:
            break
        if done.stdout:
            return json.loads(done.stdout)
        if "unshare" not in done.stderr:
            pytest.fail(done.stderr)
    pytest.skip("NO NETWORK NAMESPACE: neither user namespaces nor root here, the guard is only tested on paper")


def each(report: Any, setup: str) -> Iterator[tuple[str, dict[str, Any], Any, int]]:
    """(way, result, address, port) of everything that was dialled."""
    for way, results in report[setup].items():
        for one in results:
            for address, port in one["dialled"]:
                yield way, one, ipaddress.ip_address(address), port


def astray(report: Any, setup: str, allowed: Callable[[str, Any, int], bool]) -> list[tuple[str, str, str, int]]:
    """(way, URL, address, port) of what was dialled and should not have been."""
    return [
        (way, one["url"], str(address), port)
        for way, one, address, port in each(report, setup)
        if not allowed(way, address, port)
    ]


def within(address: Any, among: list[Network]) -> bool:
    real = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else address
    return any(real.version == network.version and real in network for network in among)


def is_public(address: Any, port: int) -> bool:
    return str(address) in PUBLIC and (port in (80, 443) or port >= 1024)


def test_the_namespace_has_no_way_out_and_the_observer_lost_nothing(report: Any) -> None:
    assert (report["interfaces"], report["routes_before"], report["lost"]) == (["lo"], "", 0)


def test_the_corpus_is_large_and_goes_every_way(report: Any) -> None:
    by_verdict = {verdict: {url for one, url in vectors() if one == verdict} for verdict in ("blocked", "invalid")}
    assert len(by_verdict["blocked"]) > 300
    assert len(by_verdict["invalid"]) > 150
    assert tuple(report["nothing allowed"]) == WAYS
    for results in report["nothing allowed"].values():
        assert [one["url"] for one in results] == [url for _, url in vectors()]


def test_with_nothing_allowed_only_public_addresses_are_dialled(report: Any) -> None:
    """By no way, and not even where httpx or a redirect has made another URL of the vector."""
    assert astray(report, "nothing allowed", lambda way, address, port: is_public(address, port)) == []


def test_a_vector_that_is_blocked_makes_no_connection_at_all(report: Any) -> None:
    """Nor to the public addresses beside it; where a redirect or a rebinding name leads to it, only the first."""
    blocked = [found for found in each(report, "nothing allowed") if found[1]["verdict"] == "blocked"]
    assert {(way, str(address)) for way, _, address, _ in blocked} == {
        (way, START_ADDRESS) for way in WAYS if "redirect" in way or "rebinding" in way
    }


def test_each_end_is_named(report: Any) -> None:
    found = report["nothing allowed"]
    assert ends(found["lean"]) == {("blocked", "blocked_address"), ("invalid", "ValueError"), ("public", "200")}
    unread = {("invalid", "invalid_payload"), ("invalid", "malformed")}
    assert ends(found["job"]) == {("blocked", "blocked_address"), ("public", "succeeded")} | unread
    for way in ("name", "name beside a public one", "name with both families", "name with 1000 answers"):
        assert ends(found[way]) == {("blocked", "blocked_address"), ("invalid", "no URL"), ("public", "200")}
    for way in ("rebinding", "rebinding by redirect"):
        assert ends(found[way]) == {("blocked", "blocked_address"), ("invalid", "no URL"), ("public", "200")}
    for way in ("httpx", "httpx redirect"):
        named = {"blocked_address", "InvalidURL", "UnsupportedProtocol", "LocalProtocolError", "RemoteProtocolError"}
        assert {end for _, end in ends(found[way])} <= named | {"200", "no header can carry it"}


def ends(results: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["verdict"], one["end"]) for one in results}


@pytest.mark.parametrize("way", [way for way in WAYS if "httpx" not in way])
def test_public_addresses_are_dialled_and_answer(report: Any, way: str) -> None:
    """The control: here they answer, so a blocked one would have answered, too."""
    public = [one for one in report["nothing allowed"][way] if one["verdict"] == "public"]
    assert [one for one in public if not one["heard"]] == []
    assert [one for one in public if sorted(one["heard"]) != sorted(one["dialled"])] == []


def test_allowed_networks_are_opened_exactly(report: Any) -> None:
    opened = networks(" ".join(OPENED))

    def is_open(way: str, address: Any, port: int) -> bool:
        return within(address, opened) or is_public(address, port)

    assert astray(report, "networks allowed", is_open) == []
    dialled = {(str(address), port) for _, _, address, port in each(report, "networks allowed")}
    assert {("127.0.0.1", 22), ("10.0.0.1", 6443), ("::1", 80), ("fd00:ec2::254", 80)} <= dialled


def test_an_allowed_name_opens_its_private_answers_and_no_others(report: Any) -> None:

    def is_open(way: str, address: Any, port: int) -> bool:
        return is_public(address, port) or (way in NAMES and is_open_by_name(address, port))

    assert astray(report, "name allowed", is_open) == []
    dialled = {(str(address), port) for way, _, address, port in each(report, "name allowed") if way in NAMES}
    assert {("10.0.0.1", 80), ("192.168.0.1", 80), ("10.0.0.1", 6443), ("fc00::1", 80), (PUBLIC4, 22)} <= dialled


def is_open_by_name(address: Any, port: int) -> bool:
    private = within(address, PRIVATE) and not within(address, METADATA)
    return port > 0 and (private or str(address) in PUBLIC or str(address) == "64:ff9b::808:808")


def test_the_broker_and_the_admin_listener_are_never_dialled(report: Any) -> None:
    """With everything else allowed: by no spelling, no address of this machine, no name that leads there."""
    own = [*networks(f"127.0.0.0/8 ::1 {INTERFACE}"), *networks("::/96 2002::/16 64:ff9b::/32 2001::/32")]
    setup = "all but broker and admin allowed"
    assert astray(report, setup, lambda way, address, port: port == 8081 or not within(address, own)) == []
    dialled = {(str(address), port) for _, _, address, port in each(report, setup)}
    elsewhere = {("10.55.0.2", 5672), ("192.168.1.1", 8080), ("127.0.0.1", 8081), (INTERFACE, 8081), ("::1", 8081)}
    assert elsewhere <= dialled


def test_what_the_environment_says_changes_nothing(report: Any) -> None:
    """All of this was run with HTTP_PROXY and its like, and a netrc, that lead to 127.0.0.1:8080."""
    assert report["environment"] == "http://127.0.0.1:8080/"
    for setup in ("nothing allowed", "name allowed"):
        assert [one for one in each(report, setup) if str(one[2]) == "127.0.0.1"] == []


def test_the_observer_sees_a_guard_with_a_hole(report: Any) -> None:
    """The tests above can fail: without 10.0.0.0/8 in the table, these connections are seen."""
    through = {str(address) for _, _, address, port in each(report, "planted") if not is_public(address, port)}
    assert through >= {"10.0.0.1", "10.0.0.2", "10.255.255.255"}
