"""One connection's answers, piece by piece: what is left unread, what is never used again, and who gets a turn."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
from types import SimpleNamespace
from typing import Any, cast

import aiohttp

from worker.http.answer import AnswerProtocol
from worker.http.body import read_body

ONE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PIECE = 16 << 10


class Counting(AnswerProtocol):
    """Counts the heads that are read."""

    heads = 0

    def feed_data(self, data: Any, size: int = 0) -> None:
        self.heads += 1
        super().feed_data(data, size)


def begun(protocol: AnswerProtocol) -> AnswerProtocol:
    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    return protocol


async def test_what_comes_behind_a_long_answer_is_left_unread() -> None:
    """Nobody has taken the body yet, so reading stops in the midst of what came at once; behind it is a flood."""
    body = bytes(900_000)
    protocol = Counting(asyncio.get_running_loop())
    begun(protocol).data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + body + ONE * 5000)
    _, content = await protocol.read()
    assert await content.read() == body
    assert protocol.heads <= 1 + PIECE // len(ONE)
    assert protocol.should_close


async def test_a_connection_is_not_used_again_and_not_waited_for_while_a_request_is_not_gone() -> None:
    """The answer came early, and the peer reads no more: what is still to be written would keep the socket for ever."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(lambda: AnswerProtocol(loop), sock=ours)
        begun(protocol)
        transport.write(bytes(50_000))  # below what makes the library wait with its next piece
        assert not protocol.writing_paused
        theirs.sendall(ONE)
        _, content = await protocol.read()
        assert await content.read() == b"ok"
        assert protocol.should_close
        gone = protocol.closed
        assert gone is not None
        protocol.close()
        async with asyncio.timeout(5):
            await gone


async def test_a_connection_at_rest_is_used_again() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: AnswerProtocol(loop), sock=ours)
        begun(protocol)
        theirs.sendall(ONE)
        _, content = await protocol.read()
        assert await content.read() == b"ok"
        assert not protocol.should_close
        protocol.close()


async def test_inflating_what_came_at_once_leaves_others_their_turn() -> None:
    packed = gzip.compress(random.Random(1).randbytes(8 * PIECE))
    content = aiohttp.StreamReader(begun(AnswerProtocol(asyncio.get_running_loop())), 1 << 20)
    content.feed_data(packed)
    content.feed_eof()
    answer = SimpleNamespace(
        method="GET", status=200, content_length=None, headers={"Content-Encoding": "gzip"}, content=content
    )
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(others())
    assert len(await read_body(cast("aiohttp.ClientResponse", answer), 1 << 20)) == 8 * PIECE
    assert turns >= 8
    watching.cancel()
