"""Property lists as bytes, for those no client would write: flag words, then values."""

from __future__ import annotations

import struct


def short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def header(value: bytes, name: bytes = b"h") -> bytes:
    return b"\x20\0" + long(short(name) + value)


def tables(levels: int) -> bytes:
    value = b"V"
    for _ in range(levels):
        value = b"F" + long(short(b"k") + value)
    return value
