"""The parts of the demo: each does one thing, and raises Untrue when it does not come as it should."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from worker.dev.service import LOOK_EVERY, Service, Untrue, wait_until
from worker.dev.stage import Plan, Stage
from worker.dev.target import Exchange

LEAST_GAIN: Final = 5
"""So many times faster than one after another it must be, or it is not concurrent."""

_ANSWER_SECONDS = 15.0


@dataclass(frozen=True)
class Measured:
    """All calls at one concurrency: `seconds` from the first one's start to the last one's end."""

    concurrency: int
    seconds: float


def measure(stage: Stage, service: Service, concurrency: int) -> Measured:
    """Publish the calls, watch them arrive, and tell how long they took at the target."""
    warm_up = f"/ok?warm-up={concurrency}"
    with stage.publish(warm_up) as publishing:
        publishing.finish()
    _await_answers(stage, service, warm_up, 1)
    path, calls = stage.measured_path(concurrency), stage.plan.calls
    with (
        stage.publish(path, "--count", str(calls)) as publishing,
        stage.screen.progress(f"jobs, {concurrency} at once", calls) as advance,
    ):
        _await_answers(stage, service, path, calls, advance)
        publishing.finish()
    exchanges = check_calls(stage, concurrency)
    ended = max(exchange.ended or exchange.started for exchange in exchanges)
    return Measured(concurrency, ended - exchanges[0].started)


def _await_answers(
    stage: Stage, service: Service, path: str, count: int, advance: Callable[[int], None] = lambda _: None
) -> list[Exchange]:
    """The requests for `path`, once `count` of them are answered. Raises Untrue when that takes too long."""
    deadline = time.monotonic() + _ANSWER_SECONDS + 2 * stage.plan.sequential
    while True:
        exchanges = stage.seen(path)
        answered = sum(exchange.ended is not None for exchange in exchanges)
        advance(min(answered, count))
        if answered >= count:
            return exchanges
        service.check()
        if time.monotonic() > deadline:
            raise Untrue(f"{count} requests for {path} are answered", f"{answered}, and {len(exchanges)} have come")
        time.sleep(LOOK_EVERY)


def check_calls(stage: Stage, concurrency: int) -> list[Exchange]:
    """The measured calls. Raises Untrue unless there was one for each job, answered with 200."""
    exchanges = stage.seen(stage.measured_path(concurrency))
    keys = {exchange.key for exchange in exchanges}
    statuses = sorted({str(exchange.status) for exchange in exchanges})
    calls = stage.plan.calls
    if len(exchanges) != calls or len(keys) != calls or None in keys or statuses != ["200"]:
        raise Untrue(
            f"{calls} jobs, {concurrency} at once: {calls} requests with {calls} Idempotency-Keys, each answered 200",
            f"{len(exchanges)} requests with {len(keys)} keys, answered {', '.join(statuses)}",
        )
    return exchanges


def check_gain(plan: Plan, measured: Measured) -> None:
    """Raises Untrue when the calls hardly ran concurrently."""
    limit = plan.sequential / LEAST_GAIN
    if measured.seconds >= limit:
        raise Untrue(
            f"{plan.calls} jobs, {measured.concurrency} at once, take less than {limit:.1f} s ({LEAST_GAIN} times"
            f" faster than the {plan.sequential:.1f} s they take one after another)",
            f"{measured.seconds:.2f} s",
        )


def fail(stage: Stage, service: Service) -> tuple[str, str]:
    """Two jobs that do not simply succeed, under way together: what there is to say about each. Raises Untrue."""
    flaky, missing = f"flaky-{stage.tag}", f"missing-{stage.tag}"
    flaky_path, missing_path = f"/flaky/2/503/{stage.tag}", "/status/404"
    with (
        # Without quick tries inside the attempt: each 503 has to go by the broker's wait queues.
        stage.publish(flaky_path, "--id", flaky, retry={"attempts": 1}) as one,
        stage.publish(missing_path, "--id", missing) as other,
    ):
        one.finish()
        other.finish()
    _await_answers(stage, service, missing_path, 1)
    dead = _say_dead(stage, missing)
    return _say_retried(_await_answers(stage, service, flaky_path, 3), flaky), dead


def _say_retried(exchanges: list[Exchange], job: str) -> str:
    statuses = [exchange.status for exchange in exchanges]
    keys = {exchange.key for exchange in exchanges}
    if statuses != [503, 503, 200] or keys != {f"{job}/request"}:
        raise Untrue(f"{job} gets 503, 503, 200, each time with the key {job}/request", f"{statuses} with {keys}")
    pauses = [later.started - (sooner.ended or 0) for sooner, later in itertools.pairwise(exchanges)]
    waits = " and ".join(f"{pause:.1f} s" for pause in pauses)
    if min(pauses) < 1:
        raise Untrue(f"{job} waits for at least 1 s between its attempts, as WORKER_BACKOFF says", waits)
    return f"retried: 503, 503, 200 after waits of {waits} in the broker, each time with the key {job}/request"


def _say_dead(stage: Stage, job: str) -> str:
    letters: list[dict[str, Any]] = []

    def found() -> bool:
        letters[:] = dead_letters(stage)
        return bool(letters)

    wait_until(found, _ANSWER_SECONDS)
    seen = [(letter.get("id"), letter.get("reason"), letter.get("attempts")) for letter in letters]
    if seen != [(job, "http_status", 1)]:
        raise Untrue(f"one dead letter: {job}, http_status, 1 attempt", f"{seen or 'none'}")
    return f"dead letter: {job}\n  reason: {letters[0]['reason']}\n  detail: {letters[0].get('detail')}"


def dead_letters(stage: Stage) -> list[dict[str, Any]]:
    """What `worker dead list --json` shows."""
    with stage.command("dead", "list", "--json") as listing:
        output = listing.finish()
    try:
        letters = json.loads(output)
    except ValueError:
        raise Untrue("`worker dead list --json` prints JSON", output[:500]) from None
    assert isinstance(letters, list)
    return letters
