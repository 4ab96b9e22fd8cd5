"""Every reason for which there is no connection, each with the words an operator needs, and never a password."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.amqp.contract import outside, until
from tests.amqp.wire import Wire
from worker.amqp import connecting
from worker.amqp.broker import RabbitBroker
from worker.amqp.connecting import Access, Connected, Node, Refused, Tls, Unreachable, open_connection
from worker.core.topology import Topology
from worker.dev import node as private
from worker.dev.ports import free_ports

SECRET: Final = "open-sesame-1234"
"""A password; it appears in nothing that is said."""


class Located(Protocol):
    @property
    def url(self) -> str: ...


def at(port: int, *, user: str = "guest", password: str = SECRET, vhost: str = "/", scheme: str = "amqp") -> Node:
    path = "" if vhost == "/" else vhost
    host = f"127.0.0.1:{port}"
    return Node(f"{scheme}://{user}:{password}@{host}/{path}", f"{scheme}://{user}@{host}/{path}", user)


def port_of(broker: Located) -> int:
    return int(broker.url.rstrip("/").rpartition(":")[2])


async def failure(access: Access) -> Unreachable | Refused:
    """Why this access gives no connection."""
    try:
        connected = await open_connection(access, "test")
    except (Unreachable, Refused) as error:
        return error
    await connected.close()
    raise AssertionError("it connected")


@pytest.fixture(autouse=True)
def _silence_about_the_password(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    assert SECRET not in caplog.text


@contextlib.asynccontextmanager
async def peer(answer: bytes | None) -> AsyncIterator[int]:
    """The port of something that is no broker: it says this to whoever speaks to it and hangs up, or nothing at all."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(8)
            if answer is None:
                await gone.wait()
            else:
                writer.write(answer)
            writer.close()
            await writer.wait_closed()

    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda reader, writer: tasks.add(asyncio.create_task(serve(reader, writer))), "127.0.0.1", 0
    )
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        gone.set()
        server.close()
        await asyncio.gather(*tasks)


async def test_a_wrong_password(rabbitmq: Located) -> None:
    error = await failure(Access((at(port_of(rabbitmq)),)))

    assert isinstance(error, Refused)
    assert "'guest'" in str(error)
    assert "WORKER_AMQP_URL" in str(error)
    assert SECRET not in f"{error} {error!r}"


async def test_a_vhost_that_does_not_exist(rabbitmq: Located) -> None:
    error = await failure(Access((at(port_of(rabbitmq), password="guest", vhost="nowhere"),)))

    assert isinstance(error, Refused)
    assert "vhost" in str(error)


async def test_a_vhost_the_user_may_not_use(node: private.Node) -> None:
    await asyncio.to_thread(node.ctl, "add_user", "stranger", SECRET)
    try:
        error = await failure(Access((at(node.port, user="stranger"),)))
    finally:
        await asyncio.to_thread(node.ctl, "delete_user", "stranger")

    assert isinstance(error, Refused)
    assert "'stranger'" in str(error)
    assert "vhost" in str(error)
    assert SECRET not in f"{error} {error!r}"


async def test_a_port_where_nobody_listens() -> None:
    (port,) = free_ports(1)
    error = await failure(Access((at(port),)))

    assert isinstance(error, Unreachable)
    assert f"127.0.0.1:{port}" in str(error)
    assert "onnect" in str(error)
    assert SECRET not in f"{error} {error!r}"


async def test_a_peer_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 0.3)
    async with peer(None) as port:
        error = await failure(Access((at(port),)))

    assert isinstance(error, Unreachable)
    assert "no answer within 0.3 s" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"AMQP\x00\x00\x09\x00",
        b"AMQP\x03\x01\x00\x00",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0b\xce",
        b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\xce",
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
        b"\xff" * 64,
        bytes(64),
    ],
    ids=[
        "nothing",
        "HTTP",
        "SSH",
        "AMQP 0-9",
        "AMQP 1.0",
        "TLS alert",
        "Start-Ok",
        "half a Start",
        "heartbeat",
        "ff",
        "00",
    ],
)
async def test_a_peer_that_is_no_broker(answer: bytes) -> None:
    async with peer(answer) as port:
        error = await failure(Access((at(port),)))

    assert isinstance(error, Unreachable)
    assert "does not speak AMQP 0-9-1" in str(error)


async def test_tls_to_a_plain_port(rabbitmq: Located) -> None:
    error = await failure(Access((at(port_of(rabbitmq), password="guest", scheme="amqps"),)))

    assert isinstance(error, Refused)
    assert "TLS" in str(error)
    assert "scheme and port" in str(error)


@pytest.mark.parametrize("files", [Tls(ca="missing.pem"), Tls(cert="missing.pem")])
async def test_tls_files_that_cannot_be_read(files: Tls) -> None:
    error = await failure(Access((at(1, scheme="amqps"),), files))

    assert isinstance(error, Refused)
    assert "WORKER_AMQP_CA" in str(error)


async def test_a_tls_file_that_is_none(tmp_path: Path) -> None:
    garbage = tmp_path / "ca.pem"
    garbage.write_text("no certificate")

    error = await failure(Access((at(1, scheme="amqps"),), Tls(ca=str(garbage))))

    assert isinstance(error, Refused)
    assert Tls().context().verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("in_one", [False, True])
async def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path, in_one: bool) -> None:
    issued = trustme.CA().issue_cert("localhost")
    plain = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = plain.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(issued.cert_chain_pems[0].bytes() + (locked if in_one else b""))
    key.write_bytes(locked)
    files = Tls(cert=str(cert), key=None if in_one else str(key))
    error = await failure(Access((at(1, scheme="amqps"),), files))

    assert isinstance(error, Refused)
    assert f"{cert if in_one else key} is encrypted" in str(error)
    assert ("WORKER_AMQP_CERT" if in_one else "WORKER_AMQP_KEY") in str(error)


ODD = {
    "a host that is no name": Node(f"amqp://guest:{SECRET}@xn--a:1/", "amqp://guest@odd/", "guest"),
    "a vhost that is too long": Node(f"amqp://guest:guest@127.0.0.1:1/{'v' * 300}", "amqp://guest@odd/", "guest"),
}


@pytest.mark.parametrize("what", ODD)
async def test_what_cannot_even_be_said_is_refused(rabbitmq: Located, what: str) -> None:
    node = ODD[what]
    error = await failure(Access((replace(node, url=node.url.replace(":1/", f":{port_of(rabbitmq)}/")),)))

    assert isinstance(error, Refused)
    assert "odd" in str(error)
    assert "WORKER_AMQP_URL" in str(error)
    assert SECRET not in f"{error} {error!r}"


async def test_nodes_are_tried_in_turn(rabbitmq: Located) -> None:
    (nobody,) = free_ports(1)
    good = at(port_of(rabbitmq), password="guest")
    for bad in (at(nobody), at(port_of(rabbitmq))):
        connected: Connected = await open_connection(Access((bad, good)), "test")
        assert connected.node is good
        await connected.close()


async def test_every_node_is_named_with_its_reason(rabbitmq: Located) -> None:
    first, second = free_ports(2)
    error = await failure(Access((at(first), at(second))))
    assert isinstance(error, Unreachable)
    assert f":{first}/:" in str(error)
    assert f":{second}/:" in str(error)

    error = await failure(Access((at(first), at(port_of(rabbitmq)))))
    assert isinstance(error, Refused)  # whoever answers knows better


async def test_passwords_are_in_no_representation() -> None:
    access = Access((at(5672),))

    assert SECRET not in repr(access) + str(access.nodes[0])
    assert access.nodes[0].url.count(SECRET) == 1


async def test_the_connections_carry_a_name_and_beat(rabbitmq: Located) -> None:
    connected = await open_connection(Access((at(port_of(rabbitmq), password="guest"),), name="shop 1"), "consume")

    assert connected.amqp.connection_tune.heartbeat == connecting.HEARTBEAT
    assert connected.amqp.url.query["name"] == "shop 1 consume"
    assert connected.frame_max == 131_072
    await connected.close()
    await connected.close()


async def test_patience_at_the_start(rabbitmq: Located) -> None:
    async with outside(rabbitmq.url) as other, Wire("127.0.0.1", port_of(rabbitmq)) as wire:
        broker = RabbitBroker(Access((at(wire.port, password="guest"),)), Topology("unused"), "none")
        wire.refusing = True
        connecting_now = asyncio.create_task(broker.connect(30))
        await until(lambda: wire.seen >= 2)
        assert not connecting_now.done()
        wire.refusing = False

        assert await connecting_now == 131_072 - 8 * 1024
        assert broker.node == f"amqp://guest@127.0.0.1:{wire.port}/"
        assert not await other.exists("unused")
        await broker.close()


async def test_patience_ends(rabbitmq: Located) -> None:
    began = time.monotonic()
    (nobody,) = free_ports(1)
    with pytest.raises(Unreachable):
        await RabbitBroker(Access((at(nobody),)), Topology("unused")).connect(0.5)
    assert time.monotonic() - began < 3

    with pytest.raises(Refused):
        await RabbitBroker(Access((at(port_of(rabbitmq)),)), Topology("unused")).connect(30)
    assert time.monotonic() - began < 6
