"""A private broker, a target, one worker, and everything hostile that is sent to it; then the judgement."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from tests.hostile.judge import Evidence, Report, judge
from tests.hostile.shots import USER, Shot
from tests.hostile.wire import Answer, Mouth, Taken, take_all
from tests.process.kit import CHECKOUT, Worker, Yard
from worker.core.topology import Topology
from worker.dev.node import Node
from worker.dev.target import Target

MOUTHS: Final = 24
"""Connections that publish, each one message at a time: enough to keep the broker busy."""

LOOK_EVERY: Final = 0.25
REDELIVERED: Final = re.compile(r"messages_redelivered_total => (\d+)")
SETTINGS: Final = {"attempts": "2", "backoff": "50ms..100ms", "drain_timeout": "10s"}


class HostileYard(Yard):
    """A yard whose publishers mean harm. `plant` is the bug that its workers have (see planted.py), if any."""

    def __init__(self, node: Node, directory: Path, target: Target, *, plant: str = "") -> None:
        super().__init__(node.url, directory)
        self._node = node
        self._target = target
        self._plant = plant
        self.spare = f"{self.queue}.spare"
        self._seen: list[Shot] = []
        self._answers: list[Answer] = []
        self._before = 0
        self._connections: set[int] = set()
        self._children: set[int] = set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.channel() as channel:
            channel.queue_delete(self.spare)
        super().__exit__(kind, error, traceback)

    def environment(self, **settings: str) -> dict[str, str]:
        return {**super().environment(**settings), "HOSTILE_PLANT": self._plant, "PYTHONPATH": str(CHECKOUT)}

    @property
    def job_url(self) -> str:
        """What a job asks for, but for its number."""
        return f"{self._target.url}/ok?n="

    def begin(self, **settings: str) -> Worker:
        """Queues, the publishers' own user, and the worker."""
        self.declare()
        with self.channel() as channel:
            channel.queue_declare(self.spare, durable=True)
        if f"{USER}\t" not in self._node.ctl("list_users"):
            self._node.ctl("add_user", USER, USER)
            self._node.ctl("set_permissions", USER, "", ".*", "")
        worker = self.start(*(["tests.hostile.planted:registry"] if self._plant else []), **(SETTINGS | settings))
        self._before = self._redelivered()
        self._children = set(worker.children())
        self._connections = self._ports(worker)
        return worker

    async def send(self, shots: Iterable[Shot], said: Callable[[int], None] = lambda _: None) -> None:
        """Each of them, by several connections; return when each has its answer. `said` is told how many have."""
        waiting = iter(shots)
        hostile = self.url.replace("guest:guest@", f"{USER}:{USER}@")

        async def work() -> None:
            mouths = {False: Mouth(hostile, self.queue), True: Mouth(self.url, self.queue)}
            for shot in waiting:
                mouth = mouths[shot.trusted]
                answer = await mouth.publish(shot.raw, shot.body, part=shot.part, announced=shot.announced)
                self._seen.append(shot)
                self._answers.append(answer)
                said(len(self._seen))
            for mouth in mouths.values():
                mouth.close()

        await asyncio.gather(*(work() for _ in range(MOUTHS)))

    def until_over(self, seconds: float) -> bool:
        """Whether all queues but the dead one became empty, and the worker idle."""
        (worker,) = self.workers
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not worker.running:
                return False
            if self.left() == {} and worker.ask("/jobs")[1].strip() == "[]":
                return True
            time.sleep(LOOK_EVERY)
        return False

    def judge(self) -> Report:
        """What has become of everything, once the worker has drained."""
        (worker,) = self.workers
        faults = list(self._harm(worker))
        if worker.running:
            code = worker.drain()
            faults += [("exit", f"it drained with {code}")] if code else []
        faults += [("left", f"{count} in {queue}") for queue, count in self.left().items()]
        letters, copies = self._taken(Topology(self.queue).dead_name), self._taken(self.spare)
        return judge(
            Evidence(
                list(zip(self._seen, self._answers, strict=True)),
                letters,
                Counter(copy.body for copy in copies),
                self._effects(),
                faults,
            )
        )

    def _harm(self, worker: Worker) -> Iterable[tuple[str, str]]:
        """What must not have happened to the worker, whatever it was sent."""
        if not worker.running:
            yield "crash", f"the worker is gone: {worker.said()[-2000:]}"
            return
        if gone := self._children - set(worker.children()):  # one more is for suspects, and not for harm
            yield "crash", f"processes that are gone: {gone}"
        if (ports := self._ports(worker)) != self._connections:
            yield "connection", f"its ends at the broker were {self._connections} and are {ports}"
        for name in ("worker_reconnects_total", "worker_lost_acks_total"):
            if number := worker.metrics()[name]:
                yield "connection", f"{name} is {number:g}"
        if number := self._redelivered() - self._before:
            yield "redelivered", f"{number} messages"
        for line in worker.lines():
            if line["level"] in {"error", "critical"} or line["event"] in {"session.lost", "replica.died"}:
                yield "error", str(line)[:500]

    def _redelivered(self) -> int:
        """By the broker's own count, over all its queues."""
        return sum(map(int, REDELIVERED.findall(self._node.ctl("eval", "rabbit_global_counters:overview()."))))

    def _ports(self, worker: Worker) -> set[int]:
        """Its ends of the connections to the broker."""
        return {
            one.laddr.port
            for pid in worker.children()
            for one in psutil.Process(pid).net_connections("tcp")
            if one.raddr[1:] == (self._node.port,)
        }

    def _taken(self, queue: str) -> Sequence[Taken]:
        return asyncio.run(take_all(self.url, queue, self.waiting(queue)))

    def _effects(self) -> Mapping[int, int]:
        """How often the target was asked for each number."""
        asked = (re.search(r"[?&]n=(\d+)", one.path) for one in self._target.ledger())
        return Counter(int(match[1]) for match in asked if match)

    def memory(self) -> int:
        """Bytes that the largest of its processes has taken so far."""
        (worker,) = self.workers
        return max(psutil.Process(pid).memory_info().rss for pid in worker.children())
