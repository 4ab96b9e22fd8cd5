"""The way to the broker changes to something odd, or again and again, or in the midst of something else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.amqp.contract import outgoing, outside, until, until_known
from tests.amqp.test_rotation import LEFTOVERS, SOON, Place, address, on
from tests.amqp.wire import Wire
from worker.amqp import broker as brokers
from worker.amqp.connecting import Access
from worker.amqp.connecting import Node as Address
from worker.amqp.publisher import Publisher
from worker.dev.node import Node

LONG = "v" * 300


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    LEFTOVERS.delete()


def told(logs: list[Any], event: str) -> list[Any]:
    return [one for one in logs if one["event"] == event and one["log_level"] != "debug"]


@pytest.mark.parametrize("odd", ["amqp://{user}:secret-of-a-test@xn--a:{port}/", "amqp://u:x@127.0.0.1:{port}/" + LONG])
async def test_what_is_no_address_at_all_is_refused_and_what_comes_after_it_counts(node: Node, odd: str) -> None:
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        with capture_logs() as logs:
            place.nodes = (Address(odd.format(user=before, port=node.port), "amqp://odd/", before),)
            await until(lambda: bool(told(logs, "broker.rotation_refused")), SOON)
            place.nodes = (place.at(after),)
            await until(lambda: bool(told(logs, "broker.rotated")), 2 * SOON)
        (refused,) = told(logs, "broker.rotation_refused")
        assert "amqp://odd/" in refused["reason"]
        assert "WORKER_AMQP_URL" in refused["reason"]
        assert "secret-of-a-test" not in str(logs)
        assert place.broker.consuming


async def test_a_fault_of_ours_ends_no_rotation(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        with capture_logs() as logs:
            monkeypatch.setattr(brokers, "open_connection", _fails)
            place.nodes = (place.at(after),)
            await until(lambda: bool(told(logs, "broker.rotation_failed")), SOON)
            await asyncio.sleep(1)  # more than one try
            monkeypatch.undo()
            await until(lambda: bool(told(logs, "broker.rotated")), 2 * SOON)
        assert len(told(logs, "broker.rotation_failed")) == 1


async def _fails(*_: object) -> Any:
    raise LookupError("a fault of ours")


async def test_the_supervision_outlives_what_it_cannot_know(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the files cannot be read in a way nobody thought of; and meanwhile the connection is lost, too."""
    monkeypatch.setattr(brokers, "LONGEST_PAUSE", 0.2)
    async with on(node) as place:
        user = await place.user()
        await place.begin(user)
        nodes, place.nodes = place.nodes, 7  # type: ignore[assignment]
        with capture_logs() as logs:
            await until(lambda: bool(told(logs, "broker.supervision_failed")), SOON)
            assert place.broker.consuming
            assert place.broker.trouble == ""
            await place.ctl("close_all_user_connections", user, "test")
            await until(lambda: not place.broker.consuming and "supervision failed" in place.broker.trouble)
            place.nodes = nodes
            await until(lambda: place.broker.consuming)
        assert place.broker.trouble == ""


async def test_a_supervision_that_is_ended_by_others_is_not_silent(node: Node) -> None:
    async with on(node) as place:
        await place.begin(await place.user())
        before = asyncio.all_tasks()
        (supervisor,) = (task for task in before if "_supervise" in repr(task.get_coro()))
        with capture_logs() as logs:
            supervisor.cancel()
            await until(lambda: not place.broker.consuming)
        assert "started anew" in place.broker.trouble
        assert place.changes == [True, False]
        assert [one["log_level"] for one in logs if one["event"] == "broker.supervision_ended"] == ["critical"]


async def test_an_orderly_end_is_no_trouble(node: Node) -> None:
    async with on(node) as place:
        await place.begin(await place.user())
        with capture_logs() as logs:
            await place.broker.stop_consuming()
            await place.broker.close()
        assert not told(logs, "broker.supervision_ended")
        assert place.broker.trouble == ""


async def test_changes_in_a_row_never_hold_more_than_two_prefetches(node: Node) -> None:
    """The second change waits until what the first one left behind is settled."""
    async with on(node) as place:
        first, second, third = await place.user(), await place.user(), await place.user()
        await place.begin(first, chance=0.0)
        await place.put(*(b"%d" % number for number in range(40)))
        held = list(await place.recorder.count(10))
        place.nodes = (place.at(second),)
        await place.recorder.count(20)

        place.nodes = (place.at(third),)
        await asyncio.sleep(3)  # it would have gone over after 1 to 1.5 s
        assert len(place.recorder.bodies) == 20
        assert third not in await place.users_connected()

        for delivery in held:
            await place.broker.ack(delivery)
        await place.recorder.count(30)
        await until_known(lambda: _is_gone(place, first))
        assert third in await place.users_connected()


async def test_a_lost_session_is_replaced_while_another_is_still_leaving(node: Node) -> None:
    async with on(node) as place:
        first, second, third = await place.user(), await place.user(), await place.user()
        await place.begin(first, chance=0.0)
        await place.put(b"held")
        (held,) = list(await place.recorder.count(1))
        place.nodes = (place.at(second),)
        await until(lambda: place.recorder.events.count("epoch") == 2, SOON)

        place.nodes = (place.at(third),)
        await place.ctl("delete_user", second)
        await place.ctl("close_all_user_connections", second, "revoked")
        await until(lambda: place.changes == [True, False, True])
        await place.broker.ack(held)
        await until_known(lambda: _is_gone(place, first))
        await place.broker.publish(outgoing(place.topology.dead_name))
        assert (await place.users_connected()).keys() == {third}


async def _is_gone(place: Place, user: str) -> bool:
    return user not in await place.users_connected()


class Gate(Wire):
    """Lets connections through once it is open."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.opened = asyncio.Event()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.opened.wait()
        await super()._forward(reader, writer)


async def test_a_publishing_connection_that_was_on_its_way_with_the_old_login_is_replaced(node: Node) -> None:
    async with on(node) as place, Gate(node.port) as gate:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        nodes = [address(gate.port, before)]
        publisher = Publisher(Access((), renewed=lambda: (nodes[-1],)))
        opening = asyncio.create_task(publisher.open())
        await asyncio.sleep(0.05)  # it has begun, and waits at the gate
        nodes.append(place.at(after))
        renewing = asyncio.create_task(publisher.renew())
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(opening, renewing)
        await publisher.publish(outgoing(place.topology.dead_name, b"copy"))
        await publisher.close()
        assert await _publishers_of(place) == [after]


async def test_a_publishing_connection_follows_when_the_other_was_lost_with_the_change(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "KNOWN_EVERYWHERE", 60.0)
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        place.nodes = (place.at(after),)
        lines = (await place.ctl("list_connections", "pid", "client_properties")).splitlines()
        (consuming,) = (line.split("\t")[0] for line in lines if '"worker consume"' in line)
        await place.ctl("close_connection", consuming, "test")
        await until(lambda: place.changes == [True, False, True])
        await until_known(lambda: _is_gone(place, before), 2 * SOON)
        await place.broker.publish(outgoing(place.topology.dead_name, b"copy"))
        assert await _publishers_of(place) == [after]


async def _publishers_of(place: Place) -> list[Any]:
    """As whom the letters in the dead queue were published."""
    async with outside(place.node.url) as other:
        return [one.properties.user_id for one in await other.messages(place.topology.dead_name)]  # type: ignore[union-attr]
