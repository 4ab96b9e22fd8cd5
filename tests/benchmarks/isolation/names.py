"""A name server for a few names, some of which take their time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

SLOW_SECONDS: Final = 29.5
"""The slow answer; the system's resolver here is told to wait 30 s, and takes no longer wait."""

_A: Final = 1
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHHIH")
_ANSWERED: Final = 0x8580
_NO_SUCH_NAME: Final = 0x8583
_THE_NAME: Final = 0xC00C
"""In a record: the name that was asked for."""


class NameServer(asyncio.DatagramProtocol):
    """Answers on 127.0.0.1:53. Names in `slow` are answered late; they may be changed at any time."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.slow: set[str] = set()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 53))

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        delay = SLOW_SECONDS if _asked(data)[0] in self.slow else 0.0
        asyncio.get_running_loop().call_later(delay, self._transport.sendto, answer_to(data, self._names), address)


def answer_to(query: bytes, names: Mapping[str, str]) -> bytes:
    """The address for a question of type A, an empty answer for any other; a name that is not there does not exist."""
    (name, end), number = _asked(query), _HEADER.unpack_from(query)[0]
    (kind,) = struct.unpack_from("!H", query, end)
    address = names.get(name)
    record = b""
    if address is not None and kind == _A:
        record = _RECORD.pack(_THE_NAME, _A, 1, 1, 4) + socket.inet_aton(address)
    head = _HEADER.pack(number, _NO_SUCH_NAME if address is None else _ANSWERED, 1, int(bool(record)), 0, 0)
    return head + query[_HEADER.size : end + 4] + record


def _asked(query: bytes) -> tuple[str, int]:
    """The name asked for in lower case, and where it ends."""
    labels, at = [], _HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1
