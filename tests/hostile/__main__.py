"""The fuzzer for as long as one likes: python -m tests.hostile --count 200000 [--seed N].

It works in rounds, each with a worker and queues of its own, and ends with the first round in which a promise was
broken. `--only NUMBER` sends one message alone; the messages of a failure are also kept as files.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.hostile.run import Ran, run
from worker.dev.node import Node, ensure_rabbitmq
from worker.dev.target import Target

ROUND: Final = 20_000
SHOWN: Final = 20


def fuzz(seed: int, first: int, count: int, folder: Path) -> int:
    """Run it; 0 when no promise was broken."""
    began, sent = time.monotonic(), 0
    with Node(ensure_rabbitmq()) as node:
        for number in range(first, first + count, ROUND):
            size = min(ROUND, first + count - number)
            with Target() as target:
                ran = run(node, target, folder, seed=seed, count=size, first=number, say=_progress)
            sent += size
            _say(ran.line)
            if ran.report.violations:
                return _failed(ran, seed)
    _say(f"fuzz: {sent} messages of seed {seed} in {time.monotonic() - began:.0f} s, no promise broken")
    return 0


def _failed(ran: Ran, seed: int) -> int:
    for one in ran.report.violations[:SHOWN]:
        _say(f"VIOLATION {one.kind}: {one.story}")
        if one.shot is not None:
            _say(f"  again: python -m tests.hostile --seed {seed} --only {one.shot.number}")
    for path in dict.fromkeys(ran.files[:SHOWN]):
        _say(f"  kept: {path}")
    return 1


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def _say(line: str) -> None:
    _progress("")
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("--count", type=int, default=ROUND, help="messages to send")
    parser.add_argument("--seed", type=int, default=None, help="drawn and printed when none is given")
    parser.add_argument("--first", type=int, default=0, help="the number of the first message")
    parser.add_argument("--only", type=int, default=None, help="send the message of this number, and no other")
    parser.add_argument("--folder", type=Path, default=None, help="where the worker's log and bad messages are kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    folder = options.folder or Path(tempfile.mkdtemp(prefix="worker-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("WORKER_AMQP_URL", None)
    if options.only is not None:
        return fuzz(seed, options.only, 1, folder)
    return fuzz(seed, options.first, options.count, folder)


if __name__ == "__main__":
    sys.exit(main())
