"""What nasty templates cost at most: reading them, and filling them until the budget is spent or they are done.

    python tests/benchmarks/templates.py [--rounds 5]

One line per case: milliseconds of CPU (the best of the rounds) and, for filling, the visits and bytes of the budget
that are taken by the largest result it still allows; for sending, the longest that the loop stood still while 200
requests were filled and encoded at once. The budget (worker/http/budget.py) and what a job may hold
(worker/http/placeholder.py) are chosen by these figures: none may hold up the loop for 50 ms, on a machine three times
slower than this one.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import TypeAdapter

from worker.http.jobs.filling import Filling
from worker.http.jobs.payload import HttpJob
from worker.http.jobs.plan import PlannedStep
from worker.http.templates.budget import MAX_TEXT, MAX_VISITS, Budget
from worker.http.templates.placeholder import MAX_CHARACTERS, MAX_PLACEHOLDERS
from worker.http.templates.template import Template, TemplateFault, parse_template

Make = Callable[[int], Any]


def rows(count: int) -> Any:
    return [{"id": n, "name": f"row {n}", "open": n % 2 == 0, "tags": ["a", "b"]} for n in range(count)]


def numbers(count: int) -> Any:
    return list(range(count))


def floats(count: int) -> Any:
    return [n / 7 for n in range(count)]


def pairs(count: int) -> Any:
    return [[n, n] for n in range(count)]


def empties(count: int) -> Any:
    return [[] for _ in range(count)]


def nested(count: int) -> Any:
    return [[[[n] * 4] * 4] * 4 for n in range(count)]


def names(count: int) -> Any:
    return {f"name {n}": n for n in range(count)}


def texts(count: int) -> Any:
    return ["x" * 1000 for _ in range(count)]


def twins(count: int) -> Any:
    return [{"a": [*range(100)], "b": [*range(100)]} for _ in range(count)]


def twin_pairs(count: int) -> Any:
    return [{"a": [n], "b": [n]} for n in range(count)]


def twin_objects(count: int) -> Any:
    return [{"a": {"x": {"y": n}}, "b": {"x": {"y": n}}} for n in range(count)]


def twin_texts(count: int) -> Any:
    return {"a": "x" * count, "b": "x" * (count - 1) + "x"}


def plain(count: int) -> Any:
    return "x" * count


def controls(count: int) -> Any:
    return "\x01" * count


def foreign(count: int) -> Any:
    return "é" * count


FILLED: dict[str, tuple[Any, Make]] = {
    "a filter as people write it": ("{{ a[?open && id > `500`].name }}", rows),
    "a filter, long condition": ("{{ a[?" + " || ".join(["name == 'no'"] * 14) + "] }}", rows),
    "a filter, deep condition": ("{{ a[?" + "!" * 30 + "@] }}", numbers),
    "a filter, one field": ("{{ a[?b] }}", numbers),
    "a filter, numbers ordered": ("{{ a[?id<`0`] }}", rows),
    "a filter, texts ordered": ("{{ a[?name<'row 5'].name }}", rows),
    "a filter inside": ("{{ a[?tags[?@ == 'c']] }}", rows),
    "projections inside": ("{{ a[*][*] }}", pairs),
    "empty projections inside": ("{{ a[*][*] }}", empties),
    "empty projections inside, chained": ("{{ a" + "[*]" * 30 + " }}", empties),
    "empty flattens inside": ("{{ a[?[][][][][][][][][][][][]] }}", empties),
    "empty slices inside": ("{{ a[?" + "[:]|" * 34 + "@] }}", empties),
    "a projection": ("{{ a[*].b }}", numbers),
    "projections, piped": ("{{ a" + "|[*]" * 35 + " }}", numbers),
    "flatten": ("{{ a[] }}", pairs),
    "flatten, chained": ("{{ a" + "[]" * 19 + " }}", nested),
    "slices, piped": ("{{ a | " + " | ".join(["[:]"] * 34) + " }}", numbers),
    "slices, reversed": ("{{ a | " + " | ".join(["[::-1]"] * 27) + " }}", numbers),
    "a hash projection": ("{{ a.* }}", names),
    "hash projections of rows": ("{{ a[*].* }}", rows),
    "lengths": ("{{ a[*].name.length(@) }}", rows),
    "equal lists": ("{{ length(a[?a == b]) }}", twins),
    "equal short lists": ("{{ length(a[?a == b]) }}", twin_pairs),
    "equal objects": ("{{ length(a[?a == b]) }}", twin_objects),
    "equal literals": ("{{ length(a[?a == `[1, 2, 3]`]) }}", twin_pairs),
    "equal texts": ("{{ " + "||".join(["a.a!=a.b"] * 15) + " }}", twin_texts),
    "ordered texts": ("{{ " + "||".join(["a.a<a.b"] * 15) + " }}", twin_texts),
    "indexes inside": ("{{ length(a[?" + "||".join(["[9]"] * 36) + "]) }}", empties),
    "whole numbers": ("{{ a }}", numbers),
    "whole floats": ("{{ a }}", floats),
    "whole texts": ("{{ a }}", texts),
    "whole names": ("{{ a }}", names),
    "whole rows": ("{{ a }}", rows),
    "whole twins": ("{{ a }}", twin_objects),
    "whole controls": ("{{ a }}", controls),
    "whole foreign text": ("{{ a }}", foreign),
    "numbers as text": ("of {{ a }}", numbers),
    "floats as text": ("of {{ a }}", floats),
    "rows as text": ("of {{ a }}", rows),
    "texts as text": ("of {{ a }}", texts),
    "long text, four times": (["of {{ a }}"] * 4, plain),
    "controls as text": ("of {{ a }}", controls),
    "foreign text": ("of {{ a }}", foreign),
    "a thousand lists": (["{{ a[:100] }}"] * 1000, numbers),
    "a thousand small filters": (["{{ a[?@ > `5`] }}"] * 1000, numbers),
    "a thousand times the same": (["{{ a }}"] * 1000, numbers),
    "a thousand texts": (["of {{ a }}"] * 1000, plain),
    "a thousand deep ones": ([{"a": "{{ a" + ".a" * 120 + " }}"}] * 1000, numbers),
    "many names beside one": ([dict.fromkeys(map(str, range(10_000)), 1) | {"a": "{{ a }}"}] * 10, numbers),
}

READ: dict[str, Any] = {
    "the same 1,000 times": ["{{ short.a }}"] * MAX_PLACEHOLDERS,
    "long expressions": ["{{ " + f"a{n}" + ".*" * 78 + " }}" for n in range(100)],
    "nested expressions": ["{{ " + f"a{n}[?" + "!" * 30 + "a" * 30 + "] }}" for n in range(1000)],
    "nested too deep": "{{ " + "!" * 255 + "a }}",
    "comparisons": ["{{ " + f"a{n}" + "&&a==a" * 20 + " }}" for n in range(1000)],
    "literals": ["{{ " + f"a{n}" + "||`1`" * 40 + " }}" for n in range(1000)],
    "indexes": ["{{ " + f"a{n}" + "[0]" * 60 + " }}" for n in range(1000)],
    "spaces": ["{{" + " " * 480 + "a }}"] * 1000,
    "100,000 strings": ["{ {"] * 100_000,
    "100,000 names": {f"{{{n}": "}}" for n in range(100_000)},
    "1 MiB of braces": "{{" * 500_000,
    "1 MiB of quotes": "{{'\\'" + "\\'" * 500_000,
    "1 MiB of single braces": "{ " * 500_000,
}


ELEMENTS = 200
SENT: dict[str, tuple[Any, Any]] = {
    "a filter": ("{{ a[?@ == `1`] }}", [0] * 28_000),
    "whole floats": ("{{ a }}", [n / 7 for n in range(50_000)]),
    "the same floats, forty times": (["{{ a }}"] * 40, [n / 7 for n in range(1000)]),
    "literal floats": ([n / 7 for n in range(45_000)], None),
    "literal floats, beside a placeholder": ([*[n / 7 for n in range(45_000)], "{{ a }}"], 1),
    "whole rows": ("{{ a }}", rows(5000)),
    "long text": ("of {{ a }}", plain(1_000_000)),
}


def measured(rounds: int, work: Callable[[], Any]) -> tuple[float, str]:
    """Milliseconds, and how it ended."""
    best, end = float("inf"), "done"
    for _ in range(rounds):
        start = time.process_time()
        try:
            work()
        except TemplateFault as fault:
            end = str(fault)
        best = min(best, time.process_time() - start)
    return best * 1000, end


def largest(template: Template, make: Make) -> int:
    """The size of the largest result that the template can be filled from: the dearest, for refusals come early."""
    low, high = 0, 5_000_000
    while high - low > max(1, low // 50):
        # A small one first: large ones take long to make, and are mostly refused.
        middle = min((low + high) // 2, max(16, low * 2))
        try:
            template.fill({"a": make(middle)}, Budget())
            low = middle
        except TemplateFault:
            high = middle
    return low


def filled(rounds: int) -> Iterator[float]:
    print(f"filling (budget: {MAX_VISITS} visits, {MAX_TEXT} bytes)")
    for name, (value, make) in FILLED.items():
        template = parse_template(value)
        size = largest(template, make)
        results = {"a": make(size)}
        budget = Budget()
        template.fill(results, budget)
        took, _ = measured(rounds, lambda: template.fill(results, Budget()))  # noqa: B023
        spent = f"{MAX_VISITS - budget.visits:7} visits {MAX_TEXT - budget.text:8} bytes"
        print(f"  {took:6.2f} ms  {spent}  {name}, {size}", flush=True)
        yield took


def read(rounds: int) -> Iterator[float]:
    print(f"reading ({MAX_PLACEHOLDERS} placeholders, {MAX_CHARACTERS} characters)")
    for name, value in READ.items():
        took, end = measured(rounds, lambda: parse_template(value))  # noqa: B023
        print(f"  {took:6.2f} ms  {name}: {end[:90]}")
        yield took


def sent(rounds: int) -> Iterator[float]:
    print(f"sending ({ELEMENTS} elements at once)")
    for name, (body, value) in SENT.items():
        payload = {"url": "https://a.example/", "method": "POST", "json": body, "for_each": [0]}
        steps = [{"id": "a", "url": "https://a.example/", "save": "json"}, {"id": "b", "needs": ["a"], **payload}]
        planned = TypeAdapter(HttpJob).validate_python({"steps": steps}).plan.steps[1]
        took = min(asyncio.run(standstill(planned, {"a": value})) for _ in range(rounds))
        print(f"  {took:6.2f} ms  {name}", flush=True)
        yield took


async def standstill(planned: PlannedStep, results: dict[str, Any]) -> float:
    """The longest turn of the loop, in milliseconds of CPU."""
    turns = [0.0]

    async def watch() -> None:
        while True:
            since = time.process_time()
            await asyncio.sleep(0)
            turns.append(time.process_time() - since)

    async def fill() -> None:
        await filling.ready(planned, results)

    filling = Filling(1 << 20)
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await asyncio.gather(*(fill() for _ in range(ELEMENTS)))
    watching.cancel()
    return max(turns) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    worst_filled = max(filled(rounds))
    worst_read = max(read(rounds))
    worst_sent = max(sent(rounds))
    print(f"worst: filling {worst_filled:.1f} ms, reading {worst_read:.1f} ms, sending {worst_sent:.1f} ms")


if __name__ == "__main__":
    main()
