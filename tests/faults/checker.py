"""Judges a trial by its ledgers and by what was left in the queues. Asks the worker nothing.

    judge(evidence, rules) -> Report     how every confirmed job ended, whom each repetition is charged to, and faults

Every confirmed job must have ended in exactly one way. An effect that begins again after it was answered well, or cut
short, is a duplicate, and one fault must answer for it: one that struck the process that held the job just then, and
that may cause so many. Pure: the same evidence, the same report.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tests.faults.charging import Charges, Duplicate, Earlier, charge
from tests.faults.ledgers import ANY, SUCCEEDED, Confirmed, Fault, Published, Replayed
from worker.dev.ledger import Exchange

REASONS: Final = frozenset(
    (
        *("malformed", "no_type", "unknown_type", "invalid_payload", "too_large", "rejected", "http_status", "tls"),
        *("template", "credential", "blocked_address", "response_too_large", "result_too_large", "not_repeated"),
        *("attempts_exhausted", "expired", "crashed_worker", "delivery_limit"),
    )
)
"""As PRODUCT.md lists them; not the worker's own list, which is on trial."""

RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Found:
    """A message that was still in a queue when everything was over; `dead` if that was the dead queue."""

    queue: str
    dead: bool
    id: str
    body: str
    kept: str
    reason: str = ""
    attempt: int | None = None


@dataclass(frozen=True)
class Complaint:
    """A channel of the worker that the broker closed, as the broker's log tells."""

    at: float
    text: str


@dataclass(frozen=True)
class Rules:
    """What the worker was set to."""

    attempts: int = 16
    tries: int = 3
    """Of a step, in one attempt, at most."""
    stall: float = 60.0
    """Seconds without any effect, outside of faults and with work to do, that are too long."""
    cut_is_failed: bool = False
    """Whether a request that was cut short counts as a failed attempt: where a time limit of the worker cuts them."""
    may_wait: bool = False
    """Whether jobs may still be queued."""


@dataclass(frozen=True)
class Evidence:
    published: Sequence[Published]
    confirmed: Sequence[Confirmed]
    effects: Sequence[Exchange]
    left: Sequence[Found] = ()
    faults: Sequence[Fault] = ()
    replayed: Sequence[Replayed] = ()
    complaints: Sequence[Complaint] = ()


@dataclass(frozen=True)
class Violation:
    """A promise that was broken: `kind` in a word or two, and the story."""

    kind: str
    id: str
    story: str


@dataclass
class Report:
    verdicts: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    """By the kind of the fault that answers for them."""
    worst: Counter[str] = field(default_factory=Counter)
    """The most that a single fault of the kind answers for."""
    faults: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from each healing to the next effect, by kind of fault."""
    pauses: dict[str, list[float]] = field(default_factory=dict)
    """The longest time without a new effect, from each fault to when it must be over."""
    repeated: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from each fault to the first effect that was repeated because of it."""

    def blame(self, kind: str, id: str, story: str) -> None:
        self.violations.append(Violation(kind, id, story))

    @property
    def kinds(self) -> set[str]:
        return {one.kind for one in self.violations}

    def line(self) -> str:
        """The figures: verdicts, duplicates with their cause, time to recover."""
        ends = [f"{name} {self.verdicts[name]}" for name in ("confirmed", "succeeded", "dead", "recovered")]
        lost = sum(one.kind == "lost" for one in self.violations)
        uncharged = sum(one.kind == "duplicate" for one in self.violations)
        causes = [f"{kind} {count} (at most {self.worst[kind]})" for kind, count in sorted(self.duplicates.items())]
        faults = [f"{kind} x{count}" for kind, count in sorted(self.faults.items())]
        again = [f"{kind} {max(times):.1f} s" for kind, times in sorted(self.repeated.items())]
        pauses = [f"{kind} {max(times):.1f} s" for kind, times in sorted(self.pauses.items())]
        back = [f"{kind} {max(times):.1f} s" for kind, times in sorted(self.recovery.items()) if times]
        return "; ".join(
            [
                ", ".join(ends),
                f"lost {lost}",
                f"duplicates {sum(self.duplicates.values())}{': ' if causes else ''}{', '.join(causes)}",
                f"uncharged {uncharged}",
                f"faults {', '.join(faults) or 'none'}",
                f"first repeated after {', '.join(again) or '-'}",
                f"recovered within {', '.join(back) or '-'}",
                f"longest pause {', '.join(pauses) or '-'}",
            ]
        )


@dataclass
class _Life:
    """One run of a job from its publish, or from a replay, to its end."""

    job: Published
    since: float
    is_last: bool
    effects: dict[str, list[Exchange]] = field(default_factory=lambda: defaultdict(list))

    @property
    def answered(self) -> int:
        """Different requests of it that were answered well."""
        return sum(any(_is_good(one) for one in found) for found in self.effects.values())

    @property
    def is_done(self) -> bool:
        return 0 < self.job.effects <= self.answered


def judge(evidence: Evidence, rules: Rules | None = None) -> Report:
    """The report on a trial that is over: faults healed, workers ended, queues emptied into `evidence.left`."""
    rules, report = rules or Rules(), Report()
    lives = _lives(evidence, report)
    charges = charge(_duplicates(lives, rules), evidence.faults)
    _judge_charges(charges, evidence.faults, report)
    _judge_ends(evidence, lives, rules, report)
    _judge_attempts(lives, charges, rules, report)
    _judge_complaints(evidence, report)
    _judge_liveness(evidence, lives, rules, report)
    return report


def _is_good(effect: Exchange) -> bool:
    return effect.status is not None and 200 <= effect.status < 300


def _lives(evidence: Evidence, report: Report) -> dict[str, list[_Life]]:
    starts: dict[str, list[float]] = {one.id: [0.0] for one in evidence.published}
    for again in evidence.replayed:
        starts[again.id].append(again.at)
    lives = {
        job.id: [_Life(job, since, since == max(starts[job.id])) for since in sorted(starts[job.id])]
        for job in evidence.published
    }
    for effect in sorted(evidence.effects, key=lambda one: one.started):
        job = (effect.key or "").partition("/")[0]
        if job not in lives:
            report.blame("unexpected", job, f"an effect of a job that nobody published: {effect.path}")
            continue
        life = next(one for one in reversed(lives[job]) if one.since <= effect.started)
        life.effects[effect.key or ""].append(effect)
        if life.job.path is not None and effect.path != life.job.path:
            report.blame("altered", job, f"asked for {effect.path}, published was {life.job.path}")
    return lives


def _duplicates(lives: Mapping[str, list[_Life]], rules: Rules) -> list[Duplicate]:
    found: list[Duplicate] = []
    for life in (life for own in lives.values() for life in own):
        for effects in life.effects.values():
            for number, (before, again) in enumerate(pairwise(effects), start=1):
                was_cut = before.status is None and before.ended is not None
                if before.status in RETRIED or (was_cut and rules.cut_is_failed):
                    continue
                earlier = tuple(Earlier(one, _busy_until(life, one, again)) for one in effects[:number])
                found.append(Duplicate(life.job.id, earlier, again))
    return found


def _busy_until(life: _Life, before: Exchange, again: Exchange) -> float | None:
    """When the last effect of the run ended that `before` belongs to; None when one of them never did."""
    of_run = [
        effect
        for effects in life.effects.values()
        for effect in effects
        if before.started <= effect.started < again.started
    ]
    ends = [effect.ended for effect in of_run]
    return None if None in ends else max(end for end in ends if end is not None)


def _judge_charges(charges: Charges, faults: Sequence[Fault], report: Report) -> None:
    report.faults.update(fault.kind for fault in faults)
    by_number = {fault.number: fault for fault in faults}
    for number, held in charges.by_fault.items():
        kind, since = by_number[number].kind, by_number[number].at
        report.duplicates[kind] += len(held)
        report.worst[kind] = max(report.worst[kind], len(held))
        if held:
            report.repeated.setdefault(kind, []).append(min(one.again.started for one in held) - since)
    for one in charges.uncharged:
        report.blame("duplicate", one.job, f"{one.again.key} began again at {one.again.started:.3f}: {one.story}")


def _judge_ends(evidence: Evidence, lives: Mapping[str, list[_Life]], rules: Rules, report: Report) -> None:
    answers = {one.id: one.answer for one in evidence.confirmed}
    left: dict[str, list[Found]] = defaultdict(list)
    for found in evidence.left:
        left[found.id].append(found)
        if found.id not in lives:
            report.blame("unexpected", found.id, f"in {found.queue}, and nobody published it")
    for job, own in lives.items():
        last = own[-1]
        if answers.get(job, "unknown") == "ack":
            report.verdicts["confirmed"] += 1
            _judge_end(last, left[job], evidence.faults, rules, report)
        elif last.effects or left[job]:
            report.verdicts["recovered"] += 1
            if answers.get(job) == "returned":
                report.blame("unexpected", job, "the broker returned it, and yet it is there")
        for found in left[job]:
            _judge_found(found, last.job, report)


def _judge_end(life: _Life, left: Sequence[Found], faults: Sequence[Fault], rules: Rules, report: Report) -> None:
    job, letters = life.job, [found for found in left if found.dead]
    waiting = [found.queue for found in left if not found.dead]
    if waiting and not (life.is_done or letters):
        report.verdicts["queued"] += 1
        if not rules.may_wait:
            report.blame("queued", job.id, f"still in {', '.join(waiting)}")
        return
    if waiting and not _excused(life, faults):
        report.blame("both", job.id, f"ended, and still in {', '.join(waiting)}")
    if len(letters) > 1 and not _excused(life, faults):
        report.blame("phantom", job.id, f"{len(letters)} dead letters of one job")
    if letters and life.is_done and not _excused(life, faults):
        report.blame("both", job.id, "done, and dead-lettered as well")
    if life.is_done and not letters:
        report.verdicts["succeeded"] += 1
        if job.expect not in {SUCCEEDED, ANY}:
            report.blame("wrong end", job.id, f"done, and expected to end as {job.expect}")
    elif letters:
        report.verdicts["dead"] += 1
        if job.expect not in {letters[0].reason, ANY}:
            report.blame("wrong reason", job.id, f"dead-lettered as {letters[0].reason!r}, expected: {job.expect}")
    else:
        heard = f"{life.answered} of {job.effects} effects answered" if life.effects else "no effect"
        report.blame("lost", job.id, f"confirmed, {heard}, and in no queue")


def _excused(life: _Life, faults: Sequence[Fault]) -> bool:
    """Whether a fault may have hit the moment between a copy's confirm and the acknowledgement."""
    known = [effect for effects in life.effects.values() for effect in effects]
    return any(fault.bound and any(effect.started <= (fault.until or fault.at) for effect in known) for fault in faults)


def _judge_found(found: Found, job: Published, report: Report) -> None:
    if found.body != job.body:
        report.blame("altered", job.id, f"its body in {found.queue} is not what was published")
    if found.kept != job.kept and not job.raw:
        report.blame("altered", job.id, f"its properties in {found.queue} are not what was published")
    if not found.dead:
        return
    if found.reason not in REASONS:
        report.blame("no reason", job.id, f"a dead letter with the reason {found.reason!r}")
    if found.attempt is None and found.reason != "delivery_limit":
        report.blame("no attempts", job.id, "a dead letter that does not say how often it was tried")


def _judge_attempts(lives: Mapping[str, list[_Life]], charges: Charges, rules: Rules, report: Report) -> None:
    extra = Counter(one.again.key for held in charges.by_fault.values() for one in held)
    for job, own in lives.items():
        for key, effects in ((key, effects) for life in own for key, effects in life.effects.items()):
            if len(effects) - extra[key] > rules.attempts * rules.tries:
                allowed = f"allowed are {rules.attempts} x {rules.tries}"
                report.blame("no limit", job, f"{len(effects)} tries of {key}, {allowed}")


def _judge_complaints(evidence: Evidence, report: Report) -> None:
    """Each channel the broker closed needs a fault that explains it."""
    room = {fault.number: fault.errors for fault in evidence.faults}
    for complaint in sorted(evidence.complaints, key=lambda one: one.at):
        for fault in evidence.faults:
            if room[fault.number] and fault.at - 0.1 <= complaint.at:
                room[fault.number] -= 1
                break
        else:
            report.blame("channel error", "", complaint.text)


def _judge_liveness(evidence: Evidence, lives: Mapping[str, list[_Life]], rules: Rules, report: Report) -> None:
    begun = sorted(effect.started for effect in evidence.effects)
    last_start = max((one.started for own in lives.values() for one in _last_effects(own)), default=0.0)
    for fault in evidence.faults:
        if fault.until is None or fault.recover is None:
            continue
        report.pauses.setdefault(fault.kind, []).append(_longest_pause(begun, fault.at, fault.until + fault.recover))
        later = any(fault.until < other.at < fault.until + fault.recover for other in evidence.faults)
        index = bisect_left(begun, fault.until)
        if index < len(begun):
            report.recovery.setdefault(fault.kind, []).append(begun[index] - fault.until)
            if begun[index] - fault.until > fault.recover and not later:
                took = begun[index] - fault.until
                report.blame("not alive", "", f"{took:.1f} s after {fault.kind}, allowed are {fault.recover:g} s")
        elif last_start < fault.until and _unfinished(lives):
            report.blame("not alive", "", f"no effect any more after {fault.kind}")
    moments = sorted({*begun, *(effect.ended for effect in evidence.effects if effect.ended is not None)})
    for before, after in pairwise(moments):
        quiet = not any(fault.at < after and (fault.until or fault.at) > before for fault in evidence.faults)
        had_work = any(one.at < before for one in evidence.published if lives[one.id][-1].since <= before)
        if after - before > rules.stall and quiet and had_work:
            report.blame("stalled", "", f"no effect for {after - before:.0f} s, and no fault")


def _longest_pause(begun: Sequence[float], since: float, until: float) -> float:
    moments = [since, *(moment for moment in begun if since < moment <= until)]
    return max((after - before for before, after in pairwise(moments)), default=0.0)


def _last_effects(lives: Iterable[_Life]) -> Iterable[Exchange]:
    return (effects[-1] for life in lives for effects in life.effects.values() if effects)


def _unfinished(lives: Mapping[str, list[_Life]]) -> bool:
    return any(own[-1].job.effects and not own[-1].is_done for own in lives.values())
