"""What happened, written down by everybody but the worker: the publisher, the handlers' effects, the broker, chance."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from worker.core.message import Message, Properties

NAME: Final = "sim-name"
"""The publisher's own header that names a job: copies keep it, and it is there when the message has no id."""


def job_of(message: Message) -> str:
    """Which job a message carries."""
    properties = message.properties
    assert isinstance(properties, Properties)
    found = properties.headers.get(NAME) or properties.headers.get("x-worker-id") or properties.message_id
    assert isinstance(found, str)
    return found


@dataclass(frozen=True)
class Order:
    """A job as its publisher means it. `kind` says what is special about its message, `ends` how its runs end."""

    id: str
    body: bytes
    type: str = "play"
    kind: str = "plain"
    ends: tuple[str, ...] = ("ok",)
    replies: bool = False
    callback: bool = False
    headers: tuple[tuple[str, Any], ...] = ()


@dataclass
class Effect:
    """Something a handler did: a whole run (no `step`), or one try of a step. Open until it has an `outcome`."""

    id: str
    step: str
    number: int
    process: int
    start: float
    end: float | None = None
    outcome: str = ""


@dataclass(frozen=True)
class Held:
    """A message that a process had and had not settled. `number` is the broker's, 0 where it is not about one."""

    id: str
    number: int = 0


@dataclass
class Fault:
    """A fault, and which messages of the process it can have hurt.

    `known` is when the process found out: until then it may go on with what is no longer its own.
    """

    kind: str
    process: int
    at: float
    held: tuple[Held, ...] = ()
    known: float = float("inf")


@dataclass
class Life:
    """A process: from when to when it took jobs, and when it was gone."""

    born: float
    grace: float
    stopped: float | None = None
    gone: float | None = None
    killed: bool = False


@dataclass
class Ledger:
    """Append-only. Times are seconds since the start of the run."""

    trace: list[str] = field(default_factory=list)
    orders: dict[str, Order] = field(default_factory=dict)
    runs: defaultdict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    tries: defaultdict[tuple[str, str], list[Effect]] = field(default_factory=lambda: defaultdict(list))
    faults: list[Fault] = field(default_factory=list)
    lives: dict[int, Life] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """Rules that were seen to be broken as it happened."""
    deliveries: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Hand-overs of one message, by its number at the broker."""
    confirmed: defaultdict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    """Copies of a job whose confirm got to a process."""
    announced: defaultdict[tuple[int, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Which of `reply` and `callback` of a job were confirmed to a process."""
    acked: defaultdict[tuple[int, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    """Messages of a job that a process acknowledged."""
    failed_deliveries: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Deliveries of a job that the broker took back and counted."""
    twins: set[str] = field(default_factory=set)
    """Jobs of which one message came to the broker twice: its publish was repeated, and had arrived."""
    first_delivery: dict[tuple[int, int], float] = field(default_factory=dict)
    """When a message, by its number at the broker, first came to a process."""
    publishing: defaultdict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """How the publishes for a job by a process stand, its own ones and its copies: begun, failed or confirmed."""
    tries_to_publish: defaultdict[tuple[int, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def write(self, *words: object) -> None:
        self.trace.append(f"{self.now:10.4f} " + " ".join(map(str, words)))

    def breach(self, rule: str) -> None:
        self.broken.append(f"{self.now:.4f} {rule}")
        self.write("BROKEN", rule)

    def fault(self, fault: Fault) -> None:
        self.faults.append(fault)
        self.write("FAULT", fault.kind, f"p{fault.process}", *(f"{one.id}:m{one.number}" for one in fault.held))

    def begin(self, id: str, step: str, process: int) -> Effect:
        known = self.tries[id, step] if step else self.runs[id]
        effect = Effect(id, step, len(known) + 1, process, self.now)
        known.append(effect)
        self.write("begin", id, step or "run", effect.number, f"p{process}")
        return effect

    def end(self, effect: Effect, outcome: str) -> None:
        """The first end counts: what was cancelled is no success, whatever it makes of that."""
        if effect.outcome:
            return
        effect.end, effect.outcome = self.now, outcome
        self.write("end", effect.id, effect.step or "run", effect.number, outcome)

    def is_started(self, process: int, held: Held, until: float) -> bool:
        """Whether the process had run the job since this message of it came there."""
        since = self.first_delivery.get((process, held.number))
        return since is not None and any(
            run.process == process and since <= run.start <= until for run in self.runs[held.id]
        )

    def succeeded_at(self, process: int, id: str) -> int:
        return sum(run.process == process and run.outcome == "ok" for run in self.runs[id])
