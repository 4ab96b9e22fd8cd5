"""The values inside properties: short strings, numbers, and field tables with every type that RabbitMQ has.

Readers take the buffer, an offset and a depth, and give the value and the offset behind it. What is cut short by the
end of the buffer may go unnoticed where it is read: that offset is then past the end of what holds the value, which is
checked there. Writers append to a buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any, Final

DEEPEST: Final = 64
"""Tables and arrays within each other; the table of headers is the first."""

SHORT_LIMIT: Final = 255
"""Bytes of a short string: every textual property, and the key of every header."""

Reader = Callable[[bytes, int, int], tuple[Any, int]]
Writer = Callable[[bytearray, Any], None]


class Timestamp(int):
    """A header value of type timestamp: the number as sent, in epoch seconds or in whatever its publisher meant."""

    __slots__ = ()


class Fault(Exception):
    """What is wrong with a value, in words that hold nothing of it."""


# ---- reading

_read_length: Final = struct.Struct(">I").unpack_from
_read_decimal: Final = struct.Struct(">Bi").unpack_from


def read_short(raw: bytes, at: int, _depth: int) -> tuple[str, int]:
    start = at + 1
    end = start + raw[at]
    return raw[start:end].decode(), end


def read_table(raw: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    at, end = _held(raw, at, depth)
    table: dict[str, Any] = {}
    while at < end:
        start = at + 1
        at = start + raw[at]
        key = raw[start:at].decode()
        table[key], at = _READERS.get(raw[at], _unknown)(raw, at + 1, depth + 1)
    if at != end:
        raise Fault("truncated")
    return table, at


def reader_of(form: str, make: Callable[[Any], Any] | None = None) -> Reader:
    """A reader of one number in the form that `struct` calls `form`."""
    layout = struct.Struct(form)
    unpack, size = layout.unpack_from, layout.size
    if make is None:
        return lambda raw, at, _depth: (unpack(raw, at)[0], at + size)
    return lambda raw, at, _depth: (make(unpack(raw, at)[0]), at + size)


def _array(raw: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    at, end = _held(raw, at, depth)
    array: list[Any] = []
    while at < end:
        item, at = _READERS.get(raw[at], _unknown)(raw, at + 1, depth + 1)
        array.append(item)
    if at != end:
        raise Fault("truncated")
    return array, at


def _held(raw: bytes, at: int, depth: int) -> tuple[int, int]:
    """Where the content of a table or an array begins and ends."""
    _check_depth(depth)
    start = at + 4
    return start, start + int(_read_length(raw, at)[0])


def _check_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise Fault(f"nested deeper than {DEEPEST} levels")


def _long(raw: bytes, at: int, _depth: int) -> tuple[str | bytes, int]:
    start = at + 4
    end = start + _read_length(raw, at)[0]
    data = raw[start:end]
    try:
        return data.decode(), end
    except UnicodeDecodeError:
        return data, end


def _binary(raw: bytes, at: int, _depth: int) -> tuple[bytearray, int]:
    start = at + 4
    end = start + _read_length(raw, at)[0]
    return bytearray(raw[start:end]), end


def _decimal(raw: bytes, at: int, _depth: int) -> tuple[Decimal, int]:
    """Signed, as every client writes it, whatever the specification says."""
    scale, unscaled = _read_decimal(raw, at)
    digits = tuple(map(int, str(abs(unscaled))))
    return Decimal((int(unscaled < 0), digits, -scale)), at + 5


def _void(_raw: bytes, at: int, _depth: int) -> tuple[None, int]:
    return None, at


def _unknown(_raw: bytes, _at: int, _depth: int) -> tuple[Any, int]:
    raise Fault("a value of unknown type")


def _finite(number: float) -> float:
    """RabbitMQ has no others: it closes the connection of whoever publishes one."""
    if not isfinite(number):
        raise Fault("not a finite number")
    return number


_READERS: Final[dict[int, Reader]] = {
    ord("t"): reader_of(">B", bool),
    ord("b"): reader_of(">b"),
    ord("B"): reader_of(">B"),
    ord("s"): reader_of(">h"),
    ord("u"): reader_of(">H"),
    ord("I"): reader_of(">i"),
    ord("i"): reader_of(">I"),
    ord("l"): reader_of(">q"),
    ord("L"): reader_of(">q"),
    ord("f"): reader_of(">f", _finite),
    ord("d"): reader_of(">d", _finite),
    ord("D"): _decimal,
    ord("S"): _long,
    ord("x"): _binary,
    ord("A"): _array,
    ord("F"): read_table,
    ord("T"): reader_of(">Q", Timestamp),
    ord("V"): _void,
}


# ---- writing

_length: Final = struct.Struct(">I").pack
_pack_length: Final = struct.Struct(">I").pack_into
_i8: Final = struct.Struct(">cb").pack
_i16: Final = struct.Struct(">ch").pack
_i32: Final = struct.Struct(">ci").pack
_i64: Final = struct.Struct(">cq").pack
_u64: Final = struct.Struct(">Q").pack
_f64: Final = struct.Struct(">cd").pack
_scaled: Final = struct.Struct(">cBi").pack

_TOO_PRECISE: Final = "a decimal of more than 32 bits or 255 places"


def put_short(out: bytearray, text: Any) -> None:
    data = _utf8(text)
    if len(data) > SHORT_LIMIT:
        raise Fault(f"{len(data)} bytes, more than {SHORT_LIMIT}")
    out.append(len(data))
    out += data


def put_octet(out: bytearray, number: Any) -> None:
    if not isinstance(number, int) or not 0 <= number <= 255:
        raise Fault("not a whole number from 0 to 255")
    out.append(number)


def put_seconds(out: bytearray, number: Any) -> None:
    if not isinstance(number, int) or not 0 <= number < 1 << 64:
        raise Fault("not a whole number from 0 to 2**64 - 1")
    out += _u64(number)


def put_headers(out: bytearray, headers: Mapping[Any, Any]) -> None:
    """The outermost table; a Fault names the header."""
    start = len(out)
    out += b"\0\0\0\0"
    for name, value in headers.items():
        try:
            put_short(out, name)
            _put_value(out, value, 2)
        except Fault as fault:
            raise Fault(f"{name!a}: {fault}") from None
    _close(out, start)


def _put_value(out: bytearray, value: Any, depth: int) -> None:
    write = _WRITERS.get(type(value))
    if write is None:
        write = next((known for base, known in _WRITERS.items() if isinstance(value, base)), _put_unknown)
    write(out, value, depth)


def _utf8(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Fault(f"{type(text).__name__} instead of text")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Fault("text that is not Unicode (a lone surrogate)") from None


def _close(out: bytearray, start: int) -> None:
    """Fill in the length, kept free at `start`, of what has been written behind it."""
    _pack_length(out, start, len(out) - start - 4)


def _put_table(out: bytearray, value: Mapping[Any, Any], depth: int) -> None:
    _check_depth(depth)
    out += b"F\0\0\0\0"
    start = len(out) - 4
    for key, item in value.items():
        put_short(out, key)
        _put_value(out, item, depth + 1)
    _close(out, start)


def _put_array(out: bytearray, value: list[Any] | tuple[Any, ...], depth: int) -> None:
    _check_depth(depth)
    out += b"A\0\0\0\0"
    start = len(out) - 4
    for item in value:
        _put_value(out, item, depth + 1)
    _close(out, start)


def _put_bool(out: bytearray, value: bool, _depth: int) -> None:
    out += b"t\1" if value else b"t\0"


def _put_timestamp(out: bytearray, value: Timestamp, _depth: int) -> None:
    out += b"T"
    put_seconds(out, value)


def _put_int(out: bytearray, value: int, _depth: int) -> None:
    if -0x80 <= value < 0x80:
        out += _i8(b"b", value)
    elif -0x8000 <= value < 0x8000:
        out += _i16(b"s", value)
    elif -0x8000_0000 <= value < 0x8000_0000:
        out += _i32(b"I", value)
    elif -(1 << 63) <= value < 1 << 63:
        out += _i64(b"l", value)
    else:
        raise Fault("a whole number of more than 64 bits")


def _put_float(out: bytearray, value: float, _depth: int) -> None:
    out += _f64(b"d", _finite(value))


def _put_decimal(out: bytearray, value: Decimal, _depth: int) -> None:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise Fault("not a finite number")
    if not -255 <= exponent <= 9 or len(digits) > 10:
        raise Fault(_TOO_PRECISE)
    unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0) * (-1 if sign else 1)
    if not -0x8000_0000 <= unscaled < 0x8000_0000:
        raise Fault(_TOO_PRECISE)
    out += _scaled(b"D", max(-exponent, 0), unscaled)


def _put_text(out: bytearray, value: str, depth: int) -> None:
    _put_bytes(out, _utf8(value), depth)


def _put_bytes(out: bytearray, value: bytes, _depth: int) -> None:
    out += b"S"
    out += _length(len(value))
    out += value


def _put_binary(out: bytearray, value: bytearray, _depth: int) -> None:
    out += b"x"
    out += _length(len(value))
    out += value


def _put_void(out: bytearray, _value: None, _depth: int) -> None:
    out += b"V"


def _put_unknown(_out: bytearray, value: Any, _depth: int) -> None:
    raise Fault(f"a value of type {type(value).__name__}, which no header can have")


_WRITERS: Final[dict[type, Callable[[bytearray, Any, int], None]]] = {
    str: _put_text,
    bool: _put_bool,
    Timestamp: _put_timestamp,
    int: _put_int,
    float: _put_float,
    dict: _put_table,
    list: _put_array,
    tuple: _put_array,
    bytes: _put_bytes,
    bytearray: _put_binary,
    Decimal: _put_decimal,
    type(None): _put_void,
    Mapping: _put_table,
}
"""Looked up by exact type; then, in this order, by kind."""
