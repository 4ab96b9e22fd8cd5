"""The way to the broker changes while jobs are under way: nothing is lost, nothing comes twice, nobody storms."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from tests.amqp.contract import Leftovers, Recorder, outgoing, outside, until, until_known
from worker.amqp.broker import RabbitBroker
from worker.amqp.connecting import Access, Refused, Unreachable
from worker.amqp.connecting import Node as Address
from worker.amqp.rotation import Pauses, TrustedUsers, change_or_pause
from worker.core.broker import EpochLost, Lane
from worker.core.topology import Topology
from worker.dev.node import Node

log = logging.getLogger("figures")
"""Shown by `-o log_cli=true --log-cli-level=INFO`."""

SOON = 5.0
"""Seconds within which the worker is where the file says."""

LEFTOVERS = Leftovers()


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    LEFTOVERS.delete()


def address(port: int, user: str, password: str = "secret-of-a-test") -> Address:
    shown = f"127.0.0.1:{port}"
    return Address(f"amqp://{user}:{password}@{shown}/", f"amqp://{shown}/", user)


@dataclass
class Place:
    """A node whose users come and go, a broker that follows `nodes`, and who is told what it delivers."""

    node: Node
    nodes: tuple[Address, ...] = ()
    made: list[str] = field(default_factory=list)
    """Users, to be deleted."""
    recorder: Recorder = field(default_factory=Recorder)
    changes: list[bool] = field(default_factory=list)
    topology: Topology = field(default_factory=lambda: Topology(f"rotation-{uuid.uuid4().hex}"))
    access: Access = field(init=False)
    broker: RabbitBroker = field(init=False)

    async def begin(self, user: str, chance: float = 0.5) -> None:
        self.nodes = (self.at(user),)
        self.access = Access(self.nodes, renewed=lambda: self.nodes)
        self.broker = RabbitBroker(self.access, self.topology, on_change=self.changes.append, chance=lambda: chance)
        await self.broker.connect(10)
        await self.broker.consume([Lane(self.topology.name, 10, self.recorder)])

    def at(self, user: str, password: str = "secret-of-a-test") -> Address:
        return address(self.node.port, user, password)

    async def ctl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.node.ctl, *arguments)

    async def user(self, password: str = "secret-of-a-test") -> str:
        name = f"user-{uuid.uuid4().hex[:8]}"
        self.made.append(name)
        await self.ctl("add_user", name, password)
        await self.ctl("set_permissions", name, ".*", ".*", ".*")
        return name

    async def put(self, *bodies: bytes) -> None:
        async with outside(self.node.url) as other:
            await other.put_many(self.topology.name, list(bodies))

    async def users_connected(self) -> dict[str, int]:
        """How many connections each of our users has."""
        lines = (await self.ctl("list_connections", "user")).splitlines()
        return {user: lines.count(user) for user in self.made if user in lines}

    def refusals(self, user: str, since: int) -> int:
        """Logins as this user that the node has refused since its log had so many lines."""
        lines = self.node.log(lines=1_000_000).splitlines()[since:]
        return sum(re.search(rf"refused: user '{user}'", line) is not None for line in lines)

    def log_length(self) -> int:
        return len(self.node.log(lines=1_000_000).splitlines())


@contextlib.asynccontextmanager
async def on(node: Node) -> AsyncIterator[Place]:
    place = Place(node)
    LEFTOVERS.add(node.url, place.topology)
    try:
        yield place
    finally:
        await place.broker.close()
        for user in place.made:
            with contextlib.suppress(Exception):
                await place.ctl("delete_user", user)


async def test_it_goes_over_by_itself_and_settles_what_it_has_where_it_came_from(node: Node) -> None:
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        await place.put(b"0", b"1", b"2")
        held = list(await place.recorder.count(3))

        place.nodes = (place.at(after),)
        await until(lambda: place.recorder.events.count("epoch") == 2, SOON)
        await place.put(b"3")
        (*_, new) = await place.recorder.count(4)
        assert new.epoch is not held[0].epoch
        await place.broker.publish(outgoing(place.topology.dead_name, b"copy"))
        assert (await place.users_connected())[before] >= 1  # what runs is settled there

        for delivery in [*held, new]:
            await place.broker.ack(delivery)
        await until_known(lambda: _is_alone(place, after))

        assert place.recorder.events == ["epoch", "delivery", "delivery", "delivery", "epoch", "delivery"]
        assert place.changes == [True]
        async with outside(node.url) as other:
            assert await other.count(place.topology.name) == 0
            (copy,) = await other.messages(place.topology.dead_name)
            assert copy.properties.user_id == after  # type: ignore[union-attr] # it can be read: it is ours


async def test_it_goes_over_while_paused_and_waits_there(node: Node) -> None:
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        await place.put(b"0")
        (held,) = await place.recorder.count(1)
        await place.broker.pause()
        await place.put(b"1")

        place.nodes = (place.at(after),)
        await until_known(lambda: _has_come(place, after), SOON)
        await place.broker.ack(held)
        await until_known(lambda: _is_alone(place, after))
        assert place.recorder.events == ["epoch", "delivery"]
        assert place.broker.consuming

        await place.broker.resume()
        new = (await place.recorder.count(2))[1]
        assert (new.message.body, new.redelivered) == (b"1", False)
        assert place.recorder.events == ["epoch", "delivery", "epoch", "delivery"]
        await place.broker.ack(new)


async def _has_come(place: Place, user: str) -> bool:
    return user in await place.users_connected()


async def _is_alone(place: Place, user: str) -> bool:
    return await place.users_connected() == {user: 2}


async def test_a_refused_login_keeps_what_is_open_and_is_said_once(node: Node) -> None:
    async with on(node) as place:
        user = await place.user()
        await place.begin(user)
        since = place.log_length()
        with capture_logs() as logs:
            began = time.monotonic()
            place.nodes = (place.at(user, "not-yet-known"),)
            await until(lambda: place.refusals(user, since) >= 3)
            rate = place.refusals(user, since) / (time.monotonic() - began)
            await place.put(b"meanwhile")
            (delivery,) = await place.recorder.count(1)
            await place.broker.ack(delivery)
            told = [one for one in logs if one["event"] == "broker.rotation_refused" and one["log_level"] != "debug"]
            assert len(told) == 1
            assert "WORKER_AMQP_URL" in told[0]["reason"]
            assert "not-yet-known" not in str(told)
            assert rate <= 1

            await place.ctl("change_password", user, "not-yet-known")
            changed = time.monotonic()
            await until(lambda: "broker.rotated" in [one["event"] for one in logs], 10)
        log.info("refused logins: %.2f/s; over %.1f s after the broker knew", rate, time.monotonic() - changed)
        assert place.recorder.events == ["epoch", "delivery", "epoch"]


async def test_an_old_connection_that_is_cut_while_it_is_left(node: Node) -> None:
    """Its deliveries come back on the new one, and the receiver is told that it is that which delivers."""
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        await place.put(b"held")
        (held,) = list(await place.recorder.count(1))
        place.nodes = (place.at(after),)
        await until(lambda: place.recorder.events.count("epoch") == 2, SOON)

        await place.ctl("delete_user", before)
        await place.ctl("close_all_user_connections", before, "revoked")

        again = (await place.recorder.count(2))[1]
        await until(lambda: place.recorder.events.count("epoch") == 3)
        assert again.redelivered
        assert held.epoch.lost
        assert not again.epoch.lost
        assert place.recorder.news[-1] == ("epoch", again.epoch) or place.recorder.events[-1] == "delivery"
        assert place.broker.consuming
        with pytest.raises(EpochLost):
            await place.broker.ack(held)
        await place.broker.ack(again)


async def test_a_revoked_user_tries_gently_says_why_once_and_is_back_soon(node: Node) -> None:
    async with on(node) as place:
        user, next_user = await place.user(), await place.user()
        await place.begin(user)
        publishing: list[asyncio.Task[None]] = []
        with capture_logs() as logs:
            await place.ctl("change_password", user, "revoked-and-not-told")
            since, began = place.log_length(), time.monotonic()
            await place.ctl("close_all_user_connections", user, "revoked")
            await until(lambda: place.changes == [True, False])
            # As the settler does with many jobs: each asks for the connection again and again.
            publishing = [asyncio.create_task(_until_confirmed(place, number)) for number in range(20)]
            await until(lambda: place.refusals(user, since) >= 10, 60)
            rate = place.refusals(user, since) / (time.monotonic() - began)

            assert not place.broker.consuming
            assert repr(user) in place.broker.trouble
            told = [one for one in logs if one["event"] == "broker.unreachable" and one["log_level"] != "debug"]
            assert len(told) == 1
            assert "WORKER_AMQP_URL" in told[0]["reason"]

            place.nodes = (place.at(next_user),)
            changed = time.monotonic()
            await until(lambda: place.broker.consuming, SOON)
            consuming = time.monotonic() - changed
            await asyncio.gather(*publishing)
            log.info("refused logins: %.2f/s on two connections; back after %.2f s", rate, consuming)
            assert place.broker.trouble == ""
        assert rate <= 2 + 2 / 30  # one a second on each connection, and the first ones at once


async def _until_confirmed(place: Place, number: int) -> None:
    async def confirmed() -> bool:
        with contextlib.suppress(Exception):
            await place.broker.publish(outgoing(place.topology.dead_name, b"%d" % number))
            return True
        return False

    await until_known(confirmed, 60)


async def test_files_that_change_back_are_no_change(node: Node) -> None:
    async with on(node) as place:
        user = await place.user()
        await place.begin(user, chance=1.0)
        since = place.log_length()
        place.nodes = (place.at("nobody"),)
        await asyncio.sleep(1.3)  # noticed, and not yet acted upon
        place.nodes = (place.at(user),)
        await asyncio.sleep(2)
        assert place.refusals("nobody", since) == 0
        assert place.recorder.events == ["epoch"]


async def test_a_drain_in_the_midst_settles_on_both(node: Node) -> None:
    async with on(node) as place:
        before, after = await place.user(), await place.user()
        await place.begin(before)
        await place.put(b"old")
        (old,) = list(await place.recorder.count(1))
        place.nodes = (place.at(after),)
        await until(lambda: place.recorder.events.count("epoch") == 2, SOON)
        await place.put(b"new")
        (_, new) = list(await place.recorder.count(2))

        await place.broker.stop_consuming()
        await place.put(b"later")
        await place.broker.ack(old)
        await place.broker.ack(new)
        await place.broker.flush(new.epoch)
        await asyncio.sleep(0.3)  # until a quorum queue has really taken them
        await place.broker.close()

        assert place.recorder.bodies == [b"old", b"new"]
        async with outside(node.url) as other:
            assert [one.body for one in await other.messages(place.topology.name)] == [b"later"]


async def test_whoever_we_were_is_believed_and_a_new_user_is_looked_up() -> None:
    users = ["first"]
    access = Access((address(1, "first"),), renewed=lambda: (address(1, users[-1]),))
    trusted = TrustedUsers(frozenset({"gateway"}), access)

    assert "first" in trusted
    assert "gateway" in trusted
    assert "second" not in trusted
    assert None not in trusted
    users.append("second")
    assert "second" in trusted
    users.append("third")
    access.current()
    assert all(user in trusted for user in ["first", "second", "third", "gateway"])
    assert "stranger" not in trusted


async def test_a_pause_ends_with_a_change() -> None:
    users = ["first"]
    access = Access((), renewed=lambda: (address(1, users[-1]),))
    tried = access.mark()
    began = time.monotonic()
    assert not await change_or_pause(access, tried, 0.01)
    users.append("second")
    assert await change_or_pause(access, tried, 60)
    assert not await change_or_pause(access, None, 0.01)
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize(
    ("chance", "pauses"),
    [(lambda: 1.0, [0.2, 0.4, 0.8, 1.0, 1.0]), (lambda: 0.5, [0.1, 0.2, 0.4, 0.5, 0.5]), (lambda: 0.0, [0.0] * 5)],
)
def test_pauses_double_up_to_the_longest(chance: Callable[[], float], pauses: list[float]) -> None:
    found = Pauses(0.2, 1.0, chance)  # without a refusal
    assert [found.after(Unreachable()) for _ in pauses] == pytest.approx(pauses)
    found.reset()
    assert found.after(None) == pytest.approx(pauses[0])
    refused = Pauses(0.2, 4.0, chance)
    assert [round(refused.after(Refused()), 1) for _ in range(6)][::5] == [1 + pauses[0], 1 + 3 * chance()]
