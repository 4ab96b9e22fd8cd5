"""`worker publish`: put jobs into the work queue, confirmed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from worker.cli.options import BROKER, Given, takes
from worker.cli.publishing import Order, Wait, publish_all
from worker.cli.reaching import with_broker
from worker.cli.terminal import printable, warn
from worker.core import strict_json
from worker.core.job import MAX_ID, MAX_MILLISECONDS, MAX_NOT_BEFORE, safe_id
from worker.core.units import format_size, parse_duration

LONGEST_TYPE: Final = 255


@takes(BROKER)
def publish(
    given: Given,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Job type, such as http.")],
    payload: Annotated[
        str, typer.Argument(metavar="JSON | @FILE | -", help="Payload: JSON, a file of it, or - for standard input.")
    ] = "{}",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many of it.")] = 1,
    *,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Run it that much later, as 10m.")] = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Dead-letter it as expired if it is not done by then, as 1h from now."),
    ] = None,
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="Job id instead of a fresh one; of several, ID-1 to ID-N.")
    ] = None,
    declare: Annotated[bool, typer.Option("--declare", help="Declare the queues first, if they are missing.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Print each job's result when it has ended, as JSON; exit 1 if one is dead."),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="With --wait: how long after publishing; without it for ever."),
    ] = None,
) -> int:
    """Put jobs into the work queue, and wait until the broker has confirmed them.

    With --wait also until they have ended, through every retry: results go to stdout, pretty on a terminal, else one a
    line. Whatever ends the waiting (Ctrl-C, --timeout, a lost connection), the jobs stay where they are. Exit codes: 0
    published (with --wait: all succeeded), 1 failure, 2 usage, 69 broker unreachable, 78 settings refused.
    """
    settings = given.load().settings
    seconds, until = _delay(delay), _deadline(deadline, delay)
    order = Order(settings.queue, _type(type), _body(payload), count, seconds, until, _checked_id(id, count))
    waiting = _wait(timeout, wait=wait)
    if len(order.body) > settings.max_body:
        warn(
            f"{len(order.body)} bytes are more than max_body {format_size(settings.max_body)}:"
            " a worker with that setting will dead-letter the job as too_large"
        )
    return with_broker(lambda: publish_all(settings, order, waiting, declare=declare))


def _type(text: str) -> str:
    if not text or len(text.encode("utf-8", "replace")) > LONGEST_TYPE:
        raise typer.BadParameter(f"1 to {LONGEST_TYPE} bytes are needed", param_hint="TYPE")
    return text


def _body(payload: str) -> bytes:
    body = _read(payload)
    if not body.strip():
        raise typer.BadParameter("it is empty, and JSON is needed", param_hint="the payload")
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
    seconds = _seconds(text, "--delay")
    if seconds is not None and seconds > MAX_NOT_BEFORE:
        raise typer.BadParameter(f"{text} is more than the 30d a job can wait", param_hint="--delay")
    return seconds


def _deadline(text: str | None, delay: str | None) -> float | None:
    seconds = _seconds(text, "--deadline")
    if seconds is None:
        return None
    if time.time() + seconds >= MAX_MILLISECONDS / 1000:
        raise typer.BadParameter(f"{text} is beyond what a header can say", param_hint="--deadline")
    if seconds <= (_delay(delay) or 0.0):
        after = f"the {delay} of --delay, and" if delay else "0:"
        raise typer.BadParameter(f"{text} must be longer than {after} the job would never run", param_hint="--deadline")
    return seconds


def _wait(timeout: str | None, *, wait: bool) -> Wait | None:
    seconds = _seconds(timeout, "--timeout")
    if seconds is not None and not wait:
        raise typer.BadParameter("it is for --wait", param_hint="--timeout")
    return Wait(seconds) if wait else None


def _seconds(text: str | None, flag: str) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint=flag) from None


def _checked_id(id: str | None, count: int) -> str | None:
    longest = id if id is None or count == 1 else f"{id}-{count}"
    if longest is not None and safe_id(longest) != longest:
        text = f"{printable(longest)[:80]!r} is not an id: 1 to {MAX_ID} visible ASCII characters"
        raise typer.BadParameter(text, param_hint="--id")
    return id
