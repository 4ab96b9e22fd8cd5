"""Does a bad host hurt a good one? A worker with jobs for A and ten times as many for B, when B turns bad.

    python -m tests.benchmarks.isolation [--seconds 20] [--rounds 1] [--rate 10] [--factor 10] [--peers [only]]
        [--modes ok,hang,...] [--worker CHECKOUT] [--rabbitmq-4] [--capacity 3] [--outage 60]

Each run has a queue, a target and a worker of its own on one private RabbitMQ; the jobs come on an exact schedule,
however the worker does. B is healthy at first and turns bad after three seconds, where the measured time begins. Each
run with B comes right after one with A alone. A's rate is what ended in that time for what was due in it; latencies are
from when a job was due until A answered. CPU is in cores: the worker, the broker, and both of them without B. `held`
are the worker's deliveries on average, by what they do, and the most there were: at its prefetch nobody else gets in.
The load is to be chosen below what can be parked here (--capacity).

--peers      the same with FastStream and Celery, from virtual environments that pip makes below .tools/peers;
             `--peers only` leaves our own worker out
--worker     a checkout whose worker is measured instead of this one's
--capacity   how many jobs a second can be parked, beside how many can be acknowledged
--outage     B alone, down for so many seconds: refusing, then hanging
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from tests.benchmarks.isolation import capacity, namespace, outage, table
from tests.benchmarks.isolation.systems import CHECKOUT, PEERS, System, celery, faststream, worker
from tests.benchmarks.isolation.target import MODES
from tests.benchmarks.isolation.trial import Trial
from worker.dev.chroot import find_rabbitmq_4, without_rabbitmq_4
from worker.dev.node import Installation, Node, ensure_rabbitmq

PACKAGES: Final = {"faststream": ("faststream[rabbit]", "httpx"), "celery": ("celery", "gevent", "requests")}
OUTAGES: Final = ("refuse", "hang")


def prepare_peers() -> None:
    """Virtual environments for the peers, unless they are there."""
    for name, packages in PACKAGES.items():
        ready, folder = PEERS / name / ".ready", PEERS / name
        if ready.exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *packages], check=True)
        ready.touch()


def isolation(trial: Trial, system: System, modes: Iterable[str], rounds: int) -> None:
    for mode in modes:
        names = mode == "dns"
        pairs = [(trial.run(system, None, names=names), trial.run(system, mode, names=names)) for _ in range(rounds)]
        _say(table.isolation(system.name, mode, pairs))


def measure(options: argparse.Namespace, trial: Trial) -> None:
    ours = worker(options.worker)
    systems = [*([] if options.peers == "only" else [ours]), *([faststream(), celery()] if options.peers else [])]
    if options.capacity:
        _say(["", f"what can be parked, medians of {options.capacity}"])
        _say(table.capacity(capacity.measure(trial, options.worker, options.capacity)))
    if options.modes:
        _say(["", f"A {trial.rate:g}/s, B {trial.rate * trial.factor:g}/s for {trial.seconds:g} s", table.heading()])
        for system in systems:
            isolation(trial, system, options.modes, options.rounds)
    if options.outage:
        _say(["", f"B alone at {trial.rate * trial.factor:g}/s"])
        for mode in OUTAGES:
            _say(table.outage(mode, outage.run(trial, ours, mode, options.outage)))


def installation(options: argparse.Namespace) -> Installation:
    """The RabbitMQ that is measured. Raises NodeUnavailable."""
    if not options.rabbitmq_4:
        return ensure_rabbitmq()
    if found := find_rabbitmq_4():
        return found
    raise without_rabbitmq_4()


def possible(modes: Sequence[str]) -> list[str]:
    """Those that can be had here, and a line about those that cannot."""
    if not namespace.inside() and "dns" in modes:
        _say([f"left out: dns, there is no network of our own here ({namespace.why_not()})"])
        return [mode for mode in modes if mode != "dns"]
    return list(modes)


def _modes(text: str) -> list[str]:
    modes = text.split(",") if text else []
    if unknown := set(modes) - set(MODES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: no such mode; there are {', '.join(MODES)}")
    return modes


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=10.0, help="jobs a second for A")
    parser.add_argument("--factor", type=float, default=10.0, help="how many times as many for B")
    parser.add_argument("--modes", type=_modes, default=list(MODES), help=f"of {','.join(MODES)}; an empty text: none")
    parser.add_argument("--worker", type=Path, default=CHECKOUT, help="a checkout")
    parser.add_argument("--peers", nargs="?", const="too", choices=("too", "only"))
    parser.add_argument("--rabbitmq-4", action="store_true", help="on RabbitMQ 4; see docs/development.md")
    parser.add_argument("--capacity", type=int, default=0, metavar="ROUNDS")
    parser.add_argument("--outage", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    if not namespace.inside():
        installation(options)
        if options.peers:
            prepare_peers()
        if not namespace.why_not():
            namespace.enter("tests.benchmarks.isolation", sys.argv[1:])
    options.modes, options.worker = possible(options.modes), options.worker.absolute()
    folder = Path(tempfile.mkdtemp(prefix="worker-isolation-"))
    try:
        with Node(installation(options)) as node:
            _say([f"{table.machine()}, RabbitMQ {node.version}"])
            measure(options, Trial(node, folder, options.rate, options.factor, options.seconds))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(folder)
        if namespace.inside():
            namespace.tidy()


if __name__ == "__main__":
    main()
