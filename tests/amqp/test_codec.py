"""What the codec owes: whatever RabbitMQ passes on is read, nothing raises, what was read is written as it was."""

from __future__ import annotations

import datetime as dt
import random
import struct
import types
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.header import ContentHeader

from worker.amqp.codec import Timestamp, decode_properties, encode_properties
from worker.amqp.fields import DEEPEST
from worker.core.message import Properties, Undecodable
from worker.core.wire_size import header_frame_size

FRAME_OVERHEAD = 7 + 12 + 1

quickly = settings(deadline=None, max_examples=150)


def fits(text: str) -> bool:
    return len(text.encode()) <= 255


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def decimals() -> st.SearchStrategy[Decimal]:
    return st.builds(
        lambda unscaled, scale: Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale)),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(0, 255),
    )


def nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
short_text = unicode_text.filter(fits) | st.integers(0, 255).map(lambda size: "k" * size)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(0, 2**64 - 1).map(Timestamp)
    | st.floats(allow_nan=False, allow_infinity=False)
    | decimals()
    | unicode_text
    | st.binary(min_size=1).filter(lambda data: not is_text(data))
    | st.binary().map(bytearray)
)
some_properties = st.builds(
    Properties,
    **{
        field.name: st.none() | short_text
        for field in fields(Properties)
        if field.name not in {"priority", "timestamp", "headers"}
    },
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    headers=st.dictionaries(short_text, nested(scalars, short_text), max_size=6),
)


def typed(value: Any) -> Any:
    """`value` with the type of everything in it: for Python, True == 1 == 1.0 == Decimal("1.00") == Timestamp(1)."""
    if isinstance(value, Properties):
        return {field.name: typed(getattr(value, field.name)) for field in fields(Properties)}
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), value.as_tuple() if isinstance(value, Decimal) else value


def read(raw: bytes) -> Properties:
    properties = decode_properties(raw)
    assert isinstance(properties, Properties), properties
    return properties


def fault(raw: bytes) -> str:
    undecodable = decode_properties(raw)
    assert isinstance(undecodable, Undecodable)
    assert undecodable.raw == raw
    return undecodable.fault


def short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def headers(*entries: bytes) -> bytes:
    """Properties with nothing but headers, made of names and values as they are on the wire."""
    return b"\x20\0" + long(b"".join(entries))


def tables(levels: int) -> bytes:
    """A header table that is `levels` deep, itself included."""
    value = b"V"
    for _ in range(levels - 1):
        value = b"F" + long(short(b"k") + value)
    return headers(short(b"k"), value)


def arrays(levels: int) -> bytes:
    value = b"V"
    for _ in range(levels - 1):
        value = b"A" + long(value)
    return headers(short(b"k"), value)


@quickly
@given(some_properties)
def test_what_is_written_is_read_as_it_was(properties: Properties) -> None:
    assert typed(read(encode_properties(properties))) == typed(properties)


@quickly
@given(some_properties)
def test_the_size_reckoned_with_is_never_too_small(properties: Properties) -> None:
    assert header_frame_size(properties) >= len(encode_properties(properties)) + FRAME_OVERHEAD


@quickly
@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(raw: bytes) -> None:
    assert isinstance(decode_properties(raw), Properties | Undecodable)


@quickly
@given(some_properties, st.randoms(use_true_random=False), st.integers(1, 4))
def test_damage_is_named_or_does_no_harm(properties: Properties, chance: random.Random, damages: int) -> None:
    raw = bytearray(encode_properties(properties))
    for _ in range(damages):
        damage(raw, chance)

    decoded = decode_properties(bytes(raw))

    if isinstance(decoded, Properties):
        assert typed(read(encode_properties(decoded))) == typed(decoded)
    else:
        assert decoded.raw == raw


def damage(raw: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(raw) + 1)
    match chance.randrange(3):
        case 0:
            raw[at : at + 1] = chance.randbytes(1)
        case 1:
            del raw[at : at + chance.randrange(1, 4)]
        case _:
            raw[at:at] = chance.randbytes(chance.randrange(1, 4))


@quickly
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": short_text,
            "message_type": short_text,
            "message_id": short_text,
            "reply_to": short_text,
            "priority": st.integers(0, 255),
            "delivery_mode": st.sampled_from([1, 2]),
            "timestamp": st.integers(0, 2**32 - 1).map(moment),
            "headers": st.dictionaries(
                unicode_text.filter(lambda text: len(text.encode()) <= 128),
                nested(
                    st.none()
                    | st.booleans()
                    | st.integers(-(2**63), 2**63 - 1)
                    | st.floats(width=32, allow_nan=False, allow_infinity=False)
                    | st.decimals(-20_000_000, 20_000_000, places=2)
                    | unicode_text
                    | st.binary().map(bytearray),
                    st.text("abc", max_size=5),
                ),
            ),
        },
    )
)
def test_it_reads_what_the_usual_client_writes(given_properties: dict[str, Any]) -> None:
    decoded = read(commands.Basic.Properties(**given_properties).marshal())

    for name, value in given_properties.items():
        if name == "timestamp":
            assert decoded.timestamp == value.timestamp()
        elif name != "delivery_mode":
            field = name.removeprefix("message_") if name == "message_type" else name
            assert (getattr(decoded, field) or None) == (value or None)  # that client leaves empty text out


def test_the_usual_client_reads_what_it_writes() -> None:
    properties = Properties(
        type="order.sync",
        message_id="42",
        content_type="application/json",
        correlation_id="c",
        reply_to="replies.1",
        expiration="5000",
        priority=4,
        timestamp=1_700_000_000,
        app_id="shop",
        user_id="guest",
        headers={
            "numbers": [1, -129, 40_000, 70_000, -(2**40)],
            "parts": {"pi": 3.141592653589793, "price": Decimal("12.50"), "none": None, "yes": True},
            "bytes": b"\xff",
            "binary": bytearray(b"\xfe"),
            "when": Timestamp(1_700_000_000),
        },
    )
    header = ContentHeader()
    header.unmarshal(bytes(12) + encode_properties(properties))
    theirs = header.properties

    when = moment(1_700_000_000)
    assert theirs.headers == {**properties.headers, "when": when}
    assert theirs.message_type == "order.sync"
    assert theirs.timestamp == when
    assert theirs.delivery_mode == 2
    for name in ("message_id", "content_type", "correlation_id", "reply_to", "expiration", "priority", "app_id"):
        assert getattr(theirs, name) == getattr(properties, name)


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (b"t\0", False),
        (b"t\2", True),
        (b"b\x80", -128),
        (b"B\xff", 255),
        (b"s\x80\0", -32768),
        (b"u\xff\xff", 65535),
        (b"I\x80\0\0\0", -(2**31)),
        (b"i\xff\xff\xff\xff", 2**32 - 1),
        (b"l\x80" + bytes(7), -(2**63)),
        (b"L" + b"\xff" * 8, -1),
        (b"f" + struct.pack(">f", 0.1), struct.unpack(">f", struct.pack(">f", 0.1))[0]),
        (b"d" + struct.pack(">d", 0.1), 0.1),
        (b"D\x03\0\0\x04\xd2", Decimal("1.234")),
        (b"D\x02\0\0\0\0", Decimal("0.00")),
        (b"D\xff\xff\xff\xff\xff", Decimal((1, (1,), -255))),
        (b"S" + long("é".encode()), "é"),
        (b"S" + long(b"\xff"), b"\xff"),
        (b"x" + long(b"abc"), bytearray(b"abc")),
        (b"A" + long(b"VV"), [None, None]),
        (b"F" + long(b"\0V"), {"": None}),
        (b"T" + b"\xff" * 8, Timestamp(2**64 - 1)),
        (b"V", None),
    ],
)
def test_every_type_that_the_broker_passes_on(wire: bytes, value: Any) -> None:
    decoded = read(headers(short(b"h"), wire))

    assert typed(decoded.headers) == typed({"h": value})
    assert typed(read(encode_properties(decoded))) == typed(decoded)


def test_a_timestamp_stays_the_number_that_was_sent() -> None:
    milliseconds = 1_700_000_000_123
    assert read(b"\0\x40" + struct.pack(">Q", milliseconds)).timestamp == milliseconds
    assert read(b"\0\x40" + b"\xff" * 8).timestamp == 2**64 - 1


def test_empty_text_is_not_the_same_as_none() -> None:
    assert read(b"\0\x80\0") == Properties(message_id="")
    assert read(b"\0\0") == Properties()


def test_delivery_mode_and_cluster_id_are_read_over() -> None:
    assert read(b"\x10\xa4\x01" + short(b"id") + short(b"http") + short(b"cluster")) == Properties("http", "id")


def test_every_message_is_persistent() -> None:
    assert encode_properties(Properties()) == b"\x10\0\x02"


@pytest.mark.parametrize("flags", [b"\0\x82", b"\0\x81\0\0", b"\0\x81\0\x01\0\0"])
def test_a_flag_without_a_value_does_no_harm(flags: bytes) -> None:
    assert read(flags + short(b"id")).message_id == "id"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "flags: truncated"),
        (b"\0\x01", "flags: truncated"),
        (b"\0\x80", "message_id: truncated"),
        (b"\0\x80\x05ab", "properties: truncated"),
        (b"\0\x80" + short(b"\xff"), "message_id: not UTF-8"),
        (b"\x80\0" + short(b"\xed\xa0\x80"), "content_type: not UTF-8"),
        (b"\0\x40" + bytes(7), "timestamp: truncated"),
        (b"\0\0\0", "properties: followed by bytes that belong to none"),
        (headers(short(b"\xff"), b"V"), "headers: not UTF-8"),
        (headers(short(b"k"), b"Q"), "headers: a value of unknown type"),
        (headers(short(b"k"), b"S\0\0\0\x09a"), "headers: truncated"),
        (headers(short(b"k"), b"S\xff\xff\xff\xffa"), "headers: truncated"),
        (headers(short(b"k"), b"A\0\0\0\x01I"), "headers: truncated"),
        (headers(short(b"k"), b"d\x7f\xf8" + bytes(6)), "headers: not a finite number"),
        (headers(short(b"k"), b"f\xff\x80" + bytes(2)), "headers: not a finite number"),
        (b"\x20\0\xff\xff\xff\xff", "headers: truncated"),
        (tables(DEEPEST + 1), "headers: nested deeper than 64 levels"),
        (arrays(20_000), "headers: nested deeper than 64 levels"),
    ],
)
def test_what_cannot_be_read_is_kept_and_said(raw: bytes, expected: str) -> None:
    assert fault(raw) == expected


@pytest.mark.parametrize("deepest", [tables(DEEPEST), arrays(DEEPEST)])
def test_as_deep_as_allowed_is_read_and_written(deepest: bytes) -> None:
    assert read(encode_properties(read(deepest))) == read(deepest)


def test_the_key_of_a_header_is_never_shortened() -> None:
    name = "é" * 127
    assert read(encode_properties(Properties(headers={name: 1}))).headers == {name: 1}


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


def test_kinds_of_a_known_type_are_written_as_that_type() -> None:
    given_headers = {"colour": Colour.RED, "size": Size.SMALL, "map": types.MappingProxyType({"a": (1, 2)})}
    decoded = read(encode_properties(Properties(headers=types.MappingProxyType(given_headers))))
    assert typed(decoded.headers) == typed({"colour": "red", "size": 1, "map": {"a": [1, 2]}})


def deep_list(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("properties", "complaint"),
    [
        (Properties(message_id="x" * 256), "message_id: 256 bytes, more than 255"),
        (Properties(app_id="é" * 128), "app_id: 256 bytes, more than 255"),
        (Properties(type="\ud800"), "type: text that is not Unicode"),
        (Properties(reply_to=b"bytes"), "reply_to: bytes instead of text"),  # type: ignore[arg-type]
        (Properties(priority=256), "priority: not a whole number from 0 to 255"),
        (Properties(priority=-1), "priority: not a whole number from 0 to 255"),
        (Properties(timestamp=2**64), "timestamp: not a whole number from 0 to 2"),
        (Properties(timestamp=1.5), "timestamp: not a whole number"),  # type: ignore[arg-type]
        (Properties(headers={"h": 2**63}), "headers: 'h': a whole number of more than 64 bits"),
        (Properties(headers={"h": -(2**63) - 1}), "headers: 'h': a whole number of more than 64 bits"),
        (Properties(headers={"h": [{"deep": "\udfff"}]}), "headers: 'h': text that is not Unicode"),
        (Properties(headers={"\ud800": 1}), r"headers: '\\ud800': text that is not Unicode"),
        (Properties(headers={"k" * 256: 1}), "headers: 'k+': 256 bytes, more than 255"),
        (Properties(headers={5: 1}), "headers: 5: int instead of text"),  # type: ignore[dict-item]
        (Properties(headers={"h": object()}), "headers: 'h': a value of type object"),
        (Properties(headers={"h": {1, 2}}), "headers: 'h': a value of type set"),
        (Properties(headers={"h": float("nan")}), "headers: 'h': not a finite number"),
        (Properties(headers={"h": float("-inf")}), "headers: 'h': not a finite number"),
        (Properties(headers={"h": Decimal("NaN")}), "headers: 'h': not a finite number"),
        (Properties(headers={"h": Decimal(2**31)}), "headers: 'h': a decimal of more than 32 bits"),
        (Properties(headers={"h": Decimal("1E-256")}), "headers: 'h': a decimal of more than"),
        (Properties(headers={"h": Decimal("1E+999999")}), "headers: 'h': a decimal of more than"),
        (Properties(headers={"h": Decimal(10**5000)}), "headers: 'h': a decimal of more than"),
        (Properties(headers={"h": Timestamp(-1)}), "headers: 'h': not a whole number from 0 to 2"),
        (Properties(headers={"h": deep_list(DEEPEST)}), "headers: 'h': nested deeper than 64 levels"),
        (Properties(headers={"h": deep_list(5000)}), "headers: 'h': nested deeper than 64 levels"),
    ],
)
def test_what_has_no_form_is_refused_by_name(properties: Properties, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_properties(properties)


def test_a_decimal_with_a_positive_exponent_keeps_its_value() -> None:
    decoded = read(encode_properties(Properties(headers={"h": Decimal("-12E+3")})))
    assert decoded.headers["h"] == Decimal(-12000)
