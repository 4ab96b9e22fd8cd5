"""The AMQP corpus, first part: each property with odd values, and ids of every kind."""

from __future__ import annotations

from typing import Final

from tests.hostile.case import Case, broken, put
from tests.hostile.shots import USER

NOT_UTF8: Final = (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xc0\x80")
SHORTS: Final = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "message_id",
    "type",
    "app_id",
    "cluster_id",
)
ODD_TEXTS: Final = {
    "empty": b"",
    "of 255 bytes": b"x" * 255,
    "control characters": bytes(range(1, 32)) + b"\x7f",
    "NUL": b"a\0b",
    "CR LF": b"a\r\nX-Evil: 1",
    "of another script": "идентификатор-é-😀".encode(),
    "right to left": b"\xe2\x80\xaetxt.exe",
    "JSON": b'{"a":1}',
}
HARMLESS: Final = ("content_type", "correlation_id", "app_id", "cluster_id")
"""Properties that say nothing about what becomes of a job, whatever is in them."""

IDS: Final = {
    "of 200 characters": b"i" * 200,
    "of 201 characters": b"i" * 201,
    "with a space": b"a b",
    "like a path": b"../../etc/passwd",
    "like SQL": b"1'; DROP TABLE jobs; --",
    "like a template": b"{{ request.json }}",
    "like a hash of ours": b"sha256-" + b"0" * 64,
    "like a step": b"job/request/0",
    "percent signs": b"%s%n%00",
    "a line feed at its end": b"a\n",
    "a hash sign": b"#",
    "of one character": b"i",
}


def property_cases(queue: bytes) -> dict[str, Case]:
    """For a worker of this queue."""
    return {
        "a good job": Case(),
        **{
            f"{name} not UTF-8, {number}": broken(values={name: value})
            for name in SHORTS
            for number, value in enumerate(NOT_UTF8)
        },
        **{f"{name} {what}": put(name, value) for name in HARMLESS for what, value in ODD_TEXTS.items()},
        **{f"message_id {what}": put("message_id", value) for what, value in {**ODD_TEXTS, **IDS}.items()},
        # The same of a job that dies, so that its id is seen.
        **{f"dead, message_id {what}": broken(values={"message_id": value}, body=b"{") for what, value in IDS.items()},
        "no message_id": put("message_id", None),
        "one id for two, the first": put("message_id", b"twin"),
        "one id for two, the second": put("message_id", b"twin"),
        "one id for two, the third is no job": put("message_id", b"twin", "malformed", body=b"{"),
        "no content_type": put("content_type", None),
        "content_type of text": put("content_type", b"text/plain; charset=utf-16"),
        "content_encoding empty": put("content_encoding", b""),
        "content_encoding gzip": put("content_encoding", b"gzip", "malformed"),
        "content_encoding identity": put("content_encoding", b"identity", "malformed"),
        "content_encoding utf-8": put("content_encoding", b"UTF-8", "malformed"),
        "no type": put("type", None, "no_type"),
        "type empty": put("type", b"", "no_type"),
        "type of 255 bytes": put("type", b"t" * 255, "unknown_type"),
        "type in capitals": put("type", b"HTTP", "unknown_type"),
        "type with a NUL": put("type", b"http\0", "unknown_type"),
        "type with a space": put("type", b" http", "unknown_type"),
        "type like a module": put("type", b"os:system", "unknown_type"),
        "type of full width": put("type", b"\xef\xbd\x88\xef\xbd\x94\xef\xbd\x94\xef\xbd\x90", "unknown_type"),
        "type with CR LF": put("type", b"http\r\nhttp", "unknown_type"),
        **{f"priority {value}": put("priority", value) for value in (0, 1, 9, 10, 127, 128, 255)},
        **{f"delivery_mode {value}": put("delivery_mode", value, "done refused") for value in (0, 1, 3, 255)},
        **{
            f"timestamp {value}": put("timestamp", value)
            for value in (0, 1, 2**31, 2**32, 2**63, 2**64 - 1, 1_700_000_000_123)
        },
        "expiration 0": put("expiration", b"0", "done expired"),
        "expiration 1": put("expiration", b"1", "done expired"),
        "expiration of a minute": put("expiration", b"60000"),
        "expiration of 33 bits": put("expiration", b"4294967296", "done refused"),
        "expiration of 32 bits": put("expiration", b"4294967295", "done refused"),
        **{
            f"expiration {value!r}": put("expiration", value, "refused")
            for value in (b"", b"-1", b"1.5", b"1e3", b" 5", b"5 ", b"soon", b"9" * 255, "٣".encode())
        },
        **{
            f"reply_to {value[:30]!r}": put("reply_to", value)
            for value in (
                b"",
                b"nowhere",
                b"replies.nobody",
                b"amq.gen-none",
                b"replies.*",
                b"replies.\r\n",
                b"x" * 255,
            )
        },
        "reply_to the work queue": put("reply_to", queue),
        "reply_to the dead queue": put("reply_to", queue + b".dead"),
        "reply_to a rung": put("reply_to", queue + b".wait.1s"),
        "reply_to the spare queue": put("reply_to", queue + b".spare"),
        "reply_to the work queue, dead": put("reply_to", queue, "malformed", body=b"{"),
        "user_id of the publisher": put("user_id", USER.encode()),
        "user_id of the worker": put("user_id", b"guest", "refused"),
        "user_id empty": put("user_id", b"", "refused"),
        "user_id not UTF-8": put("user_id", b"\xff", "refused"),
    }
