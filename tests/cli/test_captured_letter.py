"""From the dead queue of a real broker to a test: what `worker dead show ID --json` prints can be run again."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Broker, Cli
from worker import Context, Registry
from worker.testing import replay_letter


async def test_what_the_command_prints_is_a_test_case(cli: Cli, broker: Broker) -> None:
    broker.declare()
    headers = {
        "x-worker-id": "order-7",
        "x-worker-attempt": 16,
        "x-worker-reason": "attempts_exhausted",
        "x-worker-steps": '{"charge":["ch_1"]}',
        "x-worker-history": ["16 2026-03-01T12:00:00Z 0.100s failed: KeyError"],
        "token": b"\xff\x00",
    }
    broker.publish(
        broker.topology.dead_name, b'{"n": 7}', type="order", message_id="m-7", user_id=broker.user, headers=headers
    )
    file = cli.directory / "order-7.json"
    file.write_text(cli("dead", "show", "order-7", "--json").out)

    registry, seen = Registry(), list[Any]()

    async def charge() -> str:
        raise AssertionError("it is charged already")

    @registry.handler("order")
    async def order(payload: dict[str, int], context: Context) -> str:
        seen.append((payload, context.job.id, context.job.attempt, context.job.body, context.job.headers["token"]))
        return await context.step("charge", charge)

    result = await replay_letter(registry, file)
    assert (result.status, result.value) == ("succeeded", "ch_1")
    assert seen == [({"n": 7}, "order-7", 1, b'{"n": 7}', b"\xff\x00")]
