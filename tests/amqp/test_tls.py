"""TLS to the broker: whom the worker trusts, whom the broker lets in, and what is said when either refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.amqp.test_connecting import SECRET, at, failure, peer
from tests.amqp.tls import TlsBroker
from tests.conftest import do_without
from worker.amqp import connecting
from worker.amqp.connecting import Access, Node, Refused, Tls, Unreachable, open_connection
from worker.dev.node import NodeUnavailable


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    try:
        broker = TlsBroker(tmp_path_factory.mktemp("tls"))
    except NodeUnavailable as error:
        do_without(str(error))
    with broker:
        yield broker


@pytest.fixture(autouse=True)
def _silence_about_the_password(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    assert SECRET not in caplog.text


def way(tls: TlsBroker, files: Tls) -> Access:
    return Access((at(tls.port, password="guest", scheme="amqps"),), files)


async def let_in(tls: TlsBroker, files: Tls) -> None:
    connected = await open_connection(way(tls, files), "test")
    assert connected.server_version == tls.node.version
    await connected.close()


async def test_a_private_authority_that_is_trusted_and_a_certificate_that_is_wanted(tls: TlsBroker) -> None:
    await let_in(tls, tls.tls)


async def test_a_private_authority_that_is_not_trusted(tls: TlsBroker) -> None:
    error = await failure(way(tls, Tls()))

    assert isinstance(error, Refused)
    assert "not trusted" in str(error)
    assert "WORKER_AMQP_CA" in str(error)


async def test_a_certificate_for_another_name(tls: TlsBroker) -> None:
    url = f"amqps://guest:{SECRET}@localhost:{tls.port}/"
    error = await failure(Access((Node(url, f"amqps://guest@localhost:{tls.port}", "guest"),), tls.tls))

    assert isinstance(error, Refused)
    assert "host name" in str(error)
    assert "localhost" in str(error)


async def test_a_certificate_that_has_expired(tls: TlsBroker) -> None:
    tls.serve(tls.ca, expired=True)
    try:
        error = await failure(way(tls, tls.tls))
    finally:
        tls.serve(tls.ca)

    assert isinstance(error, Refused)
    assert "expired" in str(error)
    await let_in(tls, tls.tls)


@pytest.mark.parametrize("whose", ["nobody's", "a stranger's", "an expired one"])
async def test_a_certificate_of_ours_that_the_broker_does_not_take(tls: TlsBroker, tmp_path: Path, whose: str) -> None:
    files = {
        "nobody's": lambda: Tls(str(tls.ca_file)),
        "a stranger's": lambda: tls.client(tmp_path, trustme.CA()),
        "an expired one": lambda: tls.client(tmp_path, tls.ca, expired=True),
    }[whose]()

    error = await failure(way(tls, files))

    assert isinstance(error, Refused)
    assert "WORKER_AMQP_CERT" in str(error)
    assert "WORKER_AMQP_KEY" in str(error)


async def test_no_tls_to_a_tls_port(tls: TlsBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 2.0)
    error = await failure(Access((at(tls.port, password="guest"),)))

    assert isinstance(error, Unreachable)
    assert str(tls.port) in str(error)


async def test_a_peer_that_hangs_up_during_the_handshake_may_be_back(tls: TlsBroker) -> None:
    async with peer(b"") as port:
        error = await failure(Access((at(port, scheme="amqps"),), Tls(str(tls.ca_file))))

    assert isinstance(error, Unreachable)


async def test_files_with_new_content_count_from_the_next_connection_on(tls: TlsBroker, tmp_path: Path) -> None:
    files = tls.client(tmp_path, trustme.CA())
    access = way(tls, files)
    before = access.mark()
    assert isinstance(await failure(access), Refused)

    tls.client(tmp_path, tls.ca)

    assert access.mark() != before
    await let_in(tls, files)
    assert access.mark() == access.mark()


async def test_a_certificate_without_its_key_is_refused_until_both_are_there(tls: TlsBroker, tmp_path: Path) -> None:
    files = tls.client(tmp_path, tls.ca)
    half = Tls(files.ca, files.cert, tls.tls.key)  # as when one of two files has been renewed

    error = await failure(way(tls, half))

    assert isinstance(error, Refused)
    assert "_KEY" in str(error)
    await let_in(tls, files)
