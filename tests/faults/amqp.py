"""AMQP 0-9-1 by hand, as far as a publisher needs it: it writes any bytes, and shares no code with the worker.

Line         one connection with one channel in confirm mode
encode()     a property list from plain values
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from tests.raw_properties import long, short

FRAME_END: Final = b"\xce"
METHOD, HEADER, BODY = 1, 2, 3
BASIC: Final = 60

START, START_OK = (10, 10), (10, 11)
TUNE, TUNE_OK = (10, 30), (10, 31)
OPEN, OPEN_OK = (10, 40), (10, 41)
CLOSE, CHANNEL_CLOSE = (10, 50), (20, 40)
CHANNEL_OPEN, CHANNEL_OPEN_OK = (20, 10), (20, 11)
SELECT, SELECT_OK = (85, 10), (85, 11)
PUBLISH, RETURN, ACK, NACK = (BASIC, 40), (BASIC, 50), (BASIC, 80), (BASIC, 120)

FLAGS: Final = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "type": 5,
    "user_id": 4,
    "app_id": 3,
}
"""In the order in which they are written."""

OCTETS: Final = {"delivery_mode", "priority"}


class Closed(Exception):
    """The broker has closed the connection or the channel, or is gone."""


def encode(properties: Mapping[str, Any]) -> bytes:
    """A property list: flags, then values."""
    flags, values = 0, b""
    for name, bit in FLAGS.items():
        if (value := properties.get(name)) is not None:
            flags |= 1 << bit
            values += _value(name, value)
    return struct.pack(">H", flags) + values


def _value(name: str, value: Any) -> bytes:
    if name == "headers":
        return _table(value)
    if name in OCTETS:
        return bytes([value])
    if name == "timestamp":
        return struct.pack(">Q", value)
    return short(str(value).encode())


def _table(values: Mapping[str, Any]) -> bytes:
    return long(b"".join(short(name.encode()) + _field(value) for name, value in values.items()))


def _field(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"t" + bytes([value])
    if isinstance(value, int):
        return b"l" + struct.pack(">q", value)
    return b"S" + long(str(value).encode())


class Line:
    """A connection that publishes.

    `answered(number, good)` is told of every confirm, `returned(properties)` of what found no queue; the confirm of
    such a message comes after.
    """

    def __init__(self, answered: Callable[[int, bool], None], returned: Callable[[bytes], None]) -> None:
        self._answered = answered
        self._returned = returned
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._frame_max = 131_072
        self._number = 0
        self._oldest = 1
        self._is_returning = False

    async def open(self, url: str) -> Self:
        """Connect. Raises OSError or Closed."""
        parts = urlsplit(url)
        self._reader, self._writer = await asyncio.open_connection(parts.hostname, parts.port or 5672)
        self._writer.write(b"AMQP\0\0\x09\x01")
        await self._expect(START)
        login = f"\0{unquote(parts.username or 'guest')}\0{unquote(parts.password or 'guest')}".encode()
        self._send(0, START_OK, long(b"") + short(b"PLAIN") + long(login) + short(b"en_US"))
        channels, frame_max, _ = struct.unpack(">HIH", (await self._expect(TUNE))[:8])
        self._frame_max = frame_max or self._frame_max
        self._send(0, TUNE_OK, struct.pack(">HIH", channels, self._frame_max, 0))
        self._send(0, OPEN, short(unquote(parts.path[1:]).encode() or b"/") + short(b"") + b"\0")
        await self._expect(OPEN_OK)
        self._send(1, CHANNEL_OPEN, short(b""))
        await self._expect(CHANNEL_OPEN_OK)
        self._send(1, SELECT, b"\0")
        await self._expect(SELECT_OK)
        return self

    async def publish(self, queue: str, properties: bytes, body: bytes) -> int:
        """Send a mandatory message by the default exchange; the number its confirm will have."""
        self._number += 1
        self._send(1, PUBLISH, b"\0\0" + short(b"") + short(queue.encode()) + b"\x01")
        self._frame(HEADER, 1, struct.pack(">HHQ", BASIC, 0, len(body)) + properties)
        room = self._frame_max - 8
        for position in range(0, len(body), room):
            self._frame(BODY, 1, body[position : position + room])
        await self._writer.drain()
        return self._number

    async def listen(self) -> None:
        """Take answers until the line is over; raises Closed then."""
        while True:
            kind, _, payload = await self._receive()
            if kind == HEADER and self._is_returning:
                self._is_returning = False
                self._returned(payload[12:])
            elif kind == METHOD:
                self._hear(struct.unpack(">HH", payload[:4]), payload[4:])

    def close(self) -> None:
        self._writer.transport.abort()

    def _hear(self, method: tuple[Any, ...], rest: bytes) -> None:
        if method in {CLOSE, CHANNEL_CLOSE}:
            raise Closed(f"{struct.unpack('>H', rest[:2])[0]} {rest[3 : 3 + rest[2]].decode(errors='replace')}")
        self._is_returning = method == RETURN
        if method in {ACK, NACK}:
            (number,), several = struct.unpack(">Q", rest[:8]), rest[8] & 1
            for one in range(self._oldest if several else number, number + 1):
                self._answered(one, method == ACK)
            if several:
                self._oldest = number + 1

    async def _expect(self, method: tuple[int, int]) -> bytes:
        kind, _, payload = await self._receive()
        if kind != METHOD or struct.unpack(">HH", payload[:4]) != method:
            raise Closed(f"expected {method}, came {payload[:60]!r}")
        return payload[4:]

    async def _receive(self) -> tuple[int, int, bytes]:
        try:
            kind, channel, size = struct.unpack(">BHI", await self._reader.readexactly(7))
            payload = await self._reader.readexactly(size + 1)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Closed(f"the connection is gone: {error}") from error
        return kind, channel, payload[:-1]

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self._frame(METHOD, channel, struct.pack(">HH", *method) + arguments)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">BHI", kind, channel, len(payload)) + payload + FRAME_END)
