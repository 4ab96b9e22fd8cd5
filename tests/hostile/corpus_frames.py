"""The AMQP corpus, third part: property lists and bodies as a whole, lengths that lie, frames split oddly."""

from __future__ import annotations

import struct
from typing import Final

from tests.hostile.case import Case
from tests.hostile.pieces import table
from tests.raw_properties import long, short

MAX_BODY: Final = 1 << 20
BUFFERED: Final = 16 << 20
NAN: Final = b"d\x7f\xf8" + bytes(6)


def frame_cases() -> dict[str, Case]:
    """For any worker."""
    return {
        "no properties": Case("no_type", raw=b"\0\0"),
        "an unknown flag": Case("no_type", raw=b"\0\x02"),
        **{
            what: Case("refused", raw=raw)
            for what, raw in {
                "no flags": b"",
                "half of the flags": b"\0",
                "left over": b"\0\0\xff",
                "a second flag word": b"\0\x01\0\0",
                "flag words without an end": b"\0\x01" * 100,
                "a property cut short": b"\0\x80\x05ab",
                "a property missing": b"\0\x80",
                "a timestamp cut short": b"\0\x40" + bytes(7),
                "all flags and nothing else": b"\xff\xfc",
                "a table longer than the list": b"\x20\0" + struct.pack(">I", 9) + table({b"h": b"V"}),
                "a table shorter than its content": b"\x20\0" + struct.pack(">I", 2) + table({b"h": b"V"}),
                "a table of 4 GB": b"\x20\0\xff\xff\xff\xff" + table({b"h": b"V"}),
                "a table inside longer than its table": b"\x20\0"
                + long(short(b"h") + b"F\0\0\0\x09" + short(b"k") + b"V"),
                "an array longer than its table": b"\x20\0" + long(short(b"h") + b"A\0\0\0\x09V"),
                "a text longer than its table": b"\x20\0" + long(short(b"h") + b"S\xff\xff\xff\xffa"),
                "a header without a value": b"\x20\0" + long(short(b"h")),
                "a header name cut short": b"\x20\0" + long(b"\x09h"),
                "a value of unknown type": b"\x20\0" + long(short(b"h") + b"Q\x01"),
                "a value of type NUL": b"\x20\0" + long(short(b"h") + b"\0"),
                "NaN": b"\x20\0" + long(short(b"h") + NAN),
                "infinity": b"\x20\0" + long(short(b"h") + b"d\x7f\xf0" + bytes(6)),
                "not-before of NaN": b"\x20\0" + long(short(b"x-worker-not-before") + NAN),
            }.items()
        },
        "no body": Case("malformed", body=b""),
        "a body of the limit": Case("malformed", body=b"[" + b" " * (MAX_BODY - 30)),
        "a good body of a megabyte": Case(more=" " * (MAX_BODY - 200)),
        "a body above the limit": Case("too_large", body=b"[" + b"1" * MAX_BODY),
        "a good body above the limit": Case("too_large", more=" " * MAX_BODY),
        "a body above what is held": Case("too_large refused", body=b"[" * (BUFFERED + 1)),
        "frames of one byte": Case(part=1),
        "frames of seven bytes, dead": Case("malformed", part=7, body=b"[" * 1000),
        "a publisher that dies before the body": Case("refused", body=b"", announced=10),
        "a publisher that dies in the body": Case("refused", body=b"[1,2", announced=1 << 40),
    }
