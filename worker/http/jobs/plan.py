"""The steps of a job as a plan: what each needs and reads, judged as a whole before anything is run."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.http.jobs.fields import ENOUGH_FAULTS, ITEM, Faults, nearest
from worker.http.jobs.request import AS_IT_IS, Draft, Note, Part, draft_of
from worker.http.jobs.step import Call, Callback, Step
from worker.http.templates.expression import Expression, parse_path
from worker.http.templates.template import Allowance, TemplateFault, parse_template

RESULT_FIELDS: Final = ("status", "headers", "json", "text")
"""What a result is made of; `save` starts at one of them."""

Place = tuple[str | int, ...]
"""Of a step in the payload."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step, its templates read. `sources` are the steps they read."""

    step: Step
    draft: Draft
    for_each: Part | None
    save: Expression | None

    @property
    def id(self) -> str:
        return self.step.id

    @property
    def parts(self) -> Mapping[str, Part]:
        """All fields that may hold placeholders."""
        return self.draft.parts if self.for_each is None else {**self.draft.parts, "for_each": self.for_each}

    @property
    def reading(self) -> Mapping[str, frozenset[str]]:
        """What each field reads: steps, and the item."""
        return {field: part.names for field, part in self.parts.items()}

    @property
    def sources(self) -> frozenset[str]:
        return frozenset[str]().union(*self.reading.values()) - {ITEM}


@dataclass(frozen=True, slots=True)
class PlannedCallback:
    """The callback, its templates read."""

    call: Callback
    draft: Draft

    @property
    def sources(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.names for part in self.draft.parts.values()))


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a job. `several`: its steps are a list, and faults name the one they are about."""

    steps: tuple[PlannedStep, ...]
    callback: PlannedCallback | None
    several: bool

    @property
    def requests(self) -> Iterator[tuple[str, Call, Draft]]:
        """Everything that is to be sent, by what faults call it: the steps, and the callback."""
        for planned in self.steps:
            yield (f"step {planned.id!r}: " if self.several else ""), planned.step, planned.draft
        if self.callback is not None:
            yield "callback: ", self.callback.call, self.callback.draft

    def readers(self) -> dict[str, set[str]]:
        """By step the steps that read it.

        A reader named "" never ends: the callback, and a fan-out. Only by its items a fan-out can tell in a later
        attempt what it has done, and of its elements those may be forgotten that find no room, and run again.
        """
        readers: dict[str, set[str]] = {planned.id: set() for planned in self.steps}
        for planned in self.steps:
            for source in planned.sources:
                readers[source].add(planned.id if planned.for_each is None else "")
        for source in self.callback.sources if self.callback else ():
            readers[source].add("")
        return readers


def plan_of(
    steps: Sequence[Step], callback: Callback | None, limit_key: str | None, *, templates: bool, several: bool
) -> Plan:
    """The plan; a ValidationError with every fault that keeps it from being run."""
    faults, allowance = Faults(), Allowance() if templates else None
    if templates and limit_key is not None and "{{" in limit_key:
        text = f"a limit_key cannot hold a placeholder, since it is needed before anything is there ({AS_IT_IS})"
        faults.note(("limit_key",), text, limit_key)
    places: list[Place] = [("steps", number) if several else () for number in range(len(steps))]
    drawn = [_planned(step, allowance, _noting(faults, place)) for step, place in zip(steps, places, strict=True)]
    called = None if callback is None else _callback(callback, allowance, _noting(faults, ("callback",)))
    _check_ids(steps, places, faults)
    _check_needs(steps, places, faults)
    faults.raise_any()
    plan = Plan(tuple(one for one in drawn if one is not None), called, several)
    _check_reading(plan, places, faults)
    faults.raise_any()
    return plan


def _noting(faults: Faults, place: Place) -> Note:
    def note(name: str, text: str, value: Any) -> None:
        faults.note((*place, name), text, value)

    return note


def _planned(step: Step, allowance: Allowance | None, note: Note) -> PlannedStep | None:
    for_each = None if step.for_each is None else _for_each(step.for_each, allowance, note)
    save = None if step.save is None else _save(step.save, note)
    draft = draft_of(step, step.body, allowance, note)
    return None if draft is None else PlannedStep(step, draft, for_each, save)


def _callback(callback: Callback, allowance: Allowance | None, note: Note) -> PlannedCallback | None:
    draft = draft_of(callback, None, allowance, note)
    return None if draft is None else PlannedCallback(callback, draft)


def _for_each(value: Any, allowance: Allowance | None, note: Note) -> Part | None:
    if allowance is None:
        if isinstance(value, str):
            note("for_each", 'a list is needed, since the job has "templates": false', value)
        return Part(value)
    try:
        template = parse_template(value, allowance)
    except TemplateFault as found:
        note("for_each", str(found), value)
        return None
    if isinstance(value, str) and template.expression is None:
        note("for_each", "a list is needed, or one placeholder that gives a list", value)
    return Part(value, None if template.is_plain else template)


def _save(text: str, note: Note) -> Expression | None:
    if "{{" in text:
        note("save", "a JMESPath into the result is needed, without braces", text)
        return None
    try:
        path = parse_path(text)
    except TemplateFault as found:
        note("save", str(found), text)
        return None
    for name in sorted(path.names.difference(RESULT_FIELDS))[:1]:
        known = f"a result has {', '.join(RESULT_FIELDS)}, and no {_shown(name)}"
        note("save", known + nearest(name, RESULT_FIELDS), text)
    return path


def _check_ids(steps: Sequence[Step], places: Sequence[Place], faults: Faults) -> None:
    seen: set[str] = set()
    for step, place in zip(steps, places, strict=True):
        if step.id in seen:
            faults.note((*place, "id"), f"the id {_shown(step.id)} is there twice: give every step its own", step.id)
        seen.add(step.id)


def _check_needs(steps: Sequence[Step], places: Sequence[Place], faults: Faults) -> None:
    ids = [step.id for step in steps]
    for step, place in zip(steps, places, strict=True):
        for number, need in enumerate(step.needs):
            if faults.are_enough:
                return
            if text := _need_fault(step, number, need, ids):
                faults.note((*place, "needs", number), text, need)
    if not any(step.needs for step in steps):
        return
    try:
        graphlib.TopologicalSorter({step.id: set(step.needs) - {step.id} for step in steps}).prepare()
    except graphlib.CycleError as ring:
        # Each before the one that needs it: told the other way round, as the needs are written.
        names = " -> ".join(reversed(ring.args[1]))
        faults.note(("steps",), f"these steps need each other in a ring: {names}", [])


def _need_fault(step: Step, number: int, need: str, ids: Sequence[str]) -> str | None:
    if need == step.id:
        return "a step cannot need itself"
    if need not in ids:
        return f"no step has the id {_shown(need)}{nearest(need, ids)}"
    if need in step.needs[:number]:
        return f"the id {_shown(need)} is there twice"
    return None


def _check_reading(plan: Plan, places: Sequence[Place], faults: Faults) -> None:
    behind: dict[str, frozenset[str]] | None = None
    for planned, place in zip(plan.steps, places, strict=True):
        for name, part in planned.parts.items():
            if not part.names:
                continue
            behind = behind or _ancestors([one.step for one in plan.steps])
            for one in sorted(part.names - behind[planned.id]):
                if faults.are_enough:
                    return
                if text := _reading_fault(one, name, planned, behind):
                    faults.note((*place, name), text, _value_of(planned.step, name))
            _check_fields(part, plan, (*place, name), planned.step, faults)
    if plan.callback is not None:
        _check_callback(plan, plan.callback, faults)


def _check_callback(plan: Plan, callback: PlannedCallback, faults: Faults) -> None:
    ids = [planned.id for planned in plan.steps]
    for name, part in callback.draft.parts.items():
        for one in sorted(part.names.difference(ids))[:ENOUGH_FAULTS]:
            faults.note(("callback", name), _no_such_step(one, ids), _value_of(callback.call, name))
        _check_fields(part, plan, ("callback", name), callback.call, faults)


def _check_fields(part: Part, plan: Plan, place: Place, call: Call, faults: Faults) -> None:
    """Of a step that keeps its whole result it is known what that is made of."""
    if not part.pairs:
        return
    whole = {planned.id for planned in plan.steps if planned.save is None and planned.for_each is None}
    for name, field in sorted(part.pairs):
        if name in whole and field not in RESULT_FIELDS and not faults.are_enough:
            text = f"it reads {_shown(f'{name}.{field}')}, and a result has {', '.join(RESULT_FIELDS)}"
            faults.note(place, text + nearest(field, RESULT_FIELDS), _value_of(call, str(place[-1])))


def _ancestors(steps: Sequence[Step]) -> dict[str, frozenset[str]]:
    """By step everything it needs, directly or through others."""
    needs = {step.id: step.needs for step in steps}
    found: dict[str, frozenset[str]] = {}
    for name in graphlib.TopologicalSorter(needs).static_order():
        found[name] = frozenset(needs[name]).union(*(found[need] for need in needs[name]))
    return found


def _reading_fault(name: str, where: str, planned: PlannedStep, behind: Mapping[str, frozenset[str]]) -> str | None:
    if name == ITEM:
        if where == "for_each":
            return "it reads 'item', which is what its own elements are called"
        return None if planned.for_each is not None else "it reads 'item', which is there only beside a for_each"
    if name == planned.id:
        return "it reads the result of its own step, which is not there yet"
    if name not in behind:
        return _no_such_step(name, behind)
    if planned.id in behind[name]:
        return f"it reads {_shown(name)}, a step that needs this one"
    return f'it reads {_shown(name)}, which is not among the steps it needs: add "{name}" to needs'


def _no_such_step(name: str, ids: Iterable[str]) -> str:
    known = tuple(ids)
    told = (
        f"; there {'is' if len(known) == 1 else 'are'} {', '.join(map(_shown, known[:5]))}{', ...' * bool(known[5:])}"
    )
    return f"it reads {_shown(name)}, and no step has this id{nearest(name, known) or f'{told} ({AS_IT_IS})'}"


def _value_of(call: Call, field: str) -> Any:
    return getattr(call, "json_" if field == "json" else field)


def _shown(name: str) -> str:
    """A name out of the payload, short and without anything that could break a line of a log."""
    return ascii(name[:60])
