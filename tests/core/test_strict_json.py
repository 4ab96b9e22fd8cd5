"""JSON as it is defined: what is read, what is refused, and what neither may cost."""

from __future__ import annotations

import contextlib
import json
import re
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.core import strict_json
from worker.core.strict_json import MAX_DEPTH, MAX_KEYS, MAX_VALUES, loads

MIB = 1 << 20


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def names(count: int) -> str:
    return "{" + ",".join(f'"{number}":0' for number in range(count)) + "}"


def spread(objects: int, each: int) -> str:
    return "[" + ",".join([names(each)] * objects) + "]"


def zeros(count: int) -> str:
    return f"[{','.join(['0'] * count)}]"


ACCEPTED: dict[str, tuple[str, Any]] = {
    "null": ("null", None),
    "true": ("true", True),
    "a number": ("1", 1),
    "a string": ('"a"', "a"),
    "an empty string": ('""', ""),
    "an empty list": ("[]", []),
    "an empty object": ("{}", {}),
    "white space around": (' \t\r\n{ "a" :\n1 } ', {"a": 1}),
    "minus zero": ("-0", 0),
    "a negative zero": ("-0.0", -0.0),
    "the largest unsigned integer": (str(2**64 - 1), 2**64 - 1),
    "the smallest integer": (str(-(2**63)), -(2**63)),
    "a double near its end": ("1e308", 1e308),
    "a number too small for a double": ("1e-400", 0.0),
    "a number with many digits": ("0." + "3" * 1000, 1 / 3),
    "an escaped NUL": ('"\\u0000"', "\0"),
    "a pair of surrogates": ('"\\ud83d\\ude00"', "😀"),
    "a character beyond 16 bits": ('"😀"', "😀"),
    "an escaped slash": ('"\\/"', "/"),
    "an escaped backslash before u": ('"\\\\ud800"', "\\ud800"),
    "brackets in a string": (json.dumps("[" * 1000), "[" * 1000),
    "brackets after an escaped quote": (json.dumps('"' + "[{" * 1000 + "\\"), '"' + "[{" * 1000 + "\\"),
    "the deepest list": (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
    "many lists beside each other": (f"[{','.join(['[]'] * 5000)}]", [[]] * 5000),
    "as many names as there may be": (names(MAX_KEYS), {str(number): 0 for number in range(MAX_KEYS)}),
    "as many values as there may be": (zeros(MAX_VALUES), [0] * MAX_VALUES),
    "commas in a string": (json.dumps(["," * MAX_VALUES, "[{" * MAX_VALUES]), ["," * MAX_VALUES, "[{" * MAX_VALUES]),
    "empty lists, each one value": (f"[{','.join(['[ ]'] * MAX_VALUES)}]", [[]] * MAX_VALUES),
    "the same name in two objects": ('[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
    "an empty name": ('{"":1}', {"": 1}),
    "names that differ by case": ('{"a":1,"A":2}', {"a": 1, "A": 2}),
    "__proto__": ('{"__proto__":{}}', {"__proto__": {}}),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "white space only": (b" \n", "not JSON"),
    "NaN": (b"NaN", "NaN is not JSON"),
    "NaN inside": (b'{"a":[NaN]}', "NaN is not JSON"),
    "Infinity": (b"Infinity", "Infinity is not JSON"),
    "minus Infinity": (b"-Infinity", "-Infinity is not JSON"),
    "infinite by overflow": (b"1e400", "a number too large for a double"),
    "infinite by overflow, negative": (b"-1e400", "a number too large for a double"),
    "infinite by digits": (b"9" * 400 + b".0", "a number too large for a double"),
    "an integer of 65 bits": (str(2**64).encode(), "an integer beyond 64 bits"),
    "a negative integer of 65 bits": (str(-(2**63) - 1).encode(), "an integer beyond 64 bits"),
    "an integer of 5,000 digits": (b"9" * 5000, "an integer beyond 64 bits"),
    "an integer of a mebibyte": (b"9" * MIB, "an integer beyond 64 bits"),
    "a name twice": (b'{"a":1,"a":2}', "a name stands twice in one object"),
    "a name twice, once escaped": (b'{"a":1,"\\u0061":2}', "a name stands twice in one object"),
    "a name twice, deep": (b'[{"b":{"a":1,"a":1}}]', "a name stands twice in one object"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "starts with a byte order mark"),
    "UTF-16 with its mark": ("{}".encode("utf-16"), "not UTF-8 at byte 0"),
    "UTF-16 without a mark": ("{}".encode("utf-16-le"), "not JSON"),
    "UTF-32": ("{}".encode("utf-32-be"), "not JSON"),
    "Latin-1": ('"é"'.encode("latin-1"), "not UTF-8 at byte 1"),
    "an overlong character": (b'"\xc0\xaf"', "not UTF-8 at byte 1"),
    "a raw lone surrogate": (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
    "a raw pair of surrogates": (b'"\xed\xa0\xbd\xed\xb8\x80"', "not UTF-8 at byte 1"),
    "an escaped lone surrogate": (b'"\\ud800"', "a lone surrogate"),
    "an escaped low surrogate": (b'["\\udfff"]', "a lone surrogate"),
    "surrogates in the wrong order": (b'"\\ude00\\ud83d"', "a lone surrogate"),
    "a lone surrogate in a name": (b'{"\\ud800":1}', "a lone surrogate"),
    "a lone surrogate among others": (b'[["a"],{"b":"\xc3\xa9\\udc00"}]', "a lone surrogate"),
    "one level too many": (nested(MAX_DEPTH + 1).encode(), "more than 64 levels"),
    "one level too many, mixed": (('{"a":[' * 33 + "]}" * 33).encode(), "more than 64 levels"),
    "a thousand levels": (b"[" * 1000, "more than 64 levels"),
    "a thousand objects": (b'{"":' * 1000, "more than 64 levels"),
    "depth without an end": (b"[" * MIB, "more than 100000 values"),
    "objects without an end": (b'{"":' * (MIB // 4), "more than 100000 values"),
    "depth after a string with brackets": (b'["]]]]",' + nested(65).encode() + b"]", "more than 64 levels"),
    "one name too many": (names(MAX_KEYS + 1).encode(), "more than 10000 names"),
    "one name too many, spread": (spread(101, 100).encode(), "more than 10000 names"),
    "one value too many": (zeros(MAX_VALUES + 1).encode(), "more than 100000 values"),
    "one value too many, in lists of one": (f"[{','.join(['[0]'] * 50_001)}]".encode(), "more than 100000 values"),
    "one value too many, deep": (f"[{','.join(['[' * 60 + ']' * 60] * 1700)}]".encode(), "more than 100000 values"),
    "one value too many, in objects": (
        f"[{','.join([names(9000), zeros(91_000)])}]".encode(),
        "more than 100000 values",
    ),
    "values without an end": (b"[" + b"0," * (MIB // 2), "more than 100000 values"),
    "a raw NUL": (b'"\0"', "not JSON"),
    "a raw line feed in a string": (b'"\n"', "not JSON"),
    "a NUL after the value": (b"{}\0", "not JSON"),
    "two values": (b"{} {}", "not JSON"),
    "a comma too many": (b"[1,]", "not JSON"),
    "a comma too many in an object": (b'{"a":1,}', "not JSON"),
    "single quotes": (b"{'a':1}", "not JSON"),
    "a name without quotes": (b"{a:1}", "not JSON"),
    "a comment": (b"{} // x", "not JSON"),
    "a leading zero": (b"01", "not JSON"),
    "a leading plus": (b"+1", "not JSON"),
    "a leading point": (b".5", "not JSON"),
    "a trailing point": (b"1.", "not JSON"),
    "a hexadecimal number": (b"0x10", "not JSON"),
    "digits of another script": ("٣".encode(), "not JSON"),
    "white space JSON has not": ("\u00a0{}".encode(), "not JSON"),
    "a form feed": (b"\f{}", "not JSON"),
    "an unknown escape": (b'"\\x41"', "not JSON"),
    "a short escape": (b'"\\u12"', "not JSON"),
    "a string without an end": (b'"abc', "not JSON"),
    "an escape without an end": (b'"abc\\', "not JSON"),
    "True": (b"True", "not JSON"),
    "None": (b"None", "not JSON"),
    "closed too often": (b"]" * 100 + b"[" * 100, "not JSON"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    text, value = ACCEPTED[name]
    found = loads(text.encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    body, fault = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}"):
        loads(body)


@pytest.mark.parametrize("body", [b'{"token":"hunter2"', b"hunter2", b'{"hunter2":1,"hunter2":2}', b'"hunter2\\ud800"'])
def test_a_refusal_repeats_nothing_of_the_body(body: bytes) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is what is looked at
        loads(body)
    assert "hunter2" not in str(refused.value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def values(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(items) + sum(values(item) for item in items)


@given(value=PLAIN, indent=st.sampled_from([None, 2]))
def test_the_scan_for_values_counts_what_json_holds(value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "MAX_VALUES", values(value))
        loads(body)
        patch.setattr(strict_json, "MAX_VALUES", values(value) - 1)
        if values(value):
            with pytest.raises(ValueError, match=r"^more than .* values$"):
                loads(body)


@given(value=PLAIN, escaped=st.booleans(), indent=st.sampled_from([None, 2]))
def test_whatever_is_written_is_read(value: Any, escaped: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    found = loads(text.encode())
    assert json.dumps(found) == json.dumps(value)


JSON_LIKE = st.text(st.sampled_from('{}[]",:\\u0dD8eE+-.19 \n\tnultrfasi/é\ud83d😀'), max_size=40)


@given(st.one_of(st.binary(max_size=40), JSON_LIKE.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b'{"a":"\\\\"}')
def test_what_is_read_is_what_json_reads_and_nothing_else_is_raised(body: bytes) -> None:
    try:
        found = loads(body)
    except ValueError:
        return
    assert json.dumps(found) == json.dumps(json.loads(body))


@given(JSON_LIKE.map(lambda text: "[" * 65 + text))
def test_the_depth_is_found_in_any_text_that_opens_more(text: str) -> None:
    with pytest.raises(ValueError, match="more than 64 levels"):
        loads(text.encode("utf-8", "replace"))


@given(st.text(st.sampled_from('{}[]"\\\\:, au0\n')))
def test_the_scan_for_depth_sees_the_brackets_json_sees(text: str) -> None:
    # A text the scan reads wrongly would show here: it counts more or fewer levels than there are.
    deep = json.dumps(text) + "," + nested(MAX_DEPTH - 1)
    assert loads(f"[{deep}]".encode()) == json.loads(f"[{deep}]")
    with pytest.raises(ValueError, match="more than 64 levels"):
        loads(f"[[{deep}]]".encode())


DEEP = "[" * 60 + "[],[],[],[],[],"
"""Enough brackets for the scan to be needed, and levels to spare."""

HOSTILE: dict[str, Callable[[int], str]] = {
    "one long string": lambda size: '"' + "a" * size + '"',
    "a string without an end": lambda size: '"' + "a" * size,
    "quotes": lambda size: '"' * size,
    "quotes with an escape": lambda size: '"\\' * (size // 2),
    "escaped quotes": lambda size: '"' + '\\"' * (size // 2),
    "backslashes": lambda size: '"' + "\\" * size,
    "commas": lambda size: "," * size,
    "empty lists": lambda size: "[]," * (size // 3),
    "empty objects": lambda size: "{}," * (size // 3),
    "closing brackets": lambda size: "]" * size,
    "zeros": lambda size: "0," * (size // 2),
    "digits": lambda size: "1" * size,
    "a fraction": lambda size: "0." + "3" * size,
    "an exponent": lambda size: "1e" + "0" * size + "1",
    "white space": lambda size: " " * size,
    "line feeds": lambda size: "\n" * size + "x",
    "escapes": lambda size: '"' + "\\u00e9" * (size // 6) + '"',
    "names": lambda size: "{" + ",".join(f'"{number:x}":0' for number in range(size // 8)) + "}",
    "characters and one escape": lambda size: '"\\u0041' + "é" * (size // 2) + '"',
}


def seconds(body: bytes) -> float:
    best = float("inf")
    for _ in range(3):
        begun = time.thread_time()  # of this thread alone: what else the machine does is no fault of the reader's
        with contextlib.suppress(ValueError):
            loads(body)
        best = min(best, time.thread_time() - begun)
    return best


@pytest.mark.parametrize("name", HOSTILE)
def test_sixteen_times_the_size_takes_nowhere_near_the_square_of_the_time(name: str) -> None:
    small, large = ((DEEP + HOSTILE[name](size)).encode() for size in (MIB // 32, MIB // 2))
    # The square would be 256 times; the least is there because a clock cannot measure next to nothing.
    assert seconds(large) < 80 * max(seconds(small), 0.000_1)


def test_too_many_values_are_refused_before_they_take_memory() -> None:
    body = f"[{','.join(['[' * 60 + ']' * 60] * (MIB // 121))}]".encode()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="values"):
            loads(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


def test_the_scan_for_depth_takes_no_memory_for_what_it_has_passed() -> None:
    body = (DEEP + HOSTILE["one long string"](MIB)).encode()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not JSON"):
            loads(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
