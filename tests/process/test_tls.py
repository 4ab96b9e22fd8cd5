"""A service whose broker speaks TLS: refused at start with the setting to mend, patient once it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.amqp.tls import TlsBroker
from tests.conftest import do_without
from tests.process.kit import Yard, eventually
from worker.dev.node import NodeUnavailable
from worker.dev.target import Target


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    try:
        broker = TlsBroker(tmp_path_factory.mktemp("tls"))
    except NodeUnavailable as error:
        do_without(str(error))
    with broker:
        yield broker


@pytest.fixture
def yard(tls: TlsBroker, tmp_path: Path) -> Iterator[Yard]:
    with Yard(tls.node.url, tmp_path) as found:
        yield found


def settings(tls: TlsBroker, **other: str) -> dict[str, str]:
    files = tls.tls
    ours = {"amqp_url": tls.url, "amqp_ca": str(files.ca), "amqp_cert": str(files.cert), "amqp_key": str(files.key)}
    return {name: value for name, value in (ours | other).items() if value}


REFUSALS = {
    "an unknown authority": ({"amqp_ca": ""}, "WORKER_AMQP_CA"),
    "another name": ({"amqp_url": "amqps://guest:guest@localhost:{port}/"}, "host name"),
    "no certificate of ours": ({"amqp_cert": "", "amqp_key": ""}, "WORKER_AMQP_CERT"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_refused_at_the_start_names_the_setting(tls: TlsBroker, yard: Yard, what: str) -> None:
    other, named = REFUSALS[what]
    ended = yard.command("run", **settings(tls, **{name: value.format(port=tls.port) for name, value in other.items()}))
    assert ended.returncode == 78, ended.stderr
    assert named in ended.stderr
    assert "guest:guest" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("whose", ["a stranger's", "an expired one"])
def test_a_certificate_of_ours_that_is_refused_at_the_start(
    tls: TlsBroker, yard: Yard, tmp_path: Path, whose: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    files = tls.client(folder, trustme.CA()) if whose == "a stranger's" else tls.client(folder, tls.ca, expired=True)
    ended = yard.command("run", **settings(tls, amqp_cert=str(files.cert), amqp_key=str(files.key)))
    assert ended.returncode == 78, ended.stderr
    assert "WORKER_AMQP_CERT" in ended.stderr


def test_an_expired_certificate_of_the_broker(tls: TlsBroker, yard: Yard, target: Target) -> None:
    """At the start it is refused; once the worker runs it is waited for."""
    worker = yard.start(**settings(tls))
    tls.serve(tls.ca, expired=True)
    try:
        ended = yard.command("run", **settings(tls))
        assert ended.returncode == 78, ended.stderr
        assert "expired" in ended.stderr
        assert "WORKER_AMQP_CA" in ended.stderr

        tls.node.ctl("close_all_connections", "for a test")
        eventually(lambda: "expired" in worker.ask("/ready")[1], "/ready says why")
        assert not worker.ready()
        assert worker.running
    finally:
        tls.serve(tls.ca)
    worker.until_ready()
    yard.http_jobs(f"{target.url}/ok", 3)
    eventually(lambda: len(target.ledger()) == 3, "the jobs are done")
    assert worker.drain() == 0
