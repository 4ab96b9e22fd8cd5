"""Run seeds: `python -m tests.simulation 0..5000`; `-v 17` tells one. Failing seeds are printed with their traces."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Final

from tests.simulation.simulation import simulate

SHOWN: Final = 3
"""Traces printed in full; of further failing seeds the broken rules are enough."""


def main(arguments: list[str]) -> int:
    told = "-v" in arguments
    seeds = [seed for text in arguments if text != "-v" for seed in _seeds(text)] or list(range(1000))
    began, failing = time.process_time(), []
    faults: Counter[str] = Counter()
    jobs: Counter[bool] = Counter()
    duplicates: Counter[bool] = Counter()
    losses = 0
    for seed in seeds:
        outcome = simulate(seed)
        jobs[outcome.stayed] += outcome.jobs
        duplicates[outcome.stayed] += outcome.duplicates
        losses += outcome.stayed * outcome.faults.count("loss")
        faults.update(outcome.faults)
        if outcome.broken:
            failing.append(seed)
        if told or (outcome.broken and len(failing) <= SHOWN):
            _say(outcome.told())
        elif outcome.broken:
            _say("\n".join(outcome.verdict()))
    seconds = time.process_time() - began
    rate = f"{seconds:.1f} s of one core, {len(seeds) / seconds:.0f} seeds/s"
    _say(f"{len(seeds)} seeds, {jobs.total()} jobs, {faults.total()} faults: {rate}")
    _say(", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())) or "no faults")
    _say(f"one process that stayed: {jobs[True]} jobs, {losses} sessions lost, {duplicates[True]} repetitions")
    _say(f"otherwise: {jobs[False]} jobs, {duplicates[False]} repetitions, each charged to a fault")
    _say(f"failing: {' '.join(map(str, failing)) or 'none'}")
    return int(bool(failing))


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
