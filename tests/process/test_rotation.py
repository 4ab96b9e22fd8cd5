"""What an operator changes while the service runs: the broker's password, its user, the admin token."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.kit import Worker, Yard, eventually
from worker.dev.node import Node
from worker.dev.ports import free_ports
from worker.dev.target import Target

SOON = 5.0
PASSWORDS = ("first-password-of-a-test", "second-password-of-a-test")


class ByFile(Yard):
    """Its workers know the broker from a file only."""

    def environment(self, **settings: str) -> dict[str, str]:
        found = super().environment(amqp_url_file=str(self.directory / "amqp-url"), **settings)
        del found["WORKER_AMQP_URL"]
        return found


class Account:
    """A user of the node, and the file that tells the worker of it."""

    def __init__(self, yard: Yard, node: Node) -> None:
        self._node = node
        self.name = f"user-{uuid.uuid4().hex[:8]}"
        node.ctl("add_user", self.name, PASSWORDS[0])
        node.ctl("set_permissions", self.name, ".*", ".*", ".*")
        self.file = yard.write("amqp-url", self.url(PASSWORDS[0]))

    def url(self, password: str) -> str:
        return f"amqp://{self.name}:{password}@127.0.0.1:{self._node.port}/"

    def revoke(self) -> None:
        self._node.ctl("change_password", self.name, PASSWORDS[1])
        self._node.ctl("close_all_user_connections", self.name, "revoked")

    def delete(self) -> None:
        self._node.ctl("delete_user", self.name)


@pytest.fixture
def faulty(node: Node, tmp_path: Path) -> Iterator[Yard]:
    with ByFile(node.url, tmp_path) as found:
        yield found


@pytest.fixture
def account(faulty: Yard, node: Node) -> Iterator[Account]:
    found = Account(faulty, node)
    yield found
    found.delete()


def readiness(worker: Worker) -> dict[str, object]:
    found: dict[str, object] = json.loads(worker.ask("/ready")[1])
    return found


def test_a_revoked_password_is_told_and_the_new_one_in_the_file_ends_it(
    faulty: Yard, account: Account, target: Target
) -> None:
    worker = faulty.start(replicas="2")
    faulty.http_jobs(f"{target.url}/ok", 5)
    eventually(lambda: len(target.ledger()) == 5, "the jobs are done")

    account.revoke()

    eventually(lambda: not worker.ready(), "it is not ready")
    eventually(lambda: "WORKER_AMQP_URL" in str(readiness(worker).get("trouble")), "/ready says why", SOON)
    assert account.name in str(readiness(worker)["trouble"])
    account.file.write_text(account.url(PASSWORDS[1]) + "\n")
    since = time.monotonic()
    worker.until_ready()
    assert time.monotonic() - since < SOON
    assert "trouble" not in readiness(worker)

    faulty.http_jobs(f"{target.url}/ok", 5)
    eventually(lambda: len(target.ledger()) == 10, "the jobs are done")
    refusals = [line for line in worker.lines("broker.unreachable") if line["level"] == "error"]
    assert len(refusals) <= 2  # each process once
    assert worker.drain() == 0
    assert not any(password in worker.said() for password in PASSWORDS)


def test_a_process_that_starts_after_a_rotation_uses_what_the_file_says_now(
    faulty: Yard, account: Account, node: Node
) -> None:
    """The parent's order to it still has the old password."""
    worker = faulty.start()
    node.ctl("change_password", account.name, PASSWORDS[1])
    account.file.write_text(account.url(PASSWORDS[1]))
    eventually(lambda: worker.lines("broker.rotated"), "it has gone over", SOON)

    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)

    eventually(lambda: worker.lines("replica.died"), "it died")
    eventually(lambda: worker.children() not in ([], [child]), "there is another")
    worker.until_ready()
    assert worker.lines("replica.cannot_start") == []


def test_an_admin_token_that_rotates(yard: Yard) -> None:
    file = yard.write("token", "first-token-0123456789\n")
    (port,) = free_ports(1)
    yard.launch(admin=f"0.0.0.0:{port}", admin_token_file=str(file))

    def status(token: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/jobs", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    eventually(lambda: status("first-token-0123456789") == 200, "the first token is taken")
    assert status("second-token-0123456789") == 401

    file.write_text("short")  # refused, and the last good one goes on
    eventually(lambda: yard.workers[0].lines("secret.not_reloaded") or status("first-token-0123456789") != 200, "it is")
    assert status("first-token-0123456789") == 200
    file.write_text("second-token-0123456789")
    eventually(lambda: status("second-token-0123456789") == 200, "the second token is taken", SOON)
    assert status("first-token-0123456789") == 401
