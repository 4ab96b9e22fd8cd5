"""The figures as text."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.isolation.capacity import Capacity
from tests.benchmarks.isolation.outage import Outage
from tests.benchmarks.isolation.trial import Outcome

KEEPS: Final = 0.9
SLOWER: Final = 1.5
"""The goal: A keeps this share of its rate, and its p99 is at most so many times what it is without B."""

LATE: Final = 0.05
"""A publisher that is later than this many seconds makes latencies of its own."""

TITLES: Final = (
    *("system", "B", "A's rate", "alone", "A p50 ms", "alone", "A p99 ms", "alone", "ratio", "never"),
    *("parks/s", "B calls/s", "CPU", "broker", "alone", "dead", "goal"),
)
WIDTHS: Final = (11, 11, 8, 6, 9, 6, 9, 6, 6, 6, 8, 10, 5, 7, 6, 5, 5)


def machine() -> str:
    """What this ran on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(": ")[2] if models else platform.processor()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, load before {load}"


def heading() -> str:
    return _row(TITLES)


def isolation(system: str, mode: str, pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    """A row of the medians of (alone, with B), and what else happened in the last of them."""

    def both(read: Callable[[Outcome], float]) -> tuple[float, float]:
        return (statistics.median(read(alone) for alone, _ in pairs), statistics.median(read(one) for _, one in pairs))

    rate_alone, rate = both(lambda one: one.rate)
    p50_alone, p50 = both(lambda one: one.percentile(0.5))
    p99_alone, p99 = both(lambda one: one.percentile(0.99))
    cpu = both(lambda one: one.used.consumer / one.seconds)
    broker = both(lambda one: one.used.broker / one.seconds)
    last = pairs[-1][1]
    dead = sum(one.dead for _, one in pairs)
    kept = rate >= KEEPS * rate_alone and p99 <= SLOWER * p99_alone and not dead
    cells = [
        *(system, mode, f"{rate:.0%}", f"{rate_alone:.0%}", _ms(p50), _ms(p50_alone), _ms(p99), _ms(p99_alone)),
        "-" if math.isinf(p99) else f"{p99 / p99_alone:.1f}",
        str(statistics.median(one.unended for _, one in pairs)).removesuffix(".0"),
        f"{both(lambda one: one.parked.total() / one.seconds)[1]:.0f}",
        f"{both(lambda one: one.b_calls / one.seconds)[1]:.0f}",
        *(f"{cpu[1]:.2f}", f"{broker[1]:.2f}", f"{cpu[0] + broker[0]:.2f}"),
        *(str(dead), _verdict(rate_alone, kept=kept)),
    ]
    seconds = f"    A's median by second: {' '.join(map(_ms, last.by_second))}"
    return [_row(cells), seconds, *_details(last.parked, last.events), *_held(last), *_lateness(pairs)]


def _verdict(rate_alone: float, *, kept: bool) -> str:
    if rate_alone < KEEPS:
        return "?"  # A did not get along even without B: this says nothing about B
    return "yes" if kept else "no"


def capacity(found: Mapping[str, Capacity]) -> list[str]:
    names = {"park": "parked", "end": "acknowledged"}
    lines = [
        f"  {names[kind]:<14}{one.rate:>7.0f} jobs/s {one.worker:>6.2f} CPU worker {one.broker:>6.2f} CPU broker"
        f" {one.per_core:>7.0f} for a core of the worker, {one.rate / (one.worker + one.broker):.0f} of both"
        for kind, one in found.items()
    ]
    return [*lines, f"  a park is {found['end'].rate / found['park'].rate:.1f} acknowledgements"]


def outage(mode: str, one: Outage) -> list[str]:
    drained = "not in time" if one.drained is None else f"{one.drained:.0f} s"
    retries = f"retries {one.retries:.2f} by calls, {one.repeated_attempts:.2f} by attempts"
    ends = f"{one.jobs} jobs, {one.done} done, {one.dead} dead"
    return [
        f"  {mode}, down {one.seconds:.0f} s: {ends}; {retries}; drained after {drained}",
        f"    calls {_counts(one.calls)}; attempts {_counts(one.attempts)}",
        *_details(one.parked, one.events),
    ]


def _details(parked: Counter[str], events: Sequence[str]) -> list[str]:
    lines = [f"    parked: {_counts(parked)}"] if parked else []
    return [*lines, f"    log: {', '.join(events)}"] if events else lines


def _held(last: Outcome) -> list[str]:
    means = " ".join(f"{state}={number:.0f}" for state, number in last.held.items())
    return [f"    held: {means}, at most {last.most_held}"] if means else []


def _lateness(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    latest = max(one.late for pair in pairs for one in pair)
    late = f"    the publisher was up to {latest * 1000:.0f} ms late: this machine is too busy for exact figures"
    return [late] if latest > LATE else []


def _counts(counted: Counter[str]) -> str:
    return " ".join(f"{name}={number}" for name, number in counted.most_common() if number)


def _ms(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds * 1000:.0f}"


def _row(cells: Sequence[str]) -> str:
    first, second, *rest = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    return f"{first.strip():<11} {second.strip():<11} {' '.join(rest)}"
