"""Jobs on their way from a command into the work queue, and the wait for their results."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from worker.cli.reaching import reach
from worker.cli.terminal import error, note, warn
from worker.cli.waiting import Answers
from worker.core.message import Message, Outgoing, Properties

if TYPE_CHECKING:
    import asyncio

    from worker.amqp.publisher import Publisher
    from worker.amqp.replies import Replies
    from worker.ops.settings import Settings

IN_FLIGHT: Final = 200
"""Publishes that wait for their confirms at once."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be published. `delay` and `deadline` in seconds from when a job goes out."""

    queue: str
    type: str
    body: bytes
    count: int
    delay: float | None
    deadline: float | None
    id: str | None
    reply_to: str | None = None

    def messages(self) -> Iterator[tuple[str, Outgoing]]:
        """One after the other with its job id, each stamped when it is taken."""
        for number in range(1, self.count + 1):
            now = time.time()
            job = self._id(number)
            properties = Properties(
                type=self.type,
                message_id=job,
                content_type="application/json",
                correlation_id=None if self.reply_to is None else job,
                reply_to=self.reply_to,
                timestamp=int(now),
                headers=dict(self._moments(now)),
            )
            yield job, Outgoing(self.queue, Message(self.body, properties))

    def _moments(self, now: float) -> Iterator[tuple[str, int]]:
        for name, seconds in (("x-worker-not-before", self.delay), ("x-worker-deadline", self.deadline)):
            if seconds is not None:
                yield name, round((now + seconds) * 1000)

    def _id(self, number: int) -> str:
        if self.id is None:
            return str(uuid.uuid4())
        return self.id if self.count == 1 else f"{self.id}-{number}"


@dataclass(frozen=True, slots=True)
class Wait:
    """That results are waited for, and how many seconds at most; None is for ever."""

    timeout: float | None = None


async def publish_all(settings: Settings, order: Order, waiting: Wait | None, *, declare: bool) -> int:
    """Publish `order`, and wait for its results if that is wanted; the exit code. Raises Unreachable or Refused."""
    from worker.amqp.publisher import Publisher
    from worker.cli.wiring import access_of

    await _see_to_queues(settings, declare=declare)
    publisher = Publisher(access_of(settings, "worker publish"))
    try:
        await publisher.open()
        if waiting is not None:
            return await _publish_and_wait(settings, publisher, order, waiting)
        done = _Done(order)
        failure = await _sent(publisher, order, done)
    finally:
        await publisher.close()
    if failure:
        error(f"{failure}; {done.count} of {order.count} were published")
        return 1
    print(f"published {done.what} to {order.queue}")
    return 0


async def _sent(publisher: Publisher, order: Order, done: _Done) -> str:
    import asyncio

    try:
        with _progress(order.count) as advance:
            return await _pump(publisher, order, done, advance)
    except asyncio.CancelledError:
        note(f"interrupted: {done.count} of {order.count} were published for certain")
        raise


async def _publish_and_wait(settings: Settings, publisher: Publisher, order: Order, waiting: Wait) -> int:
    import asyncio

    from worker.amqp.connecting import Unreachable

    replies = await _replies(settings)
    answers, done = Answers(order.count), _Done(order)
    try:
        async with _collecting(answers, replies) as collected:
            failure = await _pump(publisher, replace(order, reply_to=replies.queue), done, going=answers.sent)
            if not failure:
                async with asyncio.timeout(waiting.timeout):
                    await collected
    except asyncio.CancelledError:
        note(f"interrupted: {done.count} of {order.count} were published for certain, {answers.missing}")
        raise
    except TimeoutError:
        error(f"no longer waited for, after {waiting.timeout:g} s: {answers.missing}")
        return 1
    except Unreachable as fault:
        error(f"the connection was lost while waiting ({fault}), and results go nowhere now: {answers.missing}")
        return 1
    finally:
        await replies.close()
    if failure:
        error(f"{failure}; {done.count} of {order.count} were published, and their results are not waited for")
        return 1
    return 0 if answers.all_succeeded else 1


@contextlib.asynccontextmanager
async def _collecting(answers: Answers, replies: Replies) -> AsyncIterator[asyncio.Task[None]]:
    """Results are told from now on; has ended, and left the terminal alone, before anything else is said."""
    import asyncio

    task = asyncio.create_task(answers.collect(replies))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _replies(settings: Settings) -> Replies:
    from worker.amqp.replies import Replies
    from worker.cli.wiring import access_of, topology_of
    from worker.core.result import ReplyRules

    replies = await Replies.over(await reach(access_of(settings, "worker publish"), "wait", settings.connect_timeout))
    if not ReplyRules(topology_of(settings), settings.reply_allow).allows(replies.queue):
        warn(f"reply_allow {','.join(settings.reply_allow)}: a worker with that setting sends no reply to amq.gen-*")
    return replies


class _Done:
    """What has been confirmed."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._last = ""
        self.count = 0

    def add(self, id: str) -> None:
        self._last = id
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


async def _pump(
    publisher: Publisher,
    order: Order,
    done: _Done,
    advance: Callable[[], Any] = lambda: None,
    going: Callable[[str], None] = lambda _: None,
) -> str:
    """Publish all of it; what went wrong, "" for nothing. After a failure nothing new is sent.

    `going` is told each job's id before it goes out, `advance` is called for each that is confirmed.
    """
    import asyncio

    from worker.core.broker import PublishFailed

    messages = order.messages()
    failures: list[str] = []

    async def lane() -> None:
        for job, outgoing in messages:
            going(job)
            try:
                await publisher.publish(outgoing)
            except PublishFailed as fault:
                failures.append(_explained(str(fault)))
            else:
                done.add(job)
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
