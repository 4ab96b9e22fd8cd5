"""The fuzzer: so many messages of a seed to a real worker, and one line that tells how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.hostile.generator import Generator
from tests.hostile.judge import Report, Violation
from tests.hostile.shots import Shot
from tests.hostile.yard import HostileYard
from worker.dev.node import Node
from worker.dev.target import Target

STALLED: Final = 150.0
"""Seconds the worker may take for what is left once everything is published."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ran:
    """A run's report, its line, and the files of the messages over which promises were broken."""

    report: Report
    line: str
    files: Sequence[Path]


def run(
    node: Node,
    target: Target,
    folder: Path,
    *,
    seed: int,
    count: int,
    first: int = 0,
    plant: str = "",
    say: Say = lambda _: None,
    stalled: float = STALLED,
) -> Ran:
    """Send the messages `first` to `first + count` of `seed`, wait for their ends, and judge."""
    with HostileYard(node, folder, target, plant=plant) as yard:
        yard.begin()
        generator = Generator(seed, yard.job_url, yard.queue, yard.spare)
        began = time.monotonic()
        asyncio.run(
            yard.send(
                generator.shots(count, first),
                lambda done: say(f"{done}/{count} sent, {yard.dead()} dead") if done % 500 == 0 else None,
            )
        )
        published = time.monotonic()
        in_time = yard.until_over(stalled)
        over = time.monotonic()
        memory = yard.memory() if in_time else 0
        report = yard.judge()
        if not in_time:
            report.violations.append(Violation("not over", f"{stalled:g} s after the last message"))
    line = (
        f"fuzz: seed {seed}, {report.line()}; {published - began:.1f} s to send, {over - began:.1f} s until over,"
        f" {count / (over - began):.0f}/s; worker {memory >> 20} MiB"
    )
    return Ran(report, line, [_kept(folder, one) for one in report.violations if one.shot is not None])


def _kept(folder: Path, violation: Violation) -> Path:
    """The message in a file: properties and body in hexadecimal."""
    shot = violation.shot
    assert shot is not None
    path = folder / f"fuzz-{shot.name}.hex"
    path.write_text(f"# {violation.kind}: {violation.story}\n{told(shot)}", encoding="utf-8")
    return path


def told(shot: Shot) -> str:
    who = "the worker's user" if shot.trusted else "another user"
    return f"# by {who}; properties, body\n{shot.raw.hex()}\n{shot.body.hex()}\n"
