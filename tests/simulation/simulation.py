"""One run: some jobs, some processes, some faults; then peace, until everything has ended; then the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog

import worker.service
from tests.simulation import checker
from tests.simulation.broker import REPLIES, Session, SimBroker
from tests.simulation.chance import Chance
from tests.simulation.jobs import JOB_SECONDS, make_order, message_of
from tests.simulation.ledger import Fault, Ledger
from tests.simulation.process import Process, in_process
from tests.simulation.virtual_time import LoopClock, Spinning, Stuck, VirtualLoop
from worker.runtime.inflight import JOIN_WINDOW

FAULT_SECONDS: Final = 40.0
PEACE_SECONDS: Final = 300.0
"""After the last fault everything must have ended within this time."""

ENDS: Final = frozenset({"jobs.dead", REPLIES})
FORGET_SECONDS: Final = JOIN_WINDOW + 2 * JOB_SECONDS + 10
"""When all is done, every process has forgotten all of it after this time."""


@dataclass(frozen=True)
class Outcome:
    """What came out of a seed: broken rules (none, one hopes), the trace, and figures."""

    seed: int
    broken: tuple[str, ...]
    trace: tuple[str, ...]
    jobs: int
    faults: tuple[str, ...]
    duplicates: int
    stayed: bool
    """Whether one process did it all, and no publish arrived that was told as failed: then nothing may be repeated."""

    def verdict(self) -> list[str]:
        return [f"seed {self.seed}: {rule}" for rule in self.broken]

    def told(self) -> str:
        return "\n".join([*self.trace, *self.verdict()])


def simulate(seed: int) -> Outcome:
    """Run a seed. The same seed gives the same trace, byte for byte."""
    ledger, chance = Ledger(), Chance(seed)
    loop = VirtualLoop()
    loop.set_task_factory(in_process)
    loop.set_exception_handler(lambda loop, context: ledger.write("loop", context.get("message")))
    state = random.getstate()
    random.seed(seed)  # what tenacity takes
    world: list[World] = []
    try:
        with quiet(), moved_clock():
            loop.run_until_complete(_whole(world, ledger, chance))
    except (Stuck, Spinning) as error:
        ledger.broken.append(f"{loop.time():.4f} {type(error).__name__}")
    finally:
        random.setstate(state)
        _bury(loop)
    broken = ledger.broken + (checker.verdict(ledger, world[0].broker) if world else [])
    faults = tuple(fault.kind for fault in ledger.faults)
    return Outcome(
        seed,
        tuple(broken),
        tuple(ledger.trace),
        len(ledger.orders),
        faults,
        checker.duplicates(ledger),
        stayed=len(ledger.lives) == 1 and "arrived unconfirmed" not in faults,
    )


class World:
    """Everything of one run."""

    def __init__(self, ledger: Ledger, chance: Chance) -> None:
        self.ledger = ledger
        self.chance = chance
        self.broker = SimBroker(ledger, chance)
        self.broker.on_deliver = self._delivered
        self.processes: list[Process] = []

    async def run(self) -> None:
        for _ in range(self.chance.processes):
            self._start_process()
        keeping = asyncio.create_task(self._keep_processes())
        trouble = asyncio.create_task(self._trouble())
        rolling = asyncio.create_task(self._roll())
        await self._publish()
        await trouble
        await rolling
        self.chance.budget = 0
        await self._peace()
        keeping.cancel()
        await self._end()

    async def _publish(self) -> None:
        for number in range(self.chance.jobs):
            await asyncio.sleep(self.chance.between(0, self.chance.pace))
            order = make_order(self.chance.dice, number, LoopClock().now())
            self.ledger.orders[order.id] = order
            self.ledger.write("order", order.id, order.kind, *order.ends)
            self.broker.arrive("jobs", message_of(order))

    def _start_process(self) -> None:
        self.processes.append(Process(self.broker, len(self.processes) + 1))

    @property
    def _living(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    async def _keep_processes(self) -> None:
        """Whoever has died or drains is replaced, soon."""
        while True:
            await asyncio.sleep(0.5)
            if len([one for one in self._living if not one.stopping]) < self.chance.processes:
                await asyncio.sleep(self.chance.between(0, 3))
                self._start_process()

    async def _roll(self) -> None:
        """A deploy: every process is told to stop, one after the other."""
        for _ in range(self.chance.rollings):
            await asyncio.sleep(self.chance.between(1, 12))
            for process in self._living:
                process.stop()
                await asyncio.sleep(self.chance.between(0, 2))

    async def _trouble(self) -> None:
        """Faults that come at their own time."""
        until = self.ledger.now + self.chance.between(5, FAULT_SECONDS)
        while self.ledger.now < until:
            await asyncio.sleep(self.chance.between(0.1, 6))
            if not self._living:
                continue
            process = self.chance.dice.choice(self._living)
            match self.chance.strikes_now():
                case "loss":
                    self._lose(process)
                case "death":
                    process.die()
                case "refusal":
                    self._refuse()
                case "restart":
                    self._restart()

    def _lose(self, process: Process) -> None:
        for session in [one for one in self.broker.sessions if one.process == process.number]:
            self.broker.lose(session)

    def _refuse(self) -> None:
        """Some queues take nothing for a while."""
        topology = self.broker.topology
        waits = [wait.name for wait in topology.waits]
        queues = self.chance.dice.choice((waits, [topology.dead_name], [*waits, topology.dead_name, topology.name]))
        self.ledger.fault(Fault("refusal", 0, self.ledger.now))
        self.broker.refusing.update(queues)
        seconds = self.chance.between(1, 25)
        asyncio.get_running_loop().call_later(seconds, self.broker.refusing.difference_update, queues)

    def _restart(self) -> None:
        """The broker is away for a moment: every session is lost, nobody can connect and nothing is taken."""
        broker, topology = self.broker, self.broker.topology
        for session in list(broker.sessions):
            broker.lose(session)
        queues = [*(wait.name for wait in topology.waits), topology.dead_name, topology.name]
        broker.down = True
        broker.refusing.update(queues)
        self.ledger.write("broker down")

        def back() -> None:
            broker.down = False
            broker.refusing.difference_update(queues)
            self.ledger.write("broker up")

        asyncio.get_running_loop().call_later(self.chance.between(0.5, 10), back)

    def _delivered(self, session: Session) -> None:
        fault = self.chance.strikes("deliver")
        if fault.startswith("lost"):
            self.broker.lose(session)
        elif fault:
            next(one for one in self.processes if one.number == session.process).die()

    async def _peace(self) -> None:
        """No more faults: everything ends."""
        until = self.ledger.now + PEACE_SECONDS
        while not self.broker.empty:
            await asyncio.sleep(1)
            if self.ledger.now > until:
                left = {name: len(queue) for name, queue in self.broker._queues.items() if queue and name not in ENDS}
                self.ledger.breach(f"liveness: {self.broker.unacked} not settled, and left are {left}")
                return

    async def _end(self) -> None:
        """Nothing is remembered or occupied for ever; then the drain of all processes."""
        await asyncio.sleep(FORGET_SECONDS)
        for process in self._living:
            if left := process.remembers():
                self.ledger.breach(f"p{process.number} still has {left}")
        for process in self._living:
            process.stop()
        for process in self.processes:
            await process.ended()
        await asyncio.sleep(60)
        for process in self.processes:
            tasks = process.leave_nothing()
            if tasks and not self.ledger.lives[process.number].killed:
                names = sorted({getattr(task.get_coro(), "__qualname__", "") for task in tasks})
                self.ledger.breach(f"p{process.number} left {len(tasks)} tasks behind: {names}")


async def _whole(world: list[World], ledger: Ledger, chance: Chance) -> None:
    world.append(World(ledger, chance))
    await world[0].run()


@contextlib.contextmanager
def moved_clock() -> Iterator[None]:
    """The service makes its clock itself."""
    own: Any = worker.service
    kept, own.SystemClock = own.SystemClock, LoopClock
    try:
        yield
    finally:
        own.SystemClock = kept


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines."""
    kept = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**kept)


def _bury(loop: VirtualLoop) -> None:
    """What still waits when a run is given up ends without a word."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with contextlib.suppress(Stuck, Spinning):
        for _ in range(20):
            if not (left := {task for task in left if not task.done()}):
                break
            loop.run_until_complete(asyncio.wait(left, timeout=100))
            for task in left:
                task.cancel()
    loop.close()
