"""Finding RabbitMQ, and fetching it where it is not installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import do_without, given_broker
from worker.dev.installation import INSTALL_COMMAND, NodeUnavailable, ensure_rabbitmq, find_rabbitmq
from worker.dev.node import Node


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="fetches Debian's packages")
def test_an_unpacked_copy_works_from_a_folder_with_a_space(tmp_path: Path) -> None:
    cache, said = tmp_path / "a space" / "rabbitmq", list[str]()
    assert find_rabbitmq(cache, installed=False) is None
    try:
        fetched = ensure_rabbitmq(said.append, cache, installed=False)
    except NodeUnavailable as error:
        do_without(str(error))
    assert [line.split()[1] for line in said] == ["RabbitMQ", "unpacking"]
    assert sorted(path.name for path in cache.parent.iterdir()) == ["rabbitmq", "rabbitmq.lock"]
    with Node(fetched) as node:
        assert node.version
        assert node.name in node.ctl("status")

    again = ensure_rabbitmq(said.append, cache, installed=False)
    assert (again, len(said)) == (fetched, 2)


def test_says_what_to_do_where_it_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NodeUnavailable) as caught:
        ensure_rabbitmq(print, tmp_path / "rabbitmq", installed=False)
    assert str(caught.value).endswith(f"\n  fix: {INSTALL_COMMAND}")


def test_says_what_apt_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text("#!/bin/sh\necho 'E: no such luck' >&2; exit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/usr/bin:/bin")
    with pytest.raises(NodeUnavailable, match="no such luck"):
        ensure_rabbitmq(lambda _: None, tmp_path / "rabbitmq", installed=False)
    assert find_rabbitmq(tmp_path / "rabbitmq", installed=False) is None


def test_a_missing_broker_skips_at_home_and_fails_on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="none here"):
        do_without("none here")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="none here"):
        do_without("none here")


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({"WORKER_AMQP_URL": "amqp://u:p@localhost:5672/"}, "amqp://u:p@localhost:5672/"),
        ({"WORKER_AMQP_URL": "amqp://u:p@rabbit.example.com/"}, None),
        ({"WORKER_TEST_AMQP_URL": "amqp://rabbit/", "WORKER_AMQP_URL": "amqp://localhost/"}, "amqp://rabbit/"),
        ({"WORKER_TEST_AMQP_URL": "amqp://rabbit/", "WORKER_TEST_RABBITMQ": "4"}, None),
    ],
)
def test_takes_the_broker_that_is_named(
    variables: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORKER_AMQP_URL", "WORKER_TEST_AMQP_URL", "WORKER_TEST_RABBITMQ"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    broker = given_broker()
    assert (broker and broker.url) == url
