"""The properties of a message, to and from the bytes of an AMQP header frame.

Our own, because the client's codec raises on what other publishers may send, guesses whether a timestamp means
milliseconds, turns every float into 32 bits and shortens long keys; and properties are to travel as they came.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from worker.amqp.fields import (
    Fault,
    Reader,
    Timestamp,
    Writer,
    put_headers,
    put_octet,
    put_seconds,
    put_short,
    read_short,
    read_table,
    reader_of,
)
from worker.core.message import Properties, Undecodable

__all__ = ["Timestamp", "decode_properties", "encode_properties"]


def decode_properties(raw: bytes) -> Properties | Undecodable:
    """The properties in `raw`: flag words and values, as they follow the body size in a header frame.

    Never raises. Delivery mode and cluster id are read over; a timestamp stays the number that was sent.
    """
    name = "flags"
    values: dict[str, Any] = {}
    try:
        (flags,) = _read_flags(raw, 0)
        at = _after_flags(raw, flags)
        for mask, name, read, _ in _FIELDS:
            if flags & mask:
                values[name], at = read(raw, at, 1)
        name = "properties"
        _check_end(raw, at)
    except Fault as fault:
        return Undecodable(raw, f"{name}: {fault}")
    except UnicodeDecodeError:
        return Undecodable(raw, f"{name}: not UTF-8")
    except (struct.error, IndexError):
        return Undecodable(raw, f"{name}: truncated")
    values.pop("delivery_mode", None)
    values.pop("cluster_id", None)
    return Properties(**values)


def encode_properties(properties: Properties) -> bytes:
    """The bytes of `properties`, always persistent; decoding them gives properties that are equal.

    Raises ValueError naming the property or header that AMQP, or RabbitMQ, has no form for.
    """
    out = bytearray(2)
    flags = 0
    for mask, name, _, write in _FIELDS:
        value = _PERSISTENT if name == "delivery_mode" else getattr(properties, name, None)
        if value is None or (name == "headers" and not value):
            continue
        flags |= mask
        try:
            write(out, value)
        except Fault as fault:
            raise ValueError(f"{name}: {fault}") from None
    _pack_flags(out, 0, flags)
    return bytes(out)


def _after_flags(raw: bytes, flags: int) -> int:
    """Where the values begin. A flag that nobody knows is harmless alone; its value is one byte too many at the end."""
    at = 2
    while flags & 1:
        (flags,) = _read_flags(raw, at)
        at += 2
    return at


def _check_end(raw: bytes, at: int) -> None:
    if at != len(raw):
        raise Fault("truncated" if at > len(raw) else "followed by bytes that belong to none")


_PERSISTENT: Final = 2

_read_flags: Final = struct.Struct(">H").unpack_from
_pack_flags: Final = struct.Struct(">H").pack_into
_octet: Final = reader_of(">B")
_seconds: Final = reader_of(">Q")

_FIELDS: Final[tuple[tuple[int, str, Reader, Writer], ...]] = (
    (0x8000, "content_type", read_short, put_short),
    (0x4000, "content_encoding", read_short, put_short),
    (0x2000, "headers", read_table, put_headers),
    (0x1000, "delivery_mode", _octet, put_octet),
    (0x0800, "priority", _octet, put_octet),
    (0x0400, "correlation_id", read_short, put_short),
    (0x0200, "reply_to", read_short, put_short),
    (0x0100, "expiration", read_short, put_short),
    (0x0080, "message_id", read_short, put_short),
    (0x0040, "timestamp", _seconds, put_seconds),
    (0x0020, "type", read_short, put_short),
    (0x0010, "user_id", read_short, put_short),
    (0x0008, "app_id", read_short, put_short),
    (0x0004, "cluster_id", read_short, put_short),
)
"""In the order of the flags, which is that of the values."""
