"""Row 32: the worker's password, its user and its certificate change while jobs run. No restart, gap at most 5 s."""

from __future__ import annotations

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.amqp.tls import TlsBroker
from tests.conftest import do_without
from tests.faults.publisher import Order
from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually
from worker.dev.node import Node, NodeUnavailable
from worker.dev.target import Target

SOON = 5.0
"""Seconds from the change of a file until the worker has gone over; and the longest gap in its work."""

RATE = 40.0
PASSWORDS = ("first-password-of-a-trial", "second-password-of-a-trial")


class Account:
    """A user of the trial's node, and the file by which workers know it."""

    def __init__(self, trial: Trial) -> None:
        self._node = trial.node
        self.file = trial.directory / "amqp-url"
        self.made: list[str] = []

    def user(self, password: str = PASSWORDS[0]) -> str:
        name = f"user-{uuid.uuid4().hex[:8]}"
        self._node.ctl("add_user", name, password)
        self._node.ctl("set_permissions", name, ".*", ".*", ".*")
        self.made.append(name)
        return name

    def write(self, user: str, password: str = PASSWORDS[0]) -> None:
        self.file.write_text(f"amqp://{user}:{password}@127.0.0.1:{self._node.port}/\n")

    def refusals(self, user: str) -> int:
        """Logins as this user that the node has refused so far."""
        return self._node.log(lines=1_000_000).count(f"refused: user '{user}'")

    def end(self) -> None:
        for name in self.made:
            self._node.ctl("delete_user", name)

    def worker(self, trial: Trial, **settings: str) -> Worker:
        """One that knows the broker from the file."""
        before = ["env", "-u", "WORKER_AMQP_URL", f"WORKER_AMQP_URL_FILE={self.file}"]
        return trial.launch_limited(before, **settings).until_ready()


@pytest.fixture
def account(trial: Trial) -> Iterator[Account]:
    found = Account(trial)
    yield found
    found.end()


def gap(trial: Trial) -> float:
    """The longest time in which no request began, while jobs were published."""
    began = sorted(one.started for one in trial.target.ledger())
    return max(after - before for before, after in itertools.pairwise(began))


def rotated(*workers: Worker, processes: int, times: int = 1) -> None:
    """Return once every process has gone over."""
    for worker in workers:
        wanted = processes * times
        eventually(lambda: len(worker.lines("broker.rotated")) >= wanted, "all have gone over", SOON)  # noqa: B023


def believed(*workers: Worker) -> None:
    """No copy has lost its job's id or its attempts, which is what becomes of one whose user is not believed."""
    lines = [line for worker in workers for line in worker.lines("job.finished")]
    assert [line["id"] for line in lines if not line["id"].startswith("job-")] == []
    attempts = Counter((line["id"], line["attempt"]) for line in lines)
    assert max(attempts.values()) == 1
    assert {attempt for _, attempt in attempts} == {1, 2}


def parked(trial: Trial, count: int) -> list[Order]:
    """Jobs of which every fifth fails once and is in the ladder then: not enough of them to open the breaker."""
    paths = itertools.cycle(["/flaky/1/503/{}?ms=300&job={}", *["/ok?ms=300&job={}"] * 4])
    return [trial.job(path, more={"retry": {"attempts": 1}}) for path in itertools.islice(paths, count)]


def under_load(trial: Trial, orders: Sequence[Order], change: Iterator[None]) -> None:
    """Publish, make one change after the other, and judge."""
    with trial.publishing(orders, rate=RATE) as publisher:
        trial.until_done(30)
        for _ in change:
            pass
        assert publisher.wait() == 0
        trial.until_over()
    longest = gap(trial)
    trial.note(f"longest gap {longest:.2f} s")
    trial.judge()
    assert longest <= SOON


@pytest.mark.faults
def test_row_32_a_password_that_is_rotated(trial: Trial, account: Account) -> None:
    """By four processes of two services, twice, with jobs that last and jobs that are in the ladder meanwhile."""
    user = account.user()
    account.write(user)
    trial.declare()
    settings = {"replicas": "2", "concurrency": "10", "prefetch": "20", "backoff": "1s..2s"}
    workers = [account.worker(trial, **settings) for _ in range(2)]

    def change() -> Iterator[None]:
        for times, password in enumerate(reversed(PASSWORDS), 1):
            with trial.fault("password.rotated", recover=SOON):
                trial.node.ctl("change_password", user, password)
                account.write(user, password)
                rotated(*workers, processes=2, times=times)
            yield

    under_load(trial, parked(trial, 700), change())
    assert [line for worker in workers for line in worker.lines("session.lost")] == []
    believed(*workers)


@pytest.mark.faults
def test_row_32_a_user_that_is_replaced(trial: Trial, account: Account) -> None:
    """Copies of the old one are in the ladder, and are believed when they come back."""
    before, after = account.user(), account.user(PASSWORDS[1])
    account.write(before)
    trial.declare()
    settings = {"replicas": "2", "concurrency": "20", "prefetch": "40", "backoff": "1s..2s"}
    worker = account.worker(trial, **settings)

    def change() -> Iterator[None]:
        with trial.fault("user.replaced", recover=SOON):
            account.write(after, PASSWORDS[1])
            rotated(worker, processes=2)
        yield

    under_load(trial, parked(trial, 500), change())
    assert worker.lines("session.lost") == []
    believed(worker)


@pytest.mark.faults
def test_row_32_a_password_that_changes_and_changes_back(trial: Trial, account: Account) -> None:
    """Without a file. Refused it goes on trying, not too often, not ready and not ended; let in again it is back."""
    user = account.user()
    trial.declare()
    url = f"amqp://{user}:{PASSWORDS[0]}@127.0.0.1:{trial.node.port}/"
    worker = trial.start(concurrency="5", amqp_url=url)
    trial.publish_all(trial.jobs(60, "/ok?ms=300&job={}"))
    trial.until_done(10)
    with trial.fault("password.changed", recover=SOON):
        trial.node.ctl("change_password", user, PASSWORDS[1])
        trial.node.ctl("close_all_user_connections", user, "revoked")
        eventually(lambda: worker.lines("broker.unreachable"), "it is refused, and says so")
        before, since = account.refusals(user), time.monotonic()
        time.sleep(10)  # how often it tries is what is measured
        each = (account.refusals(user) - before) / (time.monotonic() - since) / 2
        assert not worker.ready()
        trial.node.ctl("change_password", user, PASSWORDS[0])
    trial.note(f"{each:.2f} logins a second by each connection with a wrong password")
    trial.judge()
    assert 0 < each <= 1
    assert len(worker.lines("broker.unreachable")) == 1


def test_row_32_a_credential_that_is_revoked(trial: Trial, account: Account) -> None:
    """Its connections are closed, and once the worker has told so, the new one is in the file. Nothing is repeated."""
    before, after = account.user(), account.user(PASSWORDS[1])
    account.write(before)
    trial.declare()
    worker = account.worker(trial, concurrency="20", prefetch="25")

    def change() -> Iterator[None]:
        with trial.fault("credential.revoked", recover=SOON):
            trial.node.ctl("change_password", before, PASSWORDS[1])
            trial.node.ctl("close_all_user_connections", before, "revoked")
            eventually(lambda: worker.lines("broker.unreachable"), "it is refused")
            eventually(lambda: not worker.ready(), "it says so")
            account.write(after, PASSWORDS[1])
        worker.until_ready()
        yield

    under_load(trial, trial.jobs(400, "/ok?ms=300&job={}"), change())


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsBroker]:
    folder = tmp_path / "tls"
    folder.mkdir()
    try:
        broker = TlsBroker(folder)
    except NodeUnavailable as error:
        do_without(str(error))
    with broker:
        yield broker


@pytest.mark.faults
def test_row_32_a_certificate_that_is_renewed(
    node: Node, tls: TlsBroker, tmp_path: Path, target: Target, request: pytest.FixtureRequest
) -> None:
    """The worker's own, and then the broker's authority."""
    assert node.running  # asked for so that this is skipped where that one is
    note = request.getfixturevalue("note")
    files = tls.tls
    with Trial(tls.node, tmp_path, target, note) as trial:
        trial.declare()
        settings = {"amqp_url": tls.url, "amqp_ca": str(files.ca), "amqp_cert": str(files.cert)}
        worker = trial.start(**settings, amqp_key=str(files.key), replicas="2", concurrency="10", prefetch="20")

        def change() -> Iterator[None]:
            with trial.fault("certificate.renewed", recover=SOON):
                tls.client(tls.folder, tls.ca)
                rotated(worker, processes=2)
            yield
            with trial.fault("authority.renewed", recover=SOON):
                tls.trust_another()
                rotated(worker, processes=2, times=2)
            yield

        under_load(trial, trial.jobs(600, "/ok?ms=300&job={}"), change())
        assert worker.lines("session.lost") == []
