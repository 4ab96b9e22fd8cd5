"""Hostile messages by chance: the same seed and number make the same message, whatever else is sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.hostile.json_corpus import read_corpus
from tests.hostile.judge import safe_id
from tests.hostile.pieces import KINDS, PERSISTENT, array, deep, double, properties, record, table, text, whole
from tests.hostile.shots import Shot, marked
from tests.raw_properties import long

T = TypeVar("T")

DAMAGED: Final = 0.04
"""Share of the property lists that are damaged; most of these the broker refuses, and each costs a connection."""

UNMARKED: Final = 0.02
"""Share of the bodies that go without their number."""

TEXTS: Final = (
    *(
        b"",
        b"x",
        b"x" * 200,
        b"x" * 201,
        b"x" * 255,
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\0",
        bytes(range(32)),
    ),
    *(
        b"\r\nX-Evil: 1",
        b"a b",
        "é😀".encode(),
        b"\xe2\x80\xaegnp.exe",
        b"../../etc/passwd",
        b"' OR 1=1 --",
        b"{{ a }}",
    ),
    *(b"%s%n", b"$(id)", b"<script>", b"null", b"0", b"-1", b"1e400", b"http", b"gzip", b"utf-8", b"sha256-00"),
    *(b"application/json; charset=utf-16", b"amq.rabbitmq.reply-to.g1h2AA", b"amq.gen-none", b"replies.none"),
)
FORGED: Final = (
    *(b"id", b"attempt", b"snoozes", b"interruptions", b"crashes", b"first-seen", b"steps", b"history", b"reason"),
    *(b"detail", b"raw", b"unheard-of", b""),
)
MOMENTS: Final = (
    *(
        whole(0),
        whole(1),
        whole(-1),
        whole(2**63 - 1),
        double(-1.0),
        double(1e308),
        double(1e-9),
        text(b"tomorrow"),
    ),
    *(b"t\x01", b"V", array(), record({}), whole(10**14), whole(10**14 - 1), text(b"0"), b"T" + b"\xff" * 8),
)
BROKEN_CLAIMS: Final = (
    *(text(b"\xff"), text(b"{"), text(b'{"request":1}'), text(b"[" * 5000), b"V", b"t\x01", array(b"V"), record({})),
    *(double(1e300), whole(-(2**63)), b"x" + long(b"\0"), array(*[text(b"\xff")] * 50), text(b"a" * 9000)),
)
"""None of them is of the form that any header of the worker has."""

EXTRAS: Final = (
    *(
        b'"method":"POST"',
        b'"method":"CONNECT"',
        b'"method":7',
        b'"headers":{"Host":"a"}',
        b'"headers":{"X":"a\\r\\nb"}',
    ),
    *(b'"headers":{"A":"b"}', b'"query":{"a":"{{ x"}', b'"json":1,"text":"a"', b'"timeout":1e400', b'"timeout":-1'),
    *(b'"url":"http://10.0.0.1/"', b'"retry":{"attempts":99}', b'"expect":{"status":["9xx"]}', b'"steps":[]'),
    *(
        b'"for_each":"{{ a }}"',
        b'"save":"a[*]"',
        b'"needs":["b"]',
        b'"auth":"crm"',
        b'"__proto__":{}',
        b'"redirects":4',
    ),
    *(b'"text":"a"', b'"json":{"a":[1,2,3]}', b'"form":{"a":"b"}', b'"base64":"!"', b'"limit_key":""', b'"id":"item"'),
)

DEATHS: Final = (
    array(record({b"count": whole(10**9), b"queue": text(b"jobs"), b"reason": text(b"expired")})),
    array(record({b"count": text(b"x"), b"reason": whole(1), b"time": b"V"})),
    array(b"V", whole(1)),
    text(b"none"),
    record({}),
    whole(1),
    array(),
)


@dataclass(frozen=True)
class _Made:
    """Properties, and what they mean for the message that has them."""

    values: Mapping[str, bytes | int]
    id: str | None = None
    copied: bool = False
    trusted: bool = False


_Make = Callable[[random.Random, int], T]


@dataclass(frozen=True)
class Generator:
    """`url` and a number make the URL of a job; `queue` is the worker's, `spare` another, `user` the worker's own."""

    seed: int
    url: str
    queue: str
    spare: str
    user: str = "guest"
    _small: list[bytes] = field(init=False, default_factory=lambda: [one for one in _bodies() if len(one) < 3000])
    _large: list[bytes] = field(init=False, default_factory=lambda: [one for one in _bodies() if len(one) >= 3000])

    def shots(self, count: int, first: int = 0) -> Iterator[Shot]:
        return (self.shot(number) for number in range(first, first + count))

    def shot(self, number: int) -> Shot:
        chance = random.Random(f"{self.seed}/{number}")
        made = _drawn(chance, self._properties)(chance, number)
        body = _drawn(chance, self._contents)(chance, number)
        raw = properties(made.values)
        if chance.random() < DAMAGED and not made.copied:
            made, raw = _Made({}, trusted=made.trusted), _damaged(chance, raw)
        if chance.random() >= UNMARKED:
            body = marked(body, number)
        name = f"{self.seed}-{number}"
        return Shot(name, number, raw, body, id=made.id, copied=made.copied, trusted=made.trusted)

    @property
    def _properties(self) -> Sequence[tuple[float, _Make[_Made]]]:
        return (
            (26, lambda chance, number: _Made(_plain(number), _id(number))),
            (22, self._odd),
            (20, lambda chance, number: _Made(_plain(number) | {"headers": some_headers(chance)}, _id(number))),
            (12, self._forged),
            (6, self._trusted),
            (6, self._as_from_the_broker),
            (0.5, lambda chance, number: _Made(_plain(number) | {"headers": _huge(chance)}, _id(number))),
        )

    @property
    def _contents(self) -> Sequence[tuple[float, _Make[bytes]]]:
        return (
            (25, lambda chance, number: self._job(number)),
            (18, lambda chance, number: self._job(number, *chance.sample(EXTRAS, chance.randrange(1, 3)))),
            (15, self._damaged_job),
            (8, lambda chance, number: _cut(chance, self._job(number))),
            (22, lambda chance, number: chance.choice(self._small)),
            (11, lambda chance, number: chance.randbytes(chance.randrange(300))),
            (0.2, lambda chance, number: chance.choice(self._large)),
        )

    def _job(self, number: int, *more: bytes) -> bytes:
        return b"{" + b",".join((f'"url":"{self.url}{number}"'.encode(), *more)) + b"}"

    def _damaged_job(self, chance: random.Random, number: int) -> bytes:
        """Its URL is spared: another one would be asked, and nobody could tell for which message."""
        rest = b",".join((b"", *chance.sample(EXTRAS, 2))) + b"}"
        return self._job(number)[:-1] + _damaged(chance, rest)

    def _odd(self, chance: random.Random, number: int) -> _Made:
        texts = (*TEXTS, self.queue.encode(), f"{self.queue}.dead".encode())
        values: dict[str, bytes | int] = dict(_plain(number))
        for name in chance.sample(sorted(ODD), chance.randrange(1, 4)):
            values[name] = chance.choice(texts)
        if chance.random() < 0.2:
            values["timestamp"] = chance.choice((0, 1, 2**31, 2**63, 2**64 - 1, 1_700_000_000_123))
        if chance.random() < 0.2:
            values["priority"] = chance.randrange(256)
        if chance.random() < 0.05:
            values["expiration"] = chance.choice(
                (b"0", b"1", b"60000", b"4294967295", b"4294967296", b"-1", b"1.5", b"x")
            )
        return _Made(values)

    def _forged(self, chance: random.Random, number: int) -> _Made:
        """The worker's own headers from somebody who is not believed; at times a moment, which counts from anyone."""
        headers = {b"x-worker-" + name: _forgery(chance) for name in chance.sample(FORGED, chance.randrange(1, 6))}
        if chance.random() < 0.5:
            headers |= {b"x-worker-id": text(b"forged"), b"x-worker-attempt": whole(7)}
        if chance.random() < 0.3:
            headers[chance.choice((b"x-worker-not-before", b"x-worker-deadline"))] = chance.choice(MOMENTS)
        return _Made(_plain(number) | {"headers": table(headers)}, _id(number))

    def _trusted(self, chance: random.Random, number: int) -> _Made:
        headers = {
            b"x-worker-" + name: chance.choice(BROKEN_CLAIMS)
            for name in chance.sample(FORGED[1:], chance.randrange(1, 6))
        }
        return _Made(
            _plain(number) | {"headers": table(headers), "user_id": self.user.encode()}, _id(number), trusted=True
        )

    def _as_from_the_broker(self, chance: random.Random, number: int) -> _Made:
        """What only a broker writes, and the headers by which a publisher has it make copies."""
        headers = {
            b"x-death": chance.choice(DEATHS),
            b"x-delivery-count": chance.choice((whole(3), whole(2**40), whole(-1), text(b"9"), b"t\x01")),
            b"x-acquired-count": whole(1000),
            b"x-first-death-queue": text(self.queue.encode()),
            b"x-opt-delivery-time": whole(1),
        }
        kept = {name: headers[name] for name in chance.sample(sorted(headers), chance.randrange(1, 5))}
        if copied := chance.random() < 0.3:
            kept[chance.choice((b"CC", b"BCC"))] = array(text(self.spare.encode()))
        return _Made(_plain(number) | {"headers": table(kept)}, _id(number), copied=copied)


ODD: Final = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "message_id",
    "type",
    "app_id",
    "cluster_id",
)


def some_headers(chance: random.Random) -> bytes:
    """The content of a table: names and values of all kinds, some of them twice."""
    kinds = sorted(KINDS)
    names = [chance.choice((*TEXTS, b"traceparent", b"tracestate", b"x-job-type")) for _ in range(chance.randrange(8))]
    return b"".join(table({name: KINDS[chance.choice(kinds)]}) for name in names)


def _bodies() -> list[bytes]:
    return [vector.body for vector in read_corpus() if len(vector.body) <= 1 << 20]


def _id(number: int) -> str:
    return safe_id(f"m{number}".encode())


def _plain(number: int) -> dict[str, bytes | int]:
    mode = PERSISTENT[0]
    return {
        "type": b"http",
        "message_id": f"m{number}".encode(),
        "content_type": b"application/json",
        "delivery_mode": mode,
    }


def _huge(chance: random.Random) -> bytes:
    makes: tuple[Callable[[], bytes], ...] = (
        lambda: table({b"k": deep(b"F", chance.randrange(60, 3000))}),
        lambda: table({b"k": deep(b"A", chance.randrange(60, 3000))}),
        lambda: table({str(one).encode(): b"V" for one in range(10_000)}),
        lambda: table({b"k" * 255: text(b"x" * chance.randrange(100_000, 128_000))}),
        lambda: table({b"x-worker-steps": text(b"x" * 120_000)}),
    )
    return chance.choice(makes)()


def _forgery(chance: random.Random) -> bytes:
    sensible = (
        whole(1),
        whole(99),
        whole(2**62),
        text(b"forged"),
        text(b'{"request":[{"status":200}]}'),
        array(text(b"1")),
    )
    return chance.choice((*sensible, *BROKEN_CLAIMS, KINDS[chance.choice(sorted(KINDS))]))


def _damaged(chance: random.Random, content: bytes) -> bytes:
    """Bits turned, bytes added and taken away."""
    damaged = bytearray(content)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(damaged) + 1)
        match chance.randrange(3):
            case 0:
                if at < len(damaged):
                    damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                del damaged[at : at + chance.randrange(1, 4)]
            case _:
                damaged[at:at] = chance.randbytes(chance.randrange(1, 4))
    return bytes(damaged)


def _cut(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content))]


def _drawn(chance: random.Random, of: Sequence[tuple[float, T]]) -> T:
    return chance.choices([one for _, one in of], [weight for weight, _ in of])[0]
