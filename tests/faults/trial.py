"""One trial: a queue on a private broker, a target, jobs with a ledger, workers, faults, and the judgement.

    with trial.fault("broker.kill", recover=5):
        node.kill()
        node.start()
    trial.judge()

A fault is written down before it strikes and when it is healed. `judge()` waits until everything has ended, lets the
workers drain, empties the queues with an outsider's client, and fails with what the checker found.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from tests.faults import ledgers
from tests.faults.checker import Complaint, Evidence, Found, Report, Rules, judge
from tests.faults.drained import found_in, identified
from tests.faults.effects import Effects
from tests.faults.ledgers import Ledger, Replayed
from tests.faults.publisher import Order, Publisher
from tests.process.kit import CHECKOUT, Worker, Yard, eventually
from worker.core.topology import Topology
from worker.dev.node import Node
from worker.dev.ports import free_ports
from worker.dev.target import Target

END_SECONDS: Final = 60.0

REFUSED_SETTLEMENT: Final = re.compile(
    r"^(?:\x1b\[[0-9;]*m)*(\S+ \S+) .*operation basic\.(?:ack|nack|reject) caused .*$"
)


class Handle:
    """A fault while it lasts: what it may cause can still be told."""

    def __init__(self, kind: str, number: int, fields: dict[str, Any]) -> None:
        self.kind = kind
        self.number = number
        self.fields = fields


class Trial(Yard):
    """See the top of this file. `node` is whom rabbitmqctl talks to, None for a cluster's trial."""

    def __init__(self, node: Node, directory: Path, target: Target, note: Callable[[str], None]) -> None:
        super().__init__(node.url, directory)
        self.node = node
        self.target = target
        self.effects = Effects(target.ledger_path)
        self.note = note
        self._faults = Ledger(directory / "faults.log")
        self._replayed = Ledger(directory / "replayed.log")
        self._began = time.time()
        self._numbers = 0
        self._jobs = 0
        self._complaints: list[Complaint] = []
        self._plant = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._faults.close()
        self._replayed.close()
        for worker in self.workers:
            worker.end()
        if self.node.running:
            super().__exit__(kind, error, traceback)

    def logs(self) -> Iterator[tuple[str, str]]:
        """What each service said last, but for the jobs that ended well."""
        for worker in self.workers:
            lines = [line for line in worker.said().splitlines() if '"then":"done"' not in line]
            yield f"{worker.log.name} (pid {worker.pid})", "\n".join(lines[-40:])

    # Jobs.

    def jobs(self, count: int, path: str = "/ok?ms=100", **about: Any) -> list[Order]:
        """So many jobs of the built-in type that ask the target for `path`; "{}" in it stands for the id."""
        return [self.job(path, **about) for _ in range(count)]

    def job(
        self,
        path: str = "/ok?ms=100",
        *,
        id: str = "",
        more: dict[str, Any] | None = None,
        elsewhere: bool = False,
        **about: Any,
    ) -> Order:
        """One such job; `more` are further fields of its step, `about` is for the ledger.

        `elsewhere`: by the target's other address, a host of its own to limits and breakers.
        """
        self._jobs += 1
        name = id or f"job-{self._jobs}"
        asked = path.replace("{}", name)
        url = self.target.other_url if elsewhere else self.target.url
        body = json.dumps({"url": f"{url}{asked}"} | (more or {}))
        return Order(name, body, self.properties("http", name), path=asked, **about)

    def handled(self, type: str, payload: Any, *, id: str = "", **about: Any) -> Order:
        """A job for a handler of an APP."""
        self._jobs += 1
        name = id or f"{type}-{self._jobs}"
        return Order(name, json.dumps(payload), self.properties(type, name), **about)

    @staticmethod
    def properties(type: str | None, id: str | None, **more: Any) -> dict[str, Any]:
        plain = {"type": type, "message_id": id, "content_type": "application/json", "delivery_mode": 2}
        return {name: value for name, value in (plain | more).items() if value is not None}

    def publish_all(self, orders: Sequence[Order], **how: Any) -> None:
        """Publish, and return when each has its answer."""
        with self.publishing(orders, **how) as publisher:
            assert publisher.wait() == 0, (self.directory / "publisher.err").read_text()

    def publishing(self, orders: Sequence[Order], url: str = "", **how: Any) -> Publisher:
        """The publisher under way; to be entered. `url` is another way to the broker."""
        return Publisher(self.directory, url or self.url, self.queue, orders, **how)

    def replay(self, id: str, *arguments: str) -> None:
        """Put the dead letter of a job back, by the worker's own command."""
        self._replayed.note(Replayed(id, time.time()))
        done = self.command("dead", "replay", id, *arguments)
        assert done.returncode == 0, done.stderr

    # Workers.

    def plant(self, bug: str) -> None:
        """Workers from now on have this bug (see planted.py), when they run the APP of that name."""
        self._plant = bug

    def environment(self, **settings: str) -> dict[str, str]:
        return {**super().environment(**settings), "FAULTS_PLANT": self._plant, "PYTHONPATH": str(CHECKOUT)}

    def launch_into(self, output: int, *apps: str, before: Sequence[str] = (), **settings: str) -> Worker:
        """`worker run` that writes to this descriptor, as `before` starts it (prlimit, say). Its log stays empty."""
        (port,) = free_ports(1)
        log = self.directory / f"worker-{len(self.workers)}.log"
        log.touch()
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "worker", "run", *apps],
            cwd=self.directory,
            env=self.environment(**({"admin": f"127.0.0.1:{port}"} | settings)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        worker = Worker(process, log, port)
        self.workers.append(worker)
        return worker

    def launch_limited(self, before: Sequence[str], *apps: str, **settings: str) -> Worker:
        """`worker run` as `before` starts it, with its log."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        with log.open("wb") as output:
            return self.launch_into(output.fileno(), *apps, before=before, **settings)

    def processes(self, worker: Worker) -> list[psutil.Process]:
        """The parent and everything below it."""
        worker.children()
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(worker.pid)
            return [top, *top.children(recursive=True)]
        return []

    def kill(self, worker: Worker, *, bound: int, recover: float | None = None) -> None:
        """SIGKILL for the whole service at one moment, charged with the connections it then had."""
        processes = self.processes(worker)
        for process in processes:
            process.suspend()  # from here on nothing changes any more, so that the ledger tells the truth
        ports = [port for process in processes for port in self._ports(process)]
        with self.fault("worker.kill", bound=bound, ports=ports, recover=recover):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        worker.wait()

    def kill_child(self, worker: Worker, *, bound: int, recover: float | None = None) -> None:
        """SIGKILL for one process that does the work; its parent starts another."""
        child = psutil.Process(worker.children()[0])
        child.suspend()
        with self.fault("child.kill", bound=bound, ports=self._ports(child), recover=recover):
            child.kill()

    def freeze(self, worker: Worker) -> list[psutil.Process]:
        """SIGSTOP for the whole service; what to thaw."""
        processes = self.processes(worker)
        for process in processes:
            process.suspend()
        return processes

    def ports(self, worker: Worker) -> list[int]:
        """Its ends of the connections to the target."""
        return [port for process in self.processes(worker) for port in self._ports(process)]

    def _ports(self, process: psutil.Process) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found = process.net_connections("tcp")
            return [one.laddr.port for one in found if one.raddr[1:] == (self.target.port,)]
        return []

    # Faults.

    @contextlib.contextmanager
    def fault(self, kind: str, **fields: Any) -> Iterator[Handle]:
        """Written down when it begins, and when it is healed: at the end of the block. `fields` as in ledgers.Fault."""
        self._numbers += 1
        handle = Handle(kind, self._numbers, fields)
        fields.setdefault("ports", None)
        self._faults.write({"number": handle.number, "kind": kind, "at": time.time(), **fields})
        yield handle
        self._faults.write({"number": handle.number, "until": time.time()})

    def charge(self, kind: str, at: float, until: float, bound: int) -> None:
        """Write down a fault that struck a process at a moment that only the target's ledger tells."""
        self._numbers += 1
        self._faults.write({"number": self._numbers, "kind": kind, "at": at, "bound": bound, "ports": None})
        self._faults.write({"number": self._numbers, "until": until})

    def restart_broker(self, *, kill: bool = False, away: float = 0.0, **fields: Any) -> None:
        """End the broker and start it again on its data."""
        self.note_complaints()
        with self.fault("broker.kill" if kill else "broker.restart", **fields):
            if kill:
                self.node.kill()
            else:
                self.node.stop()
            time.sleep(away)
            self.node.start()

    def note_complaints(self) -> None:
        """Read from the broker's log which of the worker's channels it has closed. A restart empties that log."""
        for line in self.node.log(lines=1_000_000).splitlines():
            if (match := REFUSED_SETTLEMENT.match(line)) is not None:
                at = datetime.fromisoformat(match[1]).timestamp()
                complaint = Complaint(at, line.strip())
                if at >= self._began and complaint not in self._complaints:
                    self._complaints.append(complaint)

    # The end.

    def done(self) -> int:
        """Requests that were answered well so far, each counted once."""
        return len(self.effects.look().good)

    def until_done(self, count: int, seconds: float = END_SECONDS) -> None:
        eventually(lambda: self.done() >= count, f"{count} jobs are done, {self.done()} are", seconds)

    def until_running(self, count: int, seconds: float = END_SECONDS) -> None:
        eventually(lambda: self.effects.look().running >= count, f"{count} requests are under way", seconds)

    def until_over(self, seconds: float = END_SECONDS) -> None:
        """Return when every confirmed job has ended, as far as one can see from outside."""
        published = {one.id: one for one in ledgers.read_published(self.directory / "published.log")}
        answers = ledgers.read_confirmed(self.directory / "confirmed.log")
        wanted = [published[one.id] for one in answers if one.answer == "ack"]
        effects = sum(one.effects for one in wanted if one.expect == ledgers.SUCCEEDED)
        dead = sum(one.expect not in {ledgers.SUCCEEDED, ledgers.ANY} for one in wanted)
        eventually(lambda: self.done() >= effects, f"{effects} effects are answered", seconds)
        eventually(lambda: self.dead() >= dead, f"{dead} dead letters", seconds)
        eventually(lambda: self.left() == {}, "the queues are empty", seconds)
        for worker in self.workers:
            if worker.running:
                eventually(lambda: _is_idle(worker), "nothing is in flight", seconds)  # noqa: B023

    def collect(self) -> Evidence:
        """Let the workers drain, empty the queues, and gather what the ledgers say."""
        for worker in self.workers:
            if worker.running:
                worker.signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()
        topology = Topology(self.queue)
        left: list[Found] = []
        for queue in (topology.work, topology.suspect, topology.dead, *topology.waits):
            if self.waiting(queue.name):
                left += [found_in(queue.name, queue.name == topology.dead_name, one) for one in self.take(queue.name)]
        self.note_complaints()
        published = ledgers.read_published(self.directory / "published.log")
        return Evidence(
            published,
            ledgers.read_confirmed(self.directory / "confirmed.log"),
            self.target.ledger(),
            identified(left, published),
            ledgers.read_faults(self.directory / "faults.log"),
            ledgers.read_replayed(self.directory / "replayed.log"),
            self._complaints,
        )

    def report(self, rules: Rules | None = None, seconds: float = END_SECONDS) -> Report:
        """Wait for the end and judge. What does not end is judged as well."""
        with contextlib.suppress(AssertionError):
            self.until_over(seconds)
        return judge(self.collect(), rules)

    def judge(self, rules: Rules | None = None, seconds: float = END_SECONDS) -> Report:
        """The report of a trial in which no promise was broken; its figures are printed."""
        report = self.report(rules, seconds)
        self.note(report.line())
        told = "\n".join(f"{one.kind}: {one.id} {one.story}" for one in report.violations[:20])
        assert not report.violations, f"{len(report.violations)} violations\n{told}\n{report.line()}"
        return report


def _is_idle(worker: Worker) -> bool:
    """Whether it holds nothing but what the broker has taken back: such a job's record waits for nobody here.

    Who cannot be asked (in another network namespace) counts as idle: its drain will tell.
    """
    status, text = worker.ask("/jobs")
    return status == 0 or (status == 200 and all(row["void"] for row in json.loads(text)))
