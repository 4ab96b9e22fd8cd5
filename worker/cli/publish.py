"""`worker publish`: put jobs into the work queue, confirmed."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.options import BROKER, Given, takes
from worker.cli.reaching import reach, with_broker
from worker.cli.terminal import error, note, printable, warn
from worker.core import strict_json
from worker.core.job import MAX_ID, MAX_NOT_BEFORE, safe_id
from worker.core.message import Message, Outgoing, Properties
from worker.core.units import format_size, parse_duration

if TYPE_CHECKING:
    from worker.amqp.publisher import Publisher
    from worker.ops.settings import Settings

IN_FLIGHT: Final = 200
"""Publishes that wait for their confirms at once."""

LONGEST_TYPE: Final = 255


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be published."""

    queue: str
    type: str
    body: bytes
    count: int
    delay: float | None
    id: str | None

    def messages(self) -> Iterator[Outgoing]:
        """One after the other, each stamped when it is taken."""
        for number in range(1, self.count + 1):
            now = time.time()
            headers = {} if self.delay is None else {"x-worker-not-before": round((now + self.delay) * 1000)}
            properties = Properties(
                type=self.type,
                message_id=self._id(number),
                content_type="application/json",
                timestamp=int(now),
                headers=headers,
            )
            yield Outgoing(self.queue, Message(self.body, properties))

    def _id(self, number: int) -> str:
        if self.id is None:
            return str(uuid.uuid4())
        return self.id if self.count == 1 else f"{self.id}-{number}"


@takes(BROKER)
def publish(
    given: Given,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Job type, such as http.")],
    payload: Annotated[
        str, typer.Argument(metavar="JSON | @FILE | -", help="Payload: JSON, a file of it, or - for standard input.")
    ] = "{}",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many of it.")] = 1,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Run it that much later, as 10m.")] = None,
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="Job id instead of a fresh one; of several, ID-1 to ID-N.")
    ] = None,
    *,
    declare: Annotated[bool, typer.Option("--declare", help="Declare the queues first, if they are missing.")] = False,
) -> int:
    """Put jobs into the work queue, and wait until the broker has confirmed them."""
    settings = given.load().settings
    order = Order(settings.queue, _type(type), _body(payload), count, _delay(delay), _checked_id(id, count))
    if len(order.body) > settings.max_body:
        warn(
            f"{len(order.body)} bytes are more than max_body {format_size(settings.max_body)}:"
            " a worker with that setting will dead-letter the job as too_large"
        )
    return with_broker(lambda: _publish(settings, order, declare=declare))


async def _publish(settings: Settings, order: Order, *, declare: bool) -> int:
    import asyncio

    from worker.amqp.publisher import Publisher
    from worker.cli.wiring import access_of

    done = _Done(order)
    access = access_of(settings, "worker publish")
    await _see_to_queues(settings, declare=declare)
    publisher = Publisher(access)
    try:
        await publisher.open()
        with _progress(order.count) as advance:
            failure = await _pump(publisher, order, done, advance)
    except asyncio.CancelledError:
        note(f"interrupted: {done.count} of {order.count} were published for certain")
        raise
    finally:
        await publisher.close()
    if failure:
        error(f"{failure}; {done.count} of {order.count} were published")
        return 1
    print(f"published {done.what} to {order.queue}")
    return 0


class _Done:
    """What has been confirmed."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._last = ""
        self.count = 0

    def add(self, outgoing: Outgoing) -> None:
        assert isinstance(outgoing.message.properties, Properties)
        self._last = outgoing.message.properties.message_id or ""
        self.count += 1

    @property
    def what(self) -> str:
        return self._last if self._order.count == 1 else str(self.count)


async def _see_to_queues(settings: Settings, *, declare: bool) -> None:
    """Raises Unreachable, or Refused for a queue that is missing or other than it should be."""
    from worker.amqp.connecting import BROKEN, Unreachable
    from worker.amqp.queues import needed_at_start, prepare
    from worker.cli.wiring import access_of, topology_of

    topology = topology_of(settings)
    connected = await reach(access_of(settings, "worker publish"), "check", settings.connect_timeout)
    try:
        if declare:
            await prepare(connected.amqp, needed_at_start(topology, "declare"), "declare")
    except BROKEN as fault:
        raise Unreachable(f"{connected.node.shown}: {fault}") from fault
    finally:
        await connected.close()


async def _pump(publisher: Publisher, order: Order, done: _Done, advance: Callable[[], Any]) -> str:
    """Publish all of it; what went wrong, "" for nothing. After a failure nothing new is sent."""
    import asyncio

    from worker.core.broker import PublishFailed

    messages = order.messages()
    failures: list[str] = []

    async def lane() -> None:
        for outgoing in messages:
            try:
                await publisher.publish(outgoing)
            except PublishFailed as fault:
                failures.append(_explained(str(fault)))
            else:
                done.add(outgoing)
                advance()
            if failures:
                return

    await asyncio.gather(*(lane() for _ in range(min(IN_FLIGHT, order.count))))
    return failures[0] if failures else ""


def _explained(text: str) -> str:
    return f"{text}: start the worker once, or add --declare" if "does not exist" in text else text


@contextlib.contextmanager
def _progress(count: int) -> Iterator[Callable[[], Any]]:
    """A bar on stderr, if that is a terminal; gives what moves it by one."""
    if count == 1 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("publishing", total=count)
        yield lambda: bar.advance(task)


def _type(text: str) -> str:
    if not text or len(text.encode("utf-8", "replace")) > LONGEST_TYPE:
        raise typer.BadParameter(f"1 to {LONGEST_TYPE} bytes are needed", param_hint="TYPE")
    return text


def _body(payload: str) -> bytes:
    body = _read(payload)
    try:
        strict_json.loads(body)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="the payload") from None
    return body


def _read(payload: str) -> bytes:
    if payload == "-":
        return sys.stdin.buffer.read()
    if not payload.startswith("@"):
        return payload.encode("utf-8", "surrogateescape")
    try:
        return Path(payload[1:]).read_bytes()
    except OSError as fault:
        raise typer.BadParameter(f"{payload[1:]}: {fault.strerror}", param_hint="the payload") from None


def _delay(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--delay") from None
    if seconds > MAX_NOT_BEFORE:
        raise typer.BadParameter(f"{text} is more than the 30d a job can wait", param_hint="--delay")
    return seconds


def _checked_id(id: str | None, count: int) -> str | None:
    longest = id if id is None or count == 1 else f"{id}-{count}"
    if longest is not None and safe_id(longest) != longest:
        text = f"{printable(longest)[:80]!r} is not an id: 1 to {MAX_ID} visible ASCII characters"
        raise typer.BadParameter(text, param_hint="--id")
    return id
