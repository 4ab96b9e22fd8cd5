"""Targets that close, reset, stall or do not read; and what TLS can do wrong."""

from __future__ import annotations

import asyncio

from tests.http.hostile.behaviour import GOOD, OK, Behaviour, says
from tests.http.hostile.farm import Peer

LARGE = b"x" * (8 << 20)
TOO_LARGE = b"HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno"


async def close_at_once(peer: Peer) -> None:
    pass


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def say_nothing(peer: Peer) -> None:
    await peer.hang()


async def half_close(peer: Peer) -> None:
    await peer.request()
    peer.writer.write_eof()
    await peer.hang()


async def half_close_before_the_request(peer: Peer) -> None:
    peer.writer.write_eof()
    await peer.hang()


async def answer_and_half_close(peer: Peer) -> None:
    await peer.request()
    await peer.say(GOOD)
    peer.writer.write_eof()
    await peer.hang()


async def never_read(peer: Peer) -> None:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def read_slowly(peer: Peer) -> None:
    for _ in range(10_000):
        await peer.reader.read(4096)
        await asyncio.sleep(0.02)


async def answer_before_the_request(peer: Peer) -> None:
    await peer.say(GOOD)
    await peer.hang()


async def answer_before_the_body(peer: Peer) -> None:
    await peer.head()
    await peer.say(TOO_LARGE)
    await never_read(peer)


async def answer_without_body_before_the_body(peer: Peer) -> None:
    await peer.head()
    await peer.say(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
    await never_read(peer)


async def reset_in_the_body(peer: Peer) -> None:
    await peer.head()
    peer.reset()


async def say_close_and_stay(peer: Peer) -> None:
    await peer.request()
    await peer.say(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", GOOD, every=0.02)
    await peer.hang()


async def noise(peer: Peer) -> None:
    await peer.say(b"\x00\x01nonsense" * 99)
    await peer.hang()


CONNECTIONS = (
    Behaviour("closes at once", close_at_once, "MaybeSent"),
    Behaviour("resets at once", reset_at_once, "NotSent|MaybeSent"),
    Behaviour("says nothing", say_nothing, "RequestTimeout"),
    Behaviour("closes its half", half_close, "MaybeSent"),
    Behaviour("closes its half before the request", half_close_before_the_request, "MaybeSent"),
    Behaviour("answers and closes its half", answer_and_half_close, "200"),
    Behaviour("closes after the request", says(), "MaybeSent", method="POST", body=b"x"),
    Behaviour("resets after the request", says(then="reset"), "MaybeSent", method="POST", body=b"x"),
    Behaviour("reads nothing", never_read, "RequestTimeout", method="POST", body=LARGE, costly=True),
    Behaviour("reads slowly", read_slowly, "RequestTimeout", method="POST", body=LARGE, costly=True),
    Behaviour("resets in the request's body", reset_in_the_body, "MaybeSent", method="POST", body=LARGE),
    Behaviour("answers before the request", answer_before_the_request, "200"),
    Behaviour("answers before the body, reads no more", answer_before_the_body, "413", method="POST", body=LARGE),
    Behaviour("answers 413 without a body", answer_without_body_before_the_body, "413", method="POST", body=LARGE),
    Behaviour("says close and stays", say_close_and_stay, "200"),
)

TLS = (
    Behaviour("TLS that is right", says(GOOD), "200", tls="good", secure=True),
    Behaviour("an expired certificate", says(GOOD), "tls", tls="expired", secure=True),
    Behaviour("a certificate of the future", says(GOOD), "tls", tls="future", secure=True),
    Behaviour("a certificate of another name", says(GOOD), "tls", tls="other name", secure=True),
    Behaviour("a self-signed certificate", says(GOOD), "tls", tls="self-signed", secure=True),
    Behaviour("an unknown authority", says(GOOD), "tls", tls="unknown", secure=True),
    Behaviour("TLS 1.1 at most", says(GOOD), "NotSent", tls="old", secure=True),
    Behaviour("noise in place of a handshake", noise, "NotSent", secure=True),
    Behaviour("HTTP on the port of TLS", says(GOOD), "NotInTime", secure=True),
    Behaviour("an answer in place of a handshake", answer_before_the_request, "NotSent", secure=True),
    Behaviour("a handshake that hangs", say_nothing, "NotInTime", secure=True),
    Behaviour("closes in the handshake", close_at_once, "NotSent", secure=True),
    Behaviour("resets in the handshake", reset_at_once, "NotSent", secure=True),
    Behaviour("TLS on the port of HTTP", says(GOOD), "MaybeSent|BadAnswer", tls="good"),
    Behaviour("TLS, closed with close_notify", says(OK + b"\r\nok"), "200", tls="good", secure=True),
    Behaviour("TLS, cut without close_notify", says(OK + b"\r\nok", then="cut"), "BadAnswer", tls="good", secure=True),
    Behaviour("TLS, cut in a body with a length", says(GOOD[:-1], then="cut"), "BadAnswer", tls="good", secure=True),
    Behaviour(
        "TLS, reads nothing",
        never_read,
        "RequestTimeout",
        method="POST",
        body=LARGE,
        tls="good",
        secure=True,
        costly=True,
    ),
    Behaviour("TLS, drops the request", says(), "MaybeSent", tls="good", secure=True),
)
