"""The broker's and the admin listener's addresses as a job might spell them."""

from __future__ import annotations

from collections.abc import Iterator

ENDPOINTS = [("127.0.0.1", 5672), ("0.0.0.0", 8080), ("rabbit.example", 5672)]
"""The broker on loopback, also by a name, and an admin listener on every address."""

OWN = (
    *("127.0.0.1", "127.0.0.2", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.255.255.254", "127.0.0.1."),
    *("0.0.0.0", "0", "10.55.0.1", "0x0a370001", "10.3604481", "171376641"),
    *("[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]", "[::ffff:10.55.0.1]", "[::ffff:a37:1]"),
    *("[64:ff9b::127.0.0.1]", "[64:ff9b::a37:1]", "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::1]", "[2002:a37:1::]"),
    *("[::127.0.0.1]", "[::10.55.0.1]", "[2a00:1450::5efe:127.0.0.1]", "[2001:0:7f00:1::]", "[2001::80ff:fffe]"),
    *("localhost", "LOCALHOST.", "rabbit.example", "Rabbit.Example.", "alias.example"),
)
OTHERS = ("10.55.0.2", "8.8.8.8", "[2a00:1450:4001:81b::200e]", "192.168.1.1")


def endpoint_urls() -> Iterator[tuple[str, str]]:
    """(verdict, URL): their ports are closed on every own address, and open on other machines; other ports are open."""
    for port in (5672, 8080):
        yield from (("blocked", f"http://{host}:{port}/") for host in OWN)
        yield from (("public", f"http://{host}:{port}/") for host in OTHERS)
    yield from (("public", f"http://{host}:8081/") for host in ("127.0.0.1", "[::1]", "10.55.0.1", "0.0.0.0"))
