"""Redirects that go round, grow, lie or lead where nobody may go."""

from __future__ import annotations

import asyncio

from tests.http.hostile.behaviour import Behaviour
from tests.http.hostile.farm import Peer, Script


def to(location: bytes, *, status: bytes = b"302", after: float = 0.0) -> Script:
    """Every request is sent on to `location`; `{path}` in it is the path that was asked for."""

    async def script(peer: Peer) -> None:
        while True:
            path = (await peer.request()).split(" ")[1]
            await asyncio.sleep(after)
            there = location.replace(b"{path}", path.encode())
            await peer.say(b"HTTP/1.1 %s X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, there))

    return script


_FOLLOWED = tuple(
    Behaviour(f"a redirect: {name}", script, end, redirects=3)
    for name, script, end in (
        ("to itself", to(b"/"), "302"),
        ("to itself, growing", to(b"{path}/" + b"a" * 4000), "302"),
        ("slower than the deadline, all in all", to(b"{path}a", after=0.3), "RequestTimeout"),
        ("that keeps the method", to(b"/", status=b"307"), "307"),
        ("without a place", to(b""), "302"),
        ("to noise", to(b"\x80\xff\x01"), "302"),
        ("to a line break", to(b"http://127.0.0.1/%0d%0aX:1/../\\..\x0b"), "302"),
        ("of 15 kB", to(b"/" + b"a" * 15_000), "302"),
        ("to another scheme", to(b"ftp://127.0.0.1/"), "302"),
        ("to a file", to(b"file:///etc/passwd"), "302"),
        ("to script", to(b"javascript:alert(1)"), "302"),
        ("with a user", to(b"http://user:pass@127.0.0.1/"), "302"),
        ("to a private address", to(b"http://10.0.0.1/"), "blocked_address"),
        ("to metadata, in hexadecimal", to(b"http://0xa9fea9fe/"), "blocked_address"),
        ("to a closed port", to(b"http://127.0.0.1:9/"), "MaybeSent"),
    )
)

REDIRECTS = (
    *_FOLLOWED,
    Behaviour(
        "a redirect: from https to http", to(b"http://127.0.0.1:9/"), "302", redirects=3, tls="good", secure=True
    ),
    Behaviour("a redirect nobody asked for", to(b"/"), "302"),
)
