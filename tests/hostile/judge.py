"""What became of hostile messages, seen from outside: nothing lost, twice or altered, and each with a reason."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.hostile.shots import BEFORE_ANY_REQUEST, DONE, REASONS, REFUSED, Shot
from tests.hostile.wire import Answer, Taken

BY_THE_BROKER: Final = {b"expired": "expired", b"delivery_limit": "delivery_limit", b"rejected": "too_large"}


RAW_KEPT: Final = 8 * 1024
"""Bytes of undecodable properties that a dead letter keeps."""

REWRITTEN: Final = bytes.maketrans(b"L\x02", b"l\x01")
"""The broker writes properties anew: L becomes l, true is 1, and flags that nobody knows are gone."""

UNKNOWN_FLAGS: Final = 0x03


@dataclass(frozen=True)
class Evidence:
    """Every message with the broker's answer, the dead letters, copies in the spare queue, requests by number."""

    answered: Sequence[tuple[Shot, Answer]]
    letters: Sequence[Taken]
    copies: Mapping[bytes, int]
    effects: Mapping[int, int]
    harm: Sequence[tuple[str, str]]
    """What happened to the worker itself: kind and story."""


@dataclass(frozen=True)
class Violation:
    """A broken promise; `shot` is the message over which it was broken, if it was one."""

    kind: str
    story: str
    shot: Shot | None = None


@dataclass
class Report:
    """How it ended, by end; and what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)
    """The end of each message, by its name."""

    @property
    def kinds(self) -> set[str]:
        return {one.kind for one in self.violations}

    def line(self) -> str:
        """All of it in a line."""
        total, refused, done = self.ends.total(), self.ends[REFUSED], self.ends[DONE]
        dead = ", ".join(f"{end} {count}" for end, count in self.ends.most_common() if end in REASONS)
        return (
            f"{total} sent, {refused} refused by the broker, {total - refused} taken: {done} done,"
            f" {total - refused - done} dead ({dead}); {len(self.violations)} violations"
        )


def judge(evidence: Evidence) -> Report:
    """The report. Messages with one and the same body are judged together."""
    report = Report(violations=[Violation(kind, story) for kind, story in evidence.harm])
    letters: defaultdict[bytes, list[Taken]] = defaultdict(list)
    for letter in evidence.letters:
        letters[letter.body].append(letter)
    alike: defaultdict[bytes, list[Shot]] = defaultdict(list)
    for shot, answer in evidence.answered:
        if answer == "confirmed":
            alike[shot.body].append(shot)
        else:
            report.violations += _not_taken(shot, answer, evidence)
            _note(report, shot, REFUSED)
    for body, shots in alike.items():
        report.violations += _judged(shots, letters.pop(body, []), evidence, report)
    for body, unknown in letters.items():
        story = f"{len(unknown)} dead letters with a body nobody sent: {body[:80]!r}"
        report.violations.append(Violation("altered", story))
    copied = Counter(shot.body for shot, answer in evidence.answered if answer == "confirmed" and shot.copied)
    if copied != evidence.copies:
        more = sum((Counter(evidence.copies) - copied).values())
        less = sum((copied - Counter(evidence.copies)).values())
        report.violations.append(Violation("copies", f"the spare queue has {more} too many, and {less} are missing"))
    return report


def _note(report: Report, shot: Shot, end: str) -> None:
    report.ends[end] += 1
    report.found[shot.name] = end


def _not_taken(shot: Shot, answer: Answer, evidence: Evidence) -> Iterator[Violation]:
    if answer != "refused":
        yield Violation("answer", f"the broker answered {answer}", shot)
    elif REFUSED not in shot.ends:
        yield Violation("wrong end", "the broker refused it", shot)
    if evidence.effects.get(shot.number):
        yield Violation("ghost", "it ran, and was never taken", shot)


def _judged(shots: list[Shot], letters: list[Taken], evidence: Evidence, report: Report) -> Iterator[Violation]:
    if len(shots) > 1:  # the body tells no more than how many there are
        if len(letters) != len(shots):
            yield Violation(
                "lost" if len(letters) < len(shots) else "twice", f"{len(letters)} of {len(shots)}", shots[0]
            )
        for shot, letter in zip(shots, letters, strict=False):
            yield from _reason_of(shot, letter, report)
        return
    (shot,) = shots
    effects = evidence.effects.get(shot.number, 0)
    if not letters:
        _note(report, shot, DONE)
        if not effects:
            yield Violation("lost", "neither done nor dead", shot)
        elif DONE not in shot.ends:
            yield Violation("wrong end", f"done, and not {sorted(shot.ends)}", shot)
        if effects > 1:
            yield Violation("twice", f"{effects} requests", shot)
        return
    if len(letters) > 1:
        yield Violation("twice", f"{len(letters)} dead letters", shot)
    yield from _reason_of(shot, letters[0], report)
    if effects and report.found[shot.name] in BEFORE_ANY_REQUEST:
        yield Violation("both", f"a request, and dead of {report.found[shot.name]}", shot)


def _reason_of(shot: Shot, letter: Taken, report: Report) -> Iterator[Violation]:
    try:
        headers = letter.headers
    except ValueError as error:
        yield Violation("unreadable", str(error), shot)
        return
    reason = _reason(headers)
    _note(report, shot, reason)
    if reason not in REASONS:
        yield Violation("no reason", f"its headers: {headers!r}"[:500], shot)
    elif reason not in shot.ends:
        detail = headers.get(b"x-worker-detail", b"").decode(errors="replace")
        yield Violation("wrong end", f"{reason} ({detail}), and not {sorted(shot.ends)}", shot)
    if b"x-death" in headers:  # moved by the broker, as it came
        return
    found = headers.get(b"x-worker-id", b"")
    if b"x-worker-raw" in headers:  # nobody could read its id
        raw = base64.b64decode(headers[b"x-worker-raw"])
        if _rewritten(raw) != _rewritten(shot.raw[:RAW_KEPT]):
            yield Violation("altered", f"its properties are kept as {raw!r}", shot)
    elif shot.id is not None and found != shot.id.encode():
        yield Violation("id", f"it goes by {found!r} instead of {shot.id!r}", shot)
    if not shot.trusted and reason == "malformed" and headers.get(b"x-worker-attempt") != 0:
        yield Violation("believed", f"{headers.get(b'x-worker-attempt')} attempts, of what never ran", shot)
    if kept := sorted(name for name in headers if _is_the_brokers(name)):
        yield Violation("headers", f"the copy has {kept!r}", shot)


def _rewritten(raw: bytes) -> bytes:
    return (raw[:1] + bytes([raw[1] & ~UNKNOWN_FLAGS & 0xFF]) + raw[2:] if len(raw) > 1 else raw).translate(REWRITTEN)


def _is_the_brokers(name: bytes) -> bool:
    prefixes = (b"x-death", b"x-first-death-", b"x-last-death-", b"x-opt-")
    return name in {b"CC", b"BCC", b"x-delivery-count", b"x-acquired-count"} or name.startswith(prefixes)


def _reason(headers: Mapping[bytes, Any]) -> str:
    """As readers of the dead queue take it: the broker's own note counts before ours, which may be forged there."""
    deaths = headers.get(b"x-death")
    if isinstance(deaths, list) and deaths:
        return BY_THE_BROKER.get(deaths[0].get(b"reason"), "")
    reason = headers.get(b"x-worker-reason", b"")
    return reason.decode(errors="replace") if isinstance(reason, bytes) else ""


def safe_id(text: bytes) -> str:
    """The job id of a message id."""
    if 0 < len(text) <= 200 and all(0x21 <= byte <= 0x7E for byte in text):
        return text.decode()
    return f"sha256-{hashlib.sha256(text).hexdigest()}"
