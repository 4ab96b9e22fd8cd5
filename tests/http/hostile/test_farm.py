"""The farm leaves nothing behind: a socket it forgot would be a warning in whichever test the collector runs in."""

from __future__ import annotations

import gc
import socket
import ssl
import warnings
from collections.abc import Callable

import pytest

from tests.http.hostile.behaviour import GOOD, says
from tests.http.hostile.corpus import Certificates
from tests.http.hostile.farm import Farm

TIMES = 20
"""How far the farm has got with a connection when it is closed differs from time to time."""


def is_there(client: socket.socket) -> None:
    """Connected, and no more."""


def is_gone(client: socket.socket) -> None:
    client.close()


def has_asked(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")


def is_in_the_handshake(client: socket.socket, trusting: ssl.SSLContext) -> None:
    """It has the server's half of it, and never says its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    client.sendall(outgoing.read())
    assert client.recv(1)


def is_through_the_handshake(client: socket.socket, trusting: ssl.SSLContext) -> None:
    """It has its answer, and the close_notify behind it, to which it never says its own."""
    with client.dup() as other:
        other.settimeout(5)
        tls = trusting.wrap_socket(other, server_hostname="localhost", do_handshake_on_connect=True)
        with tls:
            tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert tls.recv(1)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.mark.parametrize("does", [is_there, is_gone, has_asked], ids=lambda one: one.__name__)
def test_nothing_is_left_open(does: Callable[[socket.socket], None]) -> None:
    assert left_open(does) == []


@pytest.mark.parametrize("does", [is_there, is_gone], ids=lambda one: one.__name__)
def test_nothing_of_a_connection_before_its_handshake(
    certificates: Certificates, does: Callable[[socket.socket], None]
) -> None:
    assert left_open(does, certificates.shown("good")) == []


@pytest.mark.parametrize("does", [is_in_the_handshake, is_through_the_handshake], ids=lambda one: one.__name__)
def test_nothing_of_a_connection_with_tls(
    certificates: Certificates, does: Callable[[socket.socket, ssl.SSLContext], None]
) -> None:
    trusting = certificates.trusting()
    assert left_open(lambda client: does(client, trusting), certificates.shown("good")) == []


def left_open(does: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> list[str]:
    """What the collector finds when farms were closed while a client was as far as `does`."""
    gc.collect()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(TIMES):
            with Farm() as farm:
                port, _ledger = farm.open(says(GOOD), tls)
                client = socket.create_connection(("127.0.0.1", port))
                does(client)
            client.close()
        gc.collect()
    return [str(one.message) for one in warned]
