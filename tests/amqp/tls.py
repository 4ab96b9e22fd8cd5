"""A private node that speaks TLS with a certificate of its own authority, and wants one from its clients."""

from __future__ import annotations

import datetime as dt
import socket
import time
from pathlib import Path
from typing import Self

import trustme

from tests.conftest import installation
from worker.amqp.connecting import Tls
from worker.dev.node import Node
from worker.dev.ports import free_ports

NAME = "127.0.0.1"
LISTENS = 10.0


class TlsBroker:
    """The node, its authority's file, and a client's certificate. Raises NodeUnavailable. To be entered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        clients = folder / "clients-ca.pem"  # another file than the workers have, who may come to trust another
        for file in (self.ca_file, clients):
            self.ca.cert_pem.write_to_path(file)
        self._write(self.ca, NAME, "server")
        self.client(folder, self.ca)
        (self.port,) = free_ports(1)
        self.node = Node(
            installation(),
            name="tls",
            directory=folder,  # where a node that runs in a chroot, or as another user, can read the files
            conf=[
                f"listeners.ssl.1 = 127.0.0.1:{self.port}",
                f"ssl_options.cacertfile = {clients}",
                f"ssl_options.certfile = {folder / 'server.pem'}",
                f"ssl_options.keyfile = {folder / 'server-key.pem'}",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
            ],
        )

    def __enter__(self) -> Self:
        self.node.__enter__()
        deadline = time.monotonic() + LISTENS
        while not self._listens():  # it is ready when its first listener is, and this is another one
            assert time.monotonic() < deadline, "no listener for TLS"
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.node.__exit__(None, None, None)

    @property
    def url(self) -> str:
        return f"amqps://guest:guest@{NAME}:{self.port}/"

    @property
    def tls(self) -> Tls:
        """What a client needs that is let in."""
        return Tls(str(self.ca_file), str(self.folder / "client.pem"), str(self.folder / "client-key.pem"))

    def client(self, folder: Path, ca: trustme.CA, *, expired: bool = False) -> Tls:
        """A client's certificate, written into this folder over the one that may be there."""
        self._write(ca, "client@example.com", "client", folder=folder, expired=expired)
        return Tls(str(self.ca_file), str(folder / "client.pem"), str(folder / "client-key.pem"))

    def serve(self, ca: trustme.CA, *, expired: bool = False) -> None:
        """Give the node another certificate; it shows that from its next handshake on."""
        self._write(ca, NAME, "server", expired=expired)
        self.node.ctl("eval", "ssl:clear_pem_cache().")

    def trust_another(self) -> None:
        """Give the node a certificate of another authority, and have clients trust only that; they keep their own."""
        another = trustme.CA()
        self.serve(another)
        another.cert_pem.write_to_path(self.ca_file)

    def _write(
        self, ca: trustme.CA, name: str, purpose: str, *, folder: Path | None = None, expired: bool = False
    ) -> None:
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        issued = ca.issue_cert(name, not_after=yesterday) if expired else ca.issue_cert(name)
        to = folder or self.folder
        issued.private_key_pem.write_to_path(to / f"{purpose}-key.pem")
        issued.cert_chain_pems[0].write_to_path(to / f"{purpose}.pem")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((NAME, self.port)) == 0
