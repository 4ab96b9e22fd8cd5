"""Publishes jobs and keeps their ledgers, in a process of its own: python -m tests.faults.publisher FOLDER URL QUEUE.

Standard input is one JSON line for each job (see `Order`), read as fast as `--rate` lets it. The process ends when
every publish has its answer, or with the connection's end: what then has none is `unknown`. With `--patient` it
connects again and goes on with the next one; it never publishes a job twice.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.faults.amqp import Closed, Line, encode
from tests.faults.ledgers import SUCCEEDED, Answer, Confirmed, Ledger, Published

CHECKOUT: Final = Path(__file__).parents[2]
WINDOW: Final = 500
AGAIN_AFTER: Final = 0.2

KEPT: Final = ("type", "content_type", "correlation_id", "reply_to", "priority", "timestamp", "app_id")
"""What every copy must keep, beside the publisher's own headers."""


@dataclass(frozen=True)
class Order:
    """One job to publish. `raw`, if given, is the property list in base64, and `properties` then do not count."""

    id: str
    body: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    raw: str | None = None
    path: str | None = None
    effects: int = 1
    expect: str = SUCCEEDED


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def kept_hash(properties: Mapping[str, Any]) -> str:
    """Over what a copy keeps; the worker's headers and the broker's are not the publisher's."""
    kept = {name: properties[name] for name in KEPT if properties.get(name) is not None}
    headers = {
        name: value
        for name, value in dict(properties.get("headers") or {}).items()
        if not name.startswith(("x-worker-", "x-death", "x-first-death", "x-last-death", "x-opt-"))
        and name not in {"CC", "BCC", "x-delivery-count", "x-acquired-count"}
    }
    return hash_of(json.dumps({**kept, "headers": headers}, sort_keys=True, default=str).encode())


class Desk:
    """Publishes orders one after another, and notes before and after."""

    def __init__(self, folder: Path, url: str, queue: str, *, patient: bool) -> None:
        self._published = Ledger(folder / "published.log")
        self._confirmed = Ledger(folder / "confirmed.log")
        self._url = url
        self._queue = queue
        self._patient = patient
        self._line: Line | None = None
        self._listening: asyncio.Task[None] | None = None
        self._open: dict[int, tuple[str, bytes]] = {}
        self._returned: set[bytes] = set()
        self._moved = asyncio.Event()
        self._seq = 0

    async def publish(self, order: Order) -> None:
        properties = base64.b64decode(order.raw) if order.raw is not None else encode(order.properties)
        line = await self._connected()
        while len(self._open) >= WINDOW and line is self._line:
            await self._move()
        self._seq += 1
        body, now = order.body.encode("utf-8", "surrogateescape"), time.time()
        kept = kept_hash(order.properties)
        self._published.note(
            Published(
                order.id,
                self._seq,
                now,
                hash_of(body),
                kept,
                order.path,
                order.effects,
                order.expect,
                order.raw is not None,
            )
        )
        if line is not self._line:
            self._answer(order.id, "unknown")
            return
        self._open[line._number + 1] = (order.id, properties)
        try:
            await line.publish(self._queue, properties, body)
        except OSError:
            self._lose()

    async def finish(self) -> None:
        while self._open:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _connected(self) -> Line:
        while self._line is None:
            line = Line(self._heard, self._returned.add)
            try:
                self._line = await line.open(self._url)
            except (OSError, Closed):
                if not self._patient:
                    raise
                await asyncio.sleep(AGAIN_AFTER)
                continue
            self._listening = asyncio.create_task(self._listen(line))
        return self._line

    async def _listen(self, line: Line) -> None:
        try:
            await line.listen()
        except Closed as error:
            sys.stderr.write(f"publisher: {error}\n")
        if line is self._line:
            self._lose()

    def _heard(self, number: int, good: bool) -> None:
        known = self._open.pop(number, None)
        if known is not None:
            job, properties = known
            bad: Answer = "returned" if properties in self._returned else "nack"
            self._answer(job, "ack" if good and properties not in self._returned else bad)

    def _lose(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None
        for job, _ in self._open.values():
            self._answer(job, "unknown")
        self._open.clear()
        self._moved.set()

    def _answer(self, job: str, answer: Answer) -> None:
        self._confirmed.note(Confirmed(job, answer, time.time()))
        self._moved.set()


async def serve(folder: Path, url: str, queue: str, rate: float, *, patient: bool) -> None:
    desk, since, count = Desk(folder, url, queue, patient=patient), time.monotonic(), 0
    loop = asyncio.get_running_loop()
    while text := await loop.run_in_executor(None, sys.stdin.readline):
        await desk.publish(Order(**json.loads(text)))
        count += 1
        if rate and (early := since + count / rate - time.monotonic()) > 0:
            await asyncio.sleep(early)
    await desk.finish()


class Publisher:
    """The process. `with Publisher(...) as publisher:` starts it with its orders; leaving it kills it."""

    def __init__(
        self, folder: Path, url: str, queue: str, orders: Iterable[Order], *, rate: float = 0, patient: bool = False
    ) -> None:
        command = [sys.executable, "-m", "tests.faults.publisher", str(folder), url, queue, "--rate", str(rate)]
        # From a file: nobody has to feed a process that may be stopped or killed at any time.
        with tempfile.TemporaryFile("w+") as orders_file, (folder / "publisher.err").open("ab") as errors:
            orders_file.writelines(f"{json.dumps(asdict(order))}\n" for order in orders)
            orders_file.seek(0)
            self.process = subprocess.Popen(
                [*command, *(["--patient"] if patient else [])],
                cwd=CHECKOUT,
                stdin=orders_file,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def wait(self, seconds: float = 60.0) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.publisher")
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("queue")
    parser.add_argument("--rate", type=float, default=0.0, help="jobs a second; 0 for no limit")
    parser.add_argument("--patient", action="store_true", help="go on when the broker was away")
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.url, options.queue, options.rate, patient=options.patient))


if __name__ == "__main__":
    main()
