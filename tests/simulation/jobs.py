"""Jobs whose payload says how each of their runs goes, and the handler that plays them and writes its effects down."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.ledger import NAME, Effect, Ledger, Order, job_of
from worker import Context, Registry, Reject, Retry, Snooze
from worker.core.child import ChildJob
from worker.core.message import Message, Properties
from worker.core.result import Result

ATTEMPTS: Final = 3
JOB_SECONDS: Final = 12.0
STUBBORN_SECONDS: Final = 400.0
TOO_LARGE: Final = 17 * 1024 * 1024


@dataclass(frozen=True)
class Place:
    """Where a handler runs: in which process of which run. `die` ends that process as a crash would."""

    ledger: Ledger
    process: int
    alive: Callable[[], bool]
    die: Callable[[], None]


PLACE: ContextVar[Place] = ContextVar("simulated_process")


class Stage:
    """One run of one job, as its script has it."""

    def __init__(self, payload: Any, context: Context) -> None:
        self._place = PLACE.get()
        self._ledger = self._place.ledger
        self._script = payload
        self._context = context
        self._id = str(context.job.headers[NAME])
        self._end_now = ""

    async def play(self) -> str:
        run = self._ledger.begin(self._id, "", self._place.process)
        ends = self._script["ends"]
        self._end_now = end = ends[min(run.number, len(ends)) - 1]
        try:
            await self._work(run, end)
        except asyncio.CancelledError:
            self._over(run, "cancelled")
            raise
        except BaseException as error:
            self._over(run, _outcome_of(error))
            raise
        self._over(run, "ok")
        return "done"

    def _over(self, effect: Effect, outcome: str) -> None:
        if self._place.alive():
            self._ledger.end(effect, outcome)

    async def _work(self, run: Effect, end: str) -> None:
        script = self._script
        steps = script["steps"]
        for name in steps if end in {"ok", "spoilt"} else steps[: script["at"]]:
            await self._context.step(name, self._effect, name)
        if script["items"] and (end in {"ok", "spoilt"} or script["at"]):
            await self._context.map("each", self._element, range(script["items"]), concurrency=2)
        if script["child"]:
            named = {NAME: f"{self._id}/child"}
            await self._context.publish("child", "play", script["child"], delay=script["child_delay"], headers=named)
        await asyncio.sleep(script["seconds"])
        await self._end(run, end)

    async def _end(self, run: Effect, end: str) -> None:
        match end:
            case "retry":
                raise Retry("not now", after=1)
            case "snooze":
                raise Snooze(2.5)
            case "reject":
                raise Reject("never")
            case "error" | "spoilt":
                raise ValueError("broken")
            case "exit":
                raise SystemExit(3)
            case "hang":
                await asyncio.Event().wait()
            case "stubborn":
                await self._ignore_cancellation(run)
            case "kill":
                self._over(run, "killed")
                self._place.die()
                raise asyncio.CancelledError

    async def _ignore_cancellation(self, run: Effect) -> None:
        until = self._ledger.now + STUBBORN_SECONDS
        while self._ledger.now < until and self._place.alive():
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                self._over(run, "cancelled")

    async def _element(self, number: int) -> str:
        return await self._effect(f"each-{number}")

    async def _effect(self, name: str) -> str:
        effect = self._ledger.begin(self._id, name, self._place.process)
        try:
            await asyncio.sleep(self._script["step_seconds"])
        except asyncio.CancelledError:
            self._over(effect, "cancelled")
            raise
        if self._end_now == "spoilt" and name.startswith("each"):
            self._over(effect, "failed")
            raise ValueError("broken")
        if name in self._script["flaky"] and effect.number == 1:
            self._over(effect, "failed")
            raise ConnectionResetError
        self._over(effect, "ok")
        return name


def _outcome_of(error: BaseException) -> str:
    match error:
        case Snooze():
            return "snoozed"
        case Reject():
            return "rejected"
        case _:
            return "failed"


def _callback(payload: Any, result: Result) -> ChildJob | None:
    if not payload["callback"]:
        return None
    return ChildJob("callback", "play", payload["callback"], {NAME: f"{payload['name']}/callback"})


def registry() -> Registry:
    """What every process runs: `play` by the script, `alone` too, but one at a time in a process."""
    made = Registry()

    @made.handler("play", callback=_callback)
    async def play(payload: dict[str, Any], context: Context) -> str:
        return await Stage(payload, context).play()

    @made.handler("alone", concurrency=1)
    async def alone(payload: dict[str, Any], context: Context) -> str:
        return await Stage(payload, context).play()

    return made


# Making them.

ENDS: Final = (
    ("ok",), ("ok",), ("ok",), ("ok",), ("retry", "ok"), ("error", "ok"), ("snooze", "ok"), ("snooze", "error", "ok"),
    ("hang", "ok"), ("stubborn", "ok"), ("exit", "ok"), ("error", "retry", "ok"), ("error",), ("retry",), ("reject",),
    ("error", "reject"), ("spoilt", "ok"),
)  # fmt: skip

KINDS: Final = ("plain",) * 12 + (
    "nameless",
    "malformed",
    "no type",
    "unknown",
    "too large",
    "later",
    "deadline",
    "killer",
)


def make_order(dice: random.Random, number: int, now: float) -> Order:
    """A job for the run. `now` is the epoch time at which it is published."""
    kind, ends = dice.choice(KINDS), dice.choice(ENDS)
    if kind == "killer":
        ends = ("kill",)
    made = script(dice, ends) | {"name": f"j{number}"}
    replies = dice.random() < 0.2
    job_type = "play"
    if kind == "plain" and dice.random() < 0.15:
        job_type = "alone"
    elif kind == "unknown":
        job_type = "nobody's"
    elif dice.random() < 0.15:
        made["callback"] = script(dice, ("ok",))
    headers: dict[str, Any] = {NAME: f"j{number}"}
    if kind == "later":
        headers["x-worker-not-before"] = round((now + dice.uniform(0.2, 8)) * 1000)
    if kind == "deadline":
        headers["x-worker-deadline"] = round((now + dice.uniform(2, 12)) * 1000)
    return Order(
        id=f"j{number}",
        body=b"{" if kind == "malformed" else json.dumps(made).encode(),
        type=job_type,
        kind=kind,
        ends=ends,
        replies=replies,
        callback=bool(made["callback"]) and job_type == "play",
        headers=tuple(headers.items()),
    )


def script(dice: random.Random, ends: tuple[str, ...]) -> dict[str, Any]:
    steps = ["a", "b", "c"][: dice.choice((0, 0, 1, 3))]
    return {
        "ends": ends,
        "steps": steps,
        "at": dice.randint(0, len(steps)),
        "items": dice.choice((0, 0, 0, 4)),
        "flaky": ["b", "each-1"] if dice.random() < 0.2 else [],
        "step_seconds": round(dice.uniform(0.01, 1.5), 3),
        "seconds": round(dice.choice((dice.uniform(0, 0.3), dice.uniform(0, 3), dice.uniform(0, 9))), 3),
        "child": _leaf(dice) if dice.random() < 0.12 else None,
        "child_delay": dice.choice((0, 0, 1.5)),
        "callback": None,
    }


def _leaf(dice: random.Random) -> dict[str, Any]:
    return {
        "ends": dice.choice((("ok",), ("error", "ok"))),
        "steps": [],
        "at": 0,
        "items": 0,
        "flaky": [],
        "step_seconds": 0.1,
        "seconds": 0.2,
        "child": None,
        "child_delay": 0,
        "callback": None,
    }


def message_of(order: Order) -> Message:
    """As its publisher sends it."""
    properties = Properties(
        type=None if order.kind == "no type" else order.type,
        message_id=None if order.kind == "nameless" else order.id,
        content_type="application/json",
        correlation_id=f"asked-{order.id}",
        reply_to="replies.all" if order.replies else None,
        headers=dict(order.headers),
    )
    return Message(b"", properties, TOO_LARGE) if order.kind == "too large" else Message(order.body, properties)


def order_of(child: Message) -> Order:
    """A job that a job has published."""
    return Order(job_of(child), child.body, ends=tuple(json.loads(child.body)["ends"]))
