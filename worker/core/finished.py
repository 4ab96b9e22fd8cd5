"""The finished steps of a job, and how they travel with it in a header of a few kilobytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, repeat
from typing import Any, Final, TypeGuard

MOST_ELEMENTS: Final = 10_000
"""Most elements of one fan-out."""

DIGEST_SIZE: Final = 4
"""Bytes of an element's digest: ten thousand of them fit into the header, and one in 4 billion is taken for another."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished step that travels with its job.

    Without `kept` only the mark is left that it is done; a result that is not `needed` is the first to be dropped so.
    `size` is what the result takes as JSON, in bytes, as far as known.
    """

    value: Any = None
    kept: bool = True
    needed: bool = True
    size: int = 0


@dataclass(frozen=True, slots=True)
class Element:
    """One finished element of a fan-out; `digest` tells whether a later attempt means the same item."""

    digest: bytes
    value: Any = None
    kept: bool = True
    size: int = 0


@dataclass(frozen=True, slots=True)
class Elements:
    """The finished elements of one fan-out, by number.

    `dropped` is what the results that were dropped took as JSON, in bytes.
    """

    done: Mapping[int, Element] = field(default_factory=dict)
    needed: bool = True
    dropped: int = 0


Step = Finished | Elements

NOTHING: Final = Elements()

MOST_TEXT: Final = 1024 * 1024
"""Above so many bytes the results of a fan-out are not written out to find whether equal ones make them short."""

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def digest(content: bytes) -> bytes:
    """What tells one item of a fan-out from another."""
    return hashlib.blake2b(content, digest_size=DIGEST_SIZE).digest()


def encode_steps(steps: Mapping[str, Step]) -> str:
    """Finished steps as the header carries them.

    By name: `[result]`, `[]` or `{"d": bytes}` for a mark whose result was dropped, or the elements of a fan-out.
    """
    return _joined({name: _text(step) for name, step in steps.items()})


def decode_steps(text: str | None) -> dict[str, Step]:
    """The inverse of encode_steps; what is not of its form counts as no step at all."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: step for name, value in found.items() if (step := _step(value)) is not None}


def fit_steps(steps: Mapping[str, Step], *, wanted: int, limit: int) -> str:
    """The steps as text of at most `limit` bytes, and of `wanted` if dropping results that nobody needs can do it.

    Dropped results, the largest first, leave the mark that the step is done. Past that whole steps are forgotten, and
    run again: first what takes most for each thing that is repeated; of a fan-out the elements at its end.
    """
    kept = {name: _within(step, limit) for name, step in steps.items()}
    texts = {name: _text(step) for name, step in kept.items()}
    size = len(_joined(texts))
    for name in sorted(texts, key=lambda name: len(texts[name]), reverse=True):
        if size <= wanted:
            break
        if not kept[name].needed and len(mark := _text(marked := _marked(kept[name]))) < len(texts[name]):
            kept[name] = marked
            size -= _replaced(texts, name, mark)
    for name in sorted(texts, key=lambda name: len(texts[name]) / _count(kept[name]), reverse=True):
        if size <= limit:
            break
        step, room = kept[name], len(texts[name]) - (size - limit)
        size -= _replaced(texts, name, _text(_head(step, room)) if isinstance(step, Elements) else "")
    return _joined(texts)


def _joined(texts: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items() if text) + "}"


def _count(step: Step) -> int:
    """How many things run again when it is forgotten."""
    return max(1, len(step.done)) if isinstance(step, Elements) else 1


def _within(step: Step, limit: int) -> Step:
    """The step without what cannot fit into `limit` bytes anyhow: megabytes are not written to find that out."""
    if isinstance(step, Finished):
        if not step.kept or step.size <= limit:
            return step
        return NOTHING if step.needed else _marked(step)
    if sum(element.size for element in step.done.values() if element.kept) <= MOST_TEXT:
        return step
    return _head(step, limit) if step.needed else _marked(step)


def _replaced(texts: dict[str, str], name: str, text: str) -> int:
    """Put `text` in the place of what is there, nothing at all for ""; how many bytes that saves."""
    saved = len(texts[name]) - len(text)
    if texts[name] and not text:
        saved += len(json.dumps(name)) + len(":,")
    texts[name] = text
    return saved


def _text(step: Step) -> str:
    match step:
        case Elements():
            return _elements_text(step) if step.done else ""
        case Finished(value, kept=True):
            return f"[{_json(value)}]"
        case Finished(size=size):
            return f'{{"d":{size}}}' if size else "[]"


def _marked(step: Step) -> Step:
    """The step without its result."""
    if isinstance(step, Finished):
        return replace(step, value=None, kept=False, size=_size(step)) if step.kept else step
    dropped = step.dropped + sum(_size(element) for element in step.done.values() if element.kept)
    done = {number: Element(element.digest, kept=False) for number, element in step.done.items()}
    return replace(step, done=done, dropped=dropped)


def _size(done: Finished | Element) -> int:
    return done.size or len(_json(done.value))


def _head(elements: Elements, room: int) -> Elements:
    """The first elements, as many as take no more than `room` bytes of text."""
    room -= len(_elements_text(replace(elements, done={})))
    done: dict[int, Element] = {}
    ended_runs, run, last = 0, 0, None
    for number in sorted(elements.done):
        element = elements.done[number]
        value = _value_text(element)
        if value != last and run:
            ended_runs += len(f"[{run}{last}],")
            run = 0
        run, last = run + 1, value
        beside = _base64_size((number + 8) // 8) + _base64_size(DIGEST_SIZE * (len(done) + 1))
        if ended_runs + len(f"[{run}{last}]") + beside > room:
            break
        done[number] = element
    return replace(elements, done=done)


def _elements_text(elements: Elements) -> str:
    """`n`: the numbers as bits, `h`: their digests in that order, `v`: runs of equal results as [how many, result]."""
    in_order = [elements.done[number] for number in sorted(elements.done)]
    digests = b"".join(element.digest for element in in_order)
    values = ",".join(f"[{len(list(run))}{value}]" for value, run in groupby(map(_value_text, in_order)))
    numbers = _base64(_bits(elements.done))
    return f'{{"n":"{numbers}","h":"{_base64(digests)}","v":[{values}],"d":{elements.dropped}}}'


def _value_text(element: Element) -> str:
    return f",{_json(element.value)}" if element.kept else ""


def _bits(numbers: Iterable[int]) -> bytes:
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _step(value: Any) -> Step | None:
    match value:
        case []:
            return Finished(kept=False)
        case [result]:
            return Finished(result)
        case {"n": str(), "h": str(), "v": list(), "d": dropped} if _is_count(dropped):
            return _elements(value)
        case {"d": size} if len(value) == 1 and _is_count(size):
            return Finished(kept=False, size=size)
        case _:
            return None


def _elements(value: Mapping[str, Any]) -> Elements | None:
    try:
        bits = int.from_bytes(base64.b64decode(value["n"], validate=True), "little")
        digests = base64.b64decode(value["h"], validate=True)
    except (binascii.Error, ValueError):
        return None
    if bits >> MOST_ELEMENTS:
        return None
    numbers = [number for number in range(bits.bit_length()) if bits >> number & 1]
    results = list(islice(_results(value["v"]), len(numbers) + 1))
    if not len(numbers) == len(results) == len(digests) // DIGEST_SIZE:
        return None
    done = {
        number: replace(result, digest=digests[place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE])
        for place, (number, result) in enumerate(zip(numbers, results, strict=True))
    }
    return Elements(done, dropped=value["d"])


def _results(runs: list[Any]) -> Iterator[Element]:
    """The elements of all runs, still without digests, as many as are asked for."""
    for run in runs:
        match run:
            case [count] if _is_count(count):
                yield from repeat(Element(b"", kept=False), count)
            case [count, result] if _is_count(count):
                yield from repeat(Element(b"", result), count)
            case _:
                return


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _json(value: Any) -> str:
    return _ENCODER.encode(value)


def _base64_size(content: int) -> int:
    return -(-content // 3) * 4


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
