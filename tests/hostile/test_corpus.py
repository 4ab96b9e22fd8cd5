"""The AMQP corpus at a real worker: each message ends as foreseen, and nobody is harmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.hostile.corpus import corpus
from tests.hostile.yard import HostileYard
from worker.dev.node import Node
from worker.dev.target import Target


def test_the_corpus_is_as_large_as_it_says() -> None:
    shots = corpus("http://127.0.0.1/ok?n=", "jobs", "jobs.spare")
    assert len(shots) >= 600
    assert len({shot.name for shot in shots}) == len(shots)
    assert len({(shot.body, shot.raw) for shot in shots}) >= len(shots) - 5


def test_each_ends_as_foreseen(node: Node, target: Target, tmp_path: Path, note: Callable[[str], None]) -> None:
    with HostileYard(node, tmp_path, target) as yard:
        yard.begin()
        asyncio.run(yard.send(corpus(yard.job_url, yard.queue, yard.spare)))
        over = yard.until_over(60)
        report = yard.judge()
    note(f"corpus: {report.line()}")
    told = [f"{one.kind}: {one.story} ({one.shot.name if one.shot else 'no message'})" for one in report.violations]
    assert told == []
    assert over
