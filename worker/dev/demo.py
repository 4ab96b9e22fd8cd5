"""What the worker promises, shown on this machine: python -m worker.dev.demo (or `make demo`).

A broker (a private node, or the one WORKER_AMQP_URL names), a target that takes its time, a worker, and jobs published
as any other program would. The figures are the target's: what really arrived there, and when. Exit code 0 only if all
that is shown is true; 1 and the reason if something is not.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from worker.dev.node import NodeUnavailable
from worker.dev.scenes import Measured, check_calls, check_gain, fail, measure
from worker.dev.screen import Screen
from worker.dev.service import Untrue, tail
from worker.dev.stage import Plan, Stage, a_broker
from worker.dev.target import Target

CONCURRENCIES: Final = (20, 100)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FEWEST_CALLS = 10


def show(screen: Screen, plan: Plan) -> None:
    """The whole demo. Raises Untrue at the first thing that is not as it should be, and NodeUnavailable."""
    with tempfile.TemporaryDirectory(prefix="worker-demo-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = stack.enter_context(a_broker(screen, folder))
        target = stack.enter_context(Target(folder / "ledger"))
        screen.say(f"target: {target.url}{plan.call}")
        stage = Stage(screen, plan, folder, environment, target)
        try:
            _perform(stage)
        except Untrue:
            if said := tail(stage.log):
                screen.quote("the end of the worker's log", said)
            raise
        finally:
            _ignore_signals()


def _perform(stage: Stage) -> None:
    few, many = CONCURRENCIES
    with stage.worker(few) as service:
        measured = [measure(stage, service, few)]
    with stage.worker(many) as service:
        measured.append(measure(stage, service, many))
        retried, dead = fail(stage, service)
    for one in measured:  # again, now that no worker is left that could repeat something
        check_calls(stage, one.concurrency)
    show_figures(stage, measured)
    stage.screen.say(retried)
    stage.screen.say(dead)
    for one in measured:
        check_gain(stage.plan, one)


def show_figures(stage: Stage, measured: Sequence[Measured]) -> None:
    """The table."""
    plan = stage.plan
    stage.screen.table(
        f"{plan.calls} jobs, one call of {plan.delay * 1000:g} ms each",
        "Measured at the target, from the first call's start to the last call's end, after one warm-up job."
        f" {plan.calls} jobs were {plan.calls} calls: none lost, none repeated.",
        ("jobs at once", "one after another", "measured", "ideal", "measured / ideal"),
        [_row(plan, one) for one in measured],
    )


def _row(plan: Plan, one: Measured) -> list[str]:
    ideal = plan.ideal(one.concurrency)
    figures = [f"{seconds:.2f} s" for seconds in (plan.sequential, one.seconds, ideal)]
    return [str(one.concurrency), *figures, f"{one.seconds / ideal:.2f}"]


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise KeyboardInterrupt(number)


def _ignore_signals() -> None:
    """For the end: it takes a few seconds, and an interrupted one leaves things behind."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m worker.dev.demo", description="The worker, shown on this machine.")
    parser.add_argument("--calls", type=int, default=Plan.calls, help=f"jobs to measure, {_FEWEST_CALLS} or more")
    parser.add_argument("--delay", type=float, default=Plan.delay * 1000, help="ms the target takes for an answer")
    parser.add_argument(
        "--path", default=Plan.path, help="what is called instead of /delay/MS; it should take --delay (see target.py)"
    )
    options = parser.parse_args(arguments)
    if options.calls < _FEWEST_CALLS or not options.delay > 0:
        parser.error(f"--calls must be {_FEWEST_CALLS} or more, --delay above 0")
    return Plan(options.calls, options.delay / 1000, options.path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the top of this file."""
    plan = _plan(arguments)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    screen, began = Screen(), time.monotonic()
    try:
        show(screen, plan)
    except KeyboardInterrupt as error:
        print("interrupted; everything it started has ended", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except (Untrue, NodeUnavailable, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    screen.say(f"All of this was checked; {time.monotonic() - began:.0f} s. What it started has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
