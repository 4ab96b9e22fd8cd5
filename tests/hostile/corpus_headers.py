"""The AMQP corpus, second part: headers of every type, the broker's and the worker's forged."""

from __future__ import annotations

import struct
from typing import Final

from tests.hostile.case import Case, broken, head
from tests.hostile.pieces import KINDS, array, deep, double, record, table, text, whole
from tests.raw_properties import long

DAY: Final = 86_400_000
CLAIMS: Final = (
    "id",
    "attempt",
    "snoozes",
    "interruptions",
    "crashes",
    "first-seen",
    "steps",
    "history",
    "reason",
    "detail",
    "raw",
)
SENSIBLE: Final = {
    "id": text(b"forged"),
    "attempt": whole(16),
    "snoozes": whole(10**6),
    "interruptions": whole(10),
    "crashes": whole(5),
    "first-seen": whole(1),
    "steps": text(b'{"request":[{"status":200}]}'),
    "history": array(text(b"1 2026-01-01T00:00:00Z 0.1s failed: E")),
    "reason": text(b"expired"),
    "detail": text(b"forged"),
    "raw": text(b"AAAA"),
}
"""What they would look like from the worker itself."""

WRONG: Final = {
    "text": text(b"x"),
    "not UTF-8": text(b"\xff"),
    "a double": double(1e300),
    "minus": whole(-(2**63)),
    "true": b"t\x01",
    "nothing": b"V",
    "an array": array(b"V", text(b"\xff")),
    "a table": record({b"a": b"V"}),
    "a timestamp": b"T" + b"\xff" * 8,
    "bytes": b"x" + long(b"\0\xff"),
}


def _wrong_claim(name: str, what: str) -> bool:
    """Text is right for an id."""
    return not (name == "id" and what == "text")


def _foreign(queue: bytes) -> dict[bytes, bytes]:
    """What only a broker writes."""
    return {
        b"x-death": array(record({b"count": whole(10**9), b"queue": text(queue), b"reason": text(b"rejected")})),
        b"x-first-death-queue": text(queue),
        b"x-first-death-reason": text(b"expired"),
        b"x-last-death-reason": whole(1),
        b"x-delivery-count": whole(10**9),
        b"x-acquired-count": whole(10**9),
        b"x-opt-delivery-time": text(b"now"),
    }


def header_cases(queue: bytes, spare: bytes, now: int) -> dict[str, Case]:
    """For a worker of this queue; `now` in milliseconds."""
    return {
        **{f"header of type {kind}": Case(headers=table({b"h": value})) for kind, value in KINDS.items()},
        **{
            f"dead, header of type {kind}": broken(headers=table({b"h": value}), body=b"[")
            for kind, value in KINDS.items()
        },
        "header of every type": head(
            {f"h-{kind}".encode(): value for kind, value in KINDS.items() if len(value) < 5000}
        ),
        "headers empty": Case(headers=b""),
        "header name empty": head({b"": b"V"}),
        "header name of 128 bytes": head({b"k" * 128: b"V"}),
        "header name of 255 bytes": head({b"k" * 255: b"V"}),
        "header name not UTF-8": broken(headers=table({b"\xff": b"V"})),
        "header name in a table not UTF-8": broken(headers=table({b"h": record({b"\xff": b"V"})})),
        "header name with CR LF": head({b"a\r\nX-Evil": text(b"1")}),
        "header name twice": Case(headers=table({b"h": b"b\x01"}) + table({b"h": b"b\x02"})),
        "dead, header name twice": broken(headers=table({b"h": b"b\x01"}) + table({b"h": text(b"a")}), body=b"["),
        "10,000 headers": head({str(one).encode(): b"V" for one in range(10_000)}),
        "dead, 10,000 headers": head({str(one).encode(): b"V" for one in range(10_000)}, "malformed", body=b"["),
        "dead, 120 KB in one header": head({b"mine": text(b"x" * 120_000)}, "malformed", body=b"["),
        "not taken on, 123 KB in one header": Case(
            "too_large", {"type": b"nobody"}, table({b"mine": text(b"x" * 123_000)})
        ),
        "tables 63 deep": head({b"h": deep(b"F", 63)}),
        "tables 64 deep": head({b"h": deep(b"F", 64)}, "malformed"),
        "tables 2000 deep": head({b"h": deep(b"F", 2000)}, "malformed"),
        "tables 10,000 deep": head({b"h": deep(b"F", 10_000)}, "malformed refused"),
        "arrays 63 deep": head({b"h": deep(b"A", 63)}),
        "arrays 20,000 deep": head({b"h": deep(b"A", 20_000)}, "malformed refused"),
        "an array of 100,000 voids": head({b"h": array(*[b"V"] * 100_000)}),
        "dead, an array of 100,000 voids": head({b"h": array(*[b"V"] * 100_000)}, "malformed too_large", body=b"["),
        "x-job-type names the type": Case("done", {"type": None}, table({b"x-job-type": text(b"http")})),
        "x-job-type beside a type": head({b"x-job-type": text(b"nobody")}),
        **{
            f"x-job-type {what}": Case("no_type", {"type": None}, table({b"x-job-type": value}))
            for what, value in WRONG.items()
            if what != "text"
        },
        **{f"traceparent {what}": head({b"traceparent": value, b"tracestate": value}) for what, value in WRONG.items()},
        **{f"forged {name.decode()}": head({name: value}) for name, value in _foreign(queue).items()},
        "dead, everything forged that is the broker's": head(_foreign(queue), "malformed", body=b"["),
        **{f"x-death {what}": head({b"x-death": value}) for what, value in WRONG.items()},
        **{f"dead, x-death {what}": head({b"x-death": value}, "malformed", body=b"{") for what, value in WRONG.items()},
        **{
            f"expired, x-death {what}": Case("done expired", {"expiration": b"0"}, table({b"x-death": value}))
            for what, value in WRONG.items()
            if what != "an array"  # of anything but tables: RabbitMQ 3.10 dead-letters nothing more from that queue
        },
        "CC to the spare queue": head({b"CC": array(text(spare))}, copied=True),
        "BCC to the spare queue": head({b"BCC": array(text(spare))}, copied=True),
        "dead, CC to the spare queue": head({b"CC": array(text(spare))}, "malformed", body=b"[", copied=True),
        "dead, BCC to the spare queue": head({b"BCC": array(text(spare))}, "malformed", body=b"[", copied=True),
        "waiting, CC to the spare queue": Case(
            "unknown_type", {"type": b"nobody"}, table({b"CC": array(text(spare))}), copied=True
        ),
        "CC to nowhere": head({b"CC": array(text(b"nowhere"), text(b""))}),
        "CC to the same queue": head({b"CC": array(text(queue))}),
        "CC of text": head({b"CC": text(spare)}, "refused"),
        "CC of numbers": head({b"CC": array(whole(1))}, "done refused"),
        "cc in small letters": head({b"cc": array(text(spare))}),
        **{
            f"forged x-worker-{name}": Case(headers=table({f"x-worker-{name}".encode(): SENSIBLE[name]}))
            for name in CLAIMS
        },
        **{
            f"dead, forged x-worker-{name}": broken(
                headers=table({f"x-worker-{name}".encode(): SENSIBLE[name]}), body=b"["
            )
            for name in CLAIMS
        },
        "everything forged that is the worker's": head(
            {f"x-worker-{name}".encode(): SENSIBLE[name] for name in CLAIMS}
        ),
        "a header of the worker that there is not": head({b"x-worker-": text(b"x"), b"x-worker-unheard-of": b"V"}),
        **{
            f"forged x-worker-{name} {what}": Case(headers=table({f"x-worker-{name}".encode(): value}))
            for name in CLAIMS
            for what, value in WRONG.items()
        },
        **{
            f"trusted x-worker-{name} {what}": Case(headers=table({f"x-worker-{name}".encode(): value}), trusted=True)
            for name in CLAIMS
            for what, value in WRONG.items()
            if _wrong_claim(name, what)
        },
        "trusted x-worker-attempt 0": Case(headers=table({b"x-worker-attempt": whole(0)}), trusted=True),
        "trusted x-worker-attempt 2**63": Case(headers=table({b"x-worker-attempt": whole(2**63 - 1)}), trusted=True),
        "trusted x-worker-crashes 10**9": Case(headers=table({b"x-worker-crashes": whole(10**9)}), trusted=True),
        "trusted x-worker-first-seen 1": Case(headers=table({b"x-worker-first-seen": whole(1)}), trusted=True),
        "trusted x-worker-first-seen in 5138": Case(
            headers=table({b"x-worker-first-seen": whole(10**14 - 1)}), trusted=True
        ),
        "trusted x-worker-steps 100 KB of brackets": Case(
            headers=table({b"x-worker-steps": text(b"[" * 100_000)}), trusted=True
        ),
        "trusted x-worker-steps 100 KB of digits": Case(
            headers=table({b"x-worker-steps": text(b"9" * 100_000)}), trusted=True
        ),
        "trusted x-worker-steps of NaN": Case(headers=table({b"x-worker-steps": text(b'{"a":[NaN]}')}), trusted=True),
        "trusted x-worker-history of 10,000": Case(
            "malformed", headers=table({b"x-worker-history": array(*[text(b"1")] * 10_000)}), body=b"[", trusted=True
        ),
        **{
            f"{name} {what}": head({name.encode(): value}, "malformed")
            for name in ("x-worker-not-before", "x-worker-deadline")
            for what, value in (
                WRONG | {"-1": whole(-1), "2**63 - 1": whole(2**63 - 1), "10**14": whole(10**14)}
            ).items()
            if what != "nothing"
        },
        "x-worker-not-before nothing": head({b"x-worker-not-before": b"V"}),
        "x-worker-not-before 0": head({b"x-worker-not-before": whole(0)}),
        "x-worker-not-before a small double": head({b"x-worker-not-before": double(1e-9)}),
        "x-worker-not-before minus 0": head({b"x-worker-not-before": double(-0.0)}),
        "x-worker-not-before a 32 bit float": head({b"x-worker-not-before": b"f" + struct.pack(">f", 1.5)}),
        "x-worker-not-before a decimal": head({b"x-worker-not-before": KINDS["D of scale 0"]}, "malformed"),
        "x-worker-not-before 31 days ahead": head({b"x-worker-not-before": whole(now + 31 * DAY)}, "malformed"),
        "x-worker-not-before a second ahead": head({b"x-worker-not-before": whole(now + 1000)}),
        "x-worker-deadline 0": head({b"x-worker-deadline": whole(0)}, "expired"),
        "x-worker-deadline a small double": head({b"x-worker-deadline": double(1e-9)}, "expired"),
        "x-worker-deadline in 5138": head({b"x-worker-deadline": whole(10**14 - 1)}),
    }
