"""Encoded header values and property lists, for what no client would write."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from tests.raw_properties import long, short

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
    "cluster_id": 2,
}
"""In the order in which they are written."""

PERSISTENT: Final = b"\x02"


def properties(values: Mapping[str, bytes | int]) -> bytes:
    """A property list: text as bytes, numbers as numbers, headers as an encoded table without its length."""
    flags, written = 0, b""
    for name, bit in FLAGS.items():
        if (value := values.get(name)) is None:
            continue
        flags |= 1 << bit
        if isinstance(value, int):
            written += struct.pack(">Q" if name == "timestamp" else ">B", value)
        else:
            written += long(value) if name == "headers" else short(value)
    return struct.pack(">H", flags) + written


def table(entries: Mapping[bytes, bytes]) -> bytes:
    """The content of a table: names and encoded values."""
    return b"".join(short(name) + value for name, value in entries.items())


def text(value: bytes) -> bytes:
    return b"S" + long(value)


def whole(value: int) -> bytes:
    return b"l" + struct.pack(">q", value)


def double(value: float) -> bytes:
    return b"d" + struct.pack(">d", value)


def array(*values: bytes) -> bytes:
    return b"A" + long(b"".join(values))


def record(entries: Mapping[bytes, bytes]) -> bytes:
    return b"F" + long(table(entries))


def deep(kind: bytes, levels: int) -> bytes:
    """Tables (F) or arrays (A) within each other."""
    value = b"V"
    for _ in range(levels):
        value = kind + long((short(b"k") if kind == b"F" else b"") + value)
    return value


KINDS: Final[dict[str, bytes]] = {
    "t": b"t\x01",
    "t of 2": b"t\x02",
    "b": b"b\x80",
    "B": b"B\xff",
    "s": b"s\x80\0",
    "u": b"u\xff\xff",
    "I": b"I\x80\0\0\0",
    "i": b"i\xff\xff\xff\xff",
    "l": b"l\x80" + bytes(7),
    "L": b"L" + b"\xff" * 8,
    "f": b"f" + struct.pack(">f", 0.1),
    "d": double(1e308),
    "d of -0": double(-0.0),
    "d denormal": b"d" + bytes(7) + b"\x01",
    "D": b"D\xff\xff\xff\xff\xff",
    "D of scale 0": b"D\0\x7f\xff\xff\xff",
    "T": b"T" + b"\xff" * 8,
    "T of 0": b"T" + bytes(8),
    "V": b"V",
    "S": text(b"text"),
    "S empty": text(b""),
    "S no UTF-8": text(b"\xff\xfe\x80"),
    "S with control characters": text(bytes(range(32))),
    "S of 20 KB": text(b"x" * 20_000),
    "x": b"x" + long(b"\xff\0\xfe"),
    "x empty": b"x" + long(b""),
    "A": array(b"V", b"t\0", text(b"a"), array(), record({b"k": b"V"})),
    "A empty": array(),
    "A of 5000": array(*[b"b\x01"] * 5000),
    "F": record({b"a": b"V", b"b": array(whole(1))}),
    "F empty": record({}),
}
"""A value of each type that a field table has, by name."""
