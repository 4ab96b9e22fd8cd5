"""Three nodes as one broker: a queue survives any one of them. About 30 s to start, 400 MB.

They share a cookie, and a port mapper of their own, so that the death of one node takes nothing from the others.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from worker.dev import owned
from worker.dev.node import Node, NodeUnavailable, ensure_rabbitmq
from worker.dev.ports import free_ports

NAMES: Final = ("first", "second", "third")
MAPPER_SECONDS: Final = 10.0
TRIES: Final = 3


class Member(Node):
    """A node that finds the others by the cluster's port mapper, not by its own."""

    def __init__(self, name: str, mapper: int, cookie: str) -> None:
        super().__init__(ensure_rabbitmq(progress=lambda _: None), name=name)
        self._epmd_port = mapper
        secret = self.directory / "home" / ".erlang.cookie"
        secret.write_text(cookie, encoding="ascii")
        secret.chmod(0o400)

    @property
    def epmd(self) -> Path:
        return self._installation.epmd


class Cluster:
    """`with Cluster() as cluster:` starts three nodes and joins them."""

    def __init__(self) -> None:
        (self._mapper_port,) = free_ports(1)
        cookie, tag = secrets.token_hex(16), secrets.token_hex(4)
        self.nodes = tuple(Member(f"{name}-{tag}", self._mapper_port, cookie) for name in NAMES)
        self._stack = ExitStack()

    @property
    def urls(self) -> str:
        """All of them, as a worker takes them."""
        return ",".join(node.url for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            self._start_mapper()
            for node in self.nodes:
                self._stack.callback(node.remove)
                self._stack.callback(node.stop)
            self.each(Node.start)
            first, *others = self.nodes
            for node in others:
                node.ctl("stop_app")
                node.ctl("reset")
                node.ctl("join_cluster", first.name)
                node.ctl("start_app")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def each(self, act: Callable[[Node], object]) -> None:
        """For all nodes at once."""
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(act, self.nodes))

    def leader(self, queue: str) -> Node:
        """Where the leader of a quorum queue is."""
        for node in self.nodes:
            if node.running:
                said = node.ctl("list_queues", "name", "pid")
                rows = dict(line.split("\t") for line in said.splitlines() if "\t" in line)
                return next(one for one in self.nodes if one.name in rows[queue])
        raise RuntimeError("no node runs")

    def in_order(self) -> None:
        """Every node runs, and sees the others."""
        for node in self.nodes:
            if not node.running:
                node.start()

    def _start_mapper(self) -> None:
        command = [str(self.nodes[0].epmd), "-port", str(self._mapper_port), "-address", "127.0.0.1"]
        process = subprocess.Popen(
            [sys.executable, "-I", owned.__file__, "1", *command],
            stdin=subprocess.PIPE,
            env=self.nodes[0]._environment(),
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        deadline = time.monotonic() + MAPPER_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._mapper_port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise NodeUnavailable("the cluster's port mapper does not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
