"""AMQP by hand for hostile messages: publish one at a time, take everything out, read it without the worker's codec."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.faults.amqp import (
    ACK,
    BASIC,
    BODY,
    CHANNEL_CLOSE,
    CLOSE,
    HEADER,
    METHOD,
    NACK,
    PUBLISH,
    RETURN,
    Closed,
    Line,
)
from tests.raw_properties import long, short

CONSUME, CONSUME_OK, DELIVER = (BASIC, 20), (BASIC, 21), (BASIC, 60)

Answer = Literal["confirmed", "refused", "nack", "returned", "silence"]
"""`refused`: the broker closed the channel or the connection over it, and has not taken it."""


SECONDS: Final = 15.0


class Mouth:
    """Publishes to one queue, each message when the last one has its answer: so it is known which was refused.

    What the broker refuses costs the connection; the next message gets a new one.
    """

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._line: Line | None = None

    async def publish(self, raw: bytes, body: bytes, *, part: int = 0, announced: int | None = None) -> Answer:
        """`part`: bytes of body to a frame, 0 for as many as go. `announced`: the size that is told, if not true."""
        try:
            line = self._line = self._line or await Line(_unheard, _unheard).open(self._url)
            self._send(line, raw, body, part, len(body) if announced is None else announced)
            async with asyncio.timeout(SECONDS):
                await line._writer.drain()
                if announced is None or announced <= len(body):
                    return await self._answer(line)
            self.close()  # a publisher that dies in the midst of it
            return "refused"
        except (Closed, OSError) as error:
            self.close()
            return "silence" if isinstance(error, TimeoutError) else "refused"

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _send(self, line: Line, raw: bytes, body: bytes, part: int, announced: int) -> None:
        room = part or line._frame_max - 8
        line._send(1, PUBLISH, b"\0\0" + short(b"") + short(self._queue.encode()) + b"\x01")
        line._frame(HEADER, 1, struct.pack(">HHQ", BASIC, 0, announced) + raw)
        for at in range(0, len(body), room):
            line._frame(BODY, 1, body[at : at + room])

    @staticmethod
    async def _answer(line: Line) -> Answer:
        returned = False
        while True:
            kind, _, payload = await line._receive()
            method = struct.unpack(">HH", payload[:4]) if kind == METHOD else None
            if method in {CLOSE, CHANNEL_CLOSE}:
                raise Closed
            returned = returned or method == RETURN
            if method == ACK:
                return "returned" if returned else "confirmed"
            if method == NACK:
                return "nack"


@dataclass(frozen=True)
class Taken:
    """A message as it lay in a queue."""

    raw: bytes
    body: bytes

    @property
    def headers(self) -> dict[bytes, Any]:
        """Of a dead letter; text is bytes. ValueError where nobody can read them."""
        return headers_of(self.raw)


async def take_all(url: str, queue: str, count: int) -> list[Taken]:
    """The first `count` messages of a queue, taken out."""
    line = await Line(_unheard, _unheard).open(url)
    try:
        line._send(1, CONSUME, b"\0\0" + short(queue.encode()) + short(b"") + b"\x02" + long(b""))
        return [await _taken(line) for _ in range(count)]
    finally:
        line.close()


async def _taken(line: Line) -> Taken:
    while True:
        kind, _, payload = await line._receive()
        if kind == METHOD and struct.unpack(">HH", payload[:4]) == DELIVER:
            break
    _, _, header = await line._receive()
    parts, missing = [], struct.unpack(">Q", header[4:12])[0]
    while missing:
        _, _, part = await line._receive()
        parts.append(part)
        missing -= len(part)
    return Taken(header[12:], b"".join(parts))


def _unheard(*_: object) -> None:
    """Answers are read in turn."""


SHORTS_BEFORE_HEADERS: Final = 2
"""Content type and content encoding."""

SIZES: Final = {**dict.fromkeys(b"tbB", 1), **dict.fromkeys(b"su", 2), **dict.fromkeys(b"Iif", 4)}
SIZES.update({**dict.fromkeys(b"lLdT", 8), ord("D"): 5, ord("V"): 0})
NUMBERS: Final = {"b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">q", "T": ">Q"}


def headers_of(raw: bytes) -> dict[bytes, Any]:
    """The header table of a property list: whole numbers, bytes, lists and tables; anything else as it is encoded."""
    try:
        (flags,) = struct.unpack(">H", raw[:2])
        at = 2
        for bit in range(SHORTS_BEFORE_HEADERS):
            if flags & (0x8000 >> bit):
                at += 1 + raw[at]
        if not flags & 0x2000:
            return {}
        (size,) = struct.unpack(">I", raw[at : at + 4])
        return _table(raw[at + 4 : at + 4 + size])
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"headers that cannot be read: {error!r}") from None


def _table(content: bytes) -> dict[bytes, Any]:
    at, found = 0, {}
    while at < len(content):
        end = at + 1 + content[at]
        key = content[at + 1 : end]
        found[key], at = _value(content, end)
    return found


def _items(content: bytes) -> list[Any]:
    at, found = 0, []
    while at < len(content):
        item, at = _value(content, at)
        found.append(item)
    return found


def _value(content: bytes, at: int) -> tuple[Any, int]:
    kind, at = content[at], at + 1
    if kind in b"SxAF":
        end = at + 4 + int(struct.unpack(">I", content[at : at + 4])[0])
        inside = content[at + 4 : end]
        return (_items(inside) if kind == ord("A") else _table(inside) if kind == ord("F") else inside), end
    end = at + SIZES[kind]
    encoded = content[at:end]
    form = NUMBERS.get(chr(kind))
    return struct.unpack(form, encoded)[0] if form else encoded, end
