"""Random faults under load, and one summary: python -m tests.faults.soak --jobs 5000 [--seed N].

Several services work on a mixed load while every few seconds something is done to one of them, to the broker, to the
target or to the link. The same seed draws the same faults; when they strike depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final

from tests.faults.proxy import Proxy
from tests.faults.publisher import Order
from tests.faults.test_alarm import FULL, alarm, readiness
from tests.faults.test_broker import BAD_ACK
from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually
from worker.dev.node import Node, ensure_rabbitmq
from worker.dev.target import Target

CONCURRENCY: Final = 10
SERVICES: Final = 3
PAUSE: Final = (2.0, 8.0)
"""Seconds between two faults."""

HELD: Final = 2 * CONCURRENCY
"""What one process may repeat: what it ran, and what it had settled in its last 0.3 s."""

SETTINGS: Final = {
    "concurrency": str(CONCURRENCY),
    "prefetch": "20",
    "backoff": "1s..3s",
    "drain_timeout": "10s",
}

LIMITS: Final = '[limits."127.0.0.2"]\nbreaker = false\n'
"""The troublesome jobs fail by themselves, not by their host: left alone for that, it would take hours to end them."""


class Soak:
    """The load, the services, and the faults: sudden ones, lasting ones, and a sudden one while another lasts."""

    def __init__(self, trial: Trial, proxy: Proxy, chance: random.Random) -> None:
        self._trial = trial
        self._proxy = proxy
        self._chance = chance
        self._services: list[Worker] = []
        self._frozen: Worker | None = None
        self.sudden: dict[str, Callable[[], None]] = {
            "worker.kill": self._kill_worker,
            "child.kill": self._kill_child,
            "worker.drain": self._drain,
            "broker.kill": lambda: self._restart(kill=True),
            "broker.restart": lambda: self._restart(kill=False),
            "connections.closed": self._close_connections,
            "channel.closed": self._close_channels,
            "link.reset": self._reset_link,
            "target.kill": self._kill_target,
        }
        self.lasting: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "worker.freeze": self._freeze,
            "link.slow": self._slow_link,
            "memory.alarm": self._alarm,
            "dead.full": self._fill_dead,
        }

    def orders(self, count: int) -> list[Order]:
        """Mostly good jobs; some fail once, some for ever, some take their time.

        The troublesome ones by an address of their own, and few enough: a host that answers 429 is left alone by all
        its jobs, and one that fails more often than not as well.
        """
        make = self._trial.job
        fail_once = {"retry": {"attempts": 1}}
        kinds: list[tuple[int, Callable[[], Order]]] = [
            (820, lambda: make("/ok?ms=100&job={}")),
            (80, lambda: make("/ok?ms=1500&job={}")),
            (65, lambda: make("/flaky/1/503/{}", more=fail_once, elsewhere=True)),
            (5, lambda: make("/retry-after/1/1/{}", elsewhere=True)),
            (30, lambda: make("/status/404?{}", expect="http_status", elsewhere=True)),
        ]
        drawn = self._chance.choices([make for _, make in kinds], [weight for weight, _ in kinds], k=count)
        return [one() for one in drawn]

    def run(self, orders: list[Order], rate: float) -> None:
        """Until everything is published; then the faults end."""
        trial = self._trial
        trial.declare()
        (trial.directory / "worker.toml").write_text(LIMITS, encoding="utf-8")
        self._services = [self._start() for _ in range(SERVICES)]
        with trial.publishing(orders, rate=rate, patient=True) as publisher:
            while publisher.process.poll() is None:
                time.sleep(self._chance.uniform(*PAUSE))
                self._strike()
        for worker in self._services:
            worker.until_ready()

    def _strike(self) -> None:
        """One fault, or one in the midst of another."""
        kind = self._chance.choice(("sudden", "sudden", "lasting", "both"))
        sudden = None if kind == "lasting" else self._chance.choice(list(self.sudden))
        lasting = None if kind == "sudden" else self._chance.choice(list(self.lasting))
        names = " with ".join(name for name in (lasting, sudden) if name)
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {self._trial.done():6} done; {names}\n")
        sys.stdout.flush()
        with nullcontext() if lasting is None else self.lasting[lasting]():
            time.sleep(self._chance.uniform(0.2, 4) if lasting else 0)
            if sudden:
                self.sudden[sudden]()

    def _start(self) -> Worker:
        return self._trial.start(**SETTINGS, amqp_url=self._proxy.url(self._trial.url))

    def _take(self) -> Worker:
        """One of the services that is awake; it is replaced."""
        worker = self._chance.choice([one for one in self._services if one is not self._frozen])
        self._services.remove(worker)
        return worker

    def _kill_worker(self) -> None:
        self._trial.kill(self._take(), bound=HELD)
        self._services.append(self._start())

    def _kill_child(self) -> None:
        worker = self._chance.choice([one for one in self._services if one is not self._frozen])
        if worker.children():
            self._trial.kill_child(worker, bound=HELD)

    def _drain(self) -> None:
        worker = self._take()
        with self._trial.fault("worker.drain"):
            assert worker.drain() == 0
        self._services.append(self._start())

    @contextmanager
    def _freeze(self) -> Iterator[None]:
        self._frozen = self._chance.choice(self._services)
        # With something else at the same time it may take longer than the heartbeats do.
        with self._trial.fault("worker.freeze", bound=HELD, each=2):
            stopped = self._trial.freeze(self._frozen)
            yield
            for process in stopped:
                process.resume()
            self._frozen = None

    def _restart(self, *, kill: bool) -> None:
        self._trial.restart_broker(kill=kill, away=self._chance.uniform(0, 3), bound=SERVICES * HELD, each=SERVICES)

    def _close_connections(self) -> None:
        with self._trial.fault("connections.closed", bound=SERVICES * HELD, each=SERVICES):
            self._trial.node.ctl("close_all_connections", "for a trial")

    def _close_channels(self) -> None:
        with self._trial.fault("channel.closed", bound=SERVICES * HELD, each=SERVICES, errors=4 * SERVICES):
            self._trial.node.ctl("eval", BAD_ACK)

    def _reset_link(self) -> None:
        with self._trial.fault("link.reset", bound=SERVICES * HELD, each=SERVICES):
            self._proxy.reset()

    @contextmanager
    def _slow_link(self) -> Iterator[None]:
        with self._trial.fault("link.slow"):
            self._proxy.set(delay=0.2)
            yield
            self._proxy.heal()

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        # Copies are held meanwhile; when a second fault strikes, their jobs are delivered to whom they are new.
        with self._trial.fault("memory.alarm", bound=SERVICES * HELD):
            alarm(self._trial, on=True)
            yield
            alarm(self._trial, on=False)

    def _kill_target(self) -> None:
        with self._trial.fault("target.kill", bound=SERVICES * HELD, each=3):
            self._trial.target.kill()
            self._trial.target.start()

    @contextmanager
    def _fill_dead(self) -> Iterator[None]:
        node, pattern = self._trial.node, f"^{self._trial.queue}[.]dead$"
        # A drain gives back what is held, and its step runs once more: the other thing that can happen meanwhile.
        with self._trial.fault("dead.full", bound=HELD):
            node.ctl("set_policy", "--apply-to", "queues", "full", pattern, FULL)
            yield
            node.ctl("clear_policy", "full")
            for worker in self._services:
                eventually(lambda: readiness(worker).get("copies_held") == 0, "nothing is held any more")  # noqa: B023


def soak(jobs: int, seed: int, rate: float, folder: Path) -> int:
    """Run it; 0 when no promise was broken."""
    lines: list[str] = []
    since = time.monotonic()
    with (
        Node(ensure_rabbitmq()) as node,
        Target(folder / "effects.log") as target,
        Proxy(node.port) as proxy,
        Trial(node, folder, target, lines.append) as trial,
    ):
        soak = Soak(trial, proxy, random.Random(seed))
        soak.run(soak.orders(jobs), rate)
        report = trial.report(seconds=max(180.0, jobs / 50))
        started = len(trial.workers)
    for one in report.violations[:50]:
        sys.stdout.write(f"VIOLATION {one.kind}: {one.id} {one.story}\n")
    sys.stdout.write(
        f"soak: seed {seed}, {time.monotonic() - since:.0f} s, {started} services started; {report.line()};"
        f" violations {len(report.violations)}; ledgers in {folder}\n"
    )
    return 1 if report.violations else 0


def main() -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=None, help="drawn and printed when none is given")
    parser.add_argument("--rate", type=float, default=100.0, help="jobs published a second")
    parser.add_argument("--folder", type=Path, default=None, help="where the ledgers are kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.pop("WORKER_AMQP_URL", None)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    folder = options.folder or Path(tempfile.mkdtemp(prefix="worker-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    return soak(options.jobs, seed, options.rate, folder)


if __name__ == "__main__":
    sys.exit(main())
