"""Whole services at every level of the log, over good and failing paths: no secret is in anything they show."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.conftest import Brokers
from tests.process.kit import eventually
from tests.secrets.canaries import Canaries, Leak, Sink
from tests.secrets.credentials import Keyring
from tests.secrets.handled import WAITS, handled_plays
from tests.secrets.plays import DONE, Play, Stage
from tests.secrets.running import MESSAGE, RESULT, Running, SecretYard, judge, result_sinks
from tests.secrets.targets import Target
from worker.dev.node import Node
from worker.dev.ports import free_ports

log = logging.getLogger("tests.secrets")  # --log-cli-level=INFO shows the numbers

LEVELS: Final = ("debug", "info", "warning", "error")
PASSWORD: Final = "password in the broker's URL"
CALLBACKS: Final = 2
LEAST: Final = 50
PATIENCE: Final = 150.0


@pytest.fixture
def guarded(brokers: Brokers, tmp_path: Path) -> tuple[Node, dict[str, Canaries]]:
    """A broker with one user for each level, each with a password of its own."""
    node = brokers.for_faults()
    found = {level: Canaries() for level in LEVELS}
    users = [{"name": f"user-{one}", "password": found[one].operator(PASSWORD), "tags": ""} for one in LEVELS]
    every = {"vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    permissions = [{"user": f"user-{one}", **every} for one in LEVELS]
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"users": users, "permissions": permissions}))
    node.ctl("import_definitions", str(path))
    return node, found


@contextmanager
def mutual_target(authority: trustme.CA) -> Iterator[Target]:
    """Asks for a certificate; to all who do not know `authority` its own is one of nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with Target(context) as running:
        yield running


def broker_settings(level: str, node: Node, canaries: Canaries, directory: Path) -> dict[str, Any]:
    """The same login, at each level by another way of writing it; `in_toml` belongs into worker.toml."""
    url = f"amqp://user-{level}:{canaries.made[PASSWORD].value}@127.0.0.1:{node.port}/"
    match level:
        case "debug":
            (closed,) = free_ports(1)
            away = f"amqp://u:{canaries.operator('password of a node that is away')}@127.0.0.1:{closed}/"
            canaries.saw(away)
            return {"amqp_url": f"{away},{url}"}
        case "info":
            (directory / "url").write_text(f"{url}\n")
            return {"amqp_url": None, "amqp_url_file": "url"}
        case "warning":
            return {"amqp_url": None, "in_toml": f'amqp_url = "{url}"\n'}
        case _:
            return {"amqp_url": url}


@pytest.mark.timeout(300)
def test_nothing_is_shown_of_any_secret(guarded: tuple[Node, dict[str, Canaries]], tmp_path: Path) -> None:
    node, canaries = guarded

    def run(level: str) -> list[Leak]:
        directory = tmp_path / level
        directory.mkdir()
        return leaks_at(level, node, canaries[level], directory)

    with ThreadPoolExecutor(len(LEVELS)) as pool:
        leaks = dict(zip(LEVELS, pool.map(run, LEVELS), strict=True))

    assert leaks == {level: [] for level in LEVELS}
    for found in canaries.values():
        assert found.idle() == set()
        assert len(found.made) >= LEAST


def leaks_at(level: str, node: Node, canaries: Canaries, directory: Path) -> list[Leak]:
    """Run all plays by a service that logs at `level`, and search everything it showed."""
    authority = trustme.CA()
    # What Python itself tells developers, too, and at once where the log is to say everything.
    loud = {"PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "always"} if level == "debug" else {}
    with (
        Target() as target,
        mutual_target(authority) as mutual,
        SecretYard(node.url, directory, loud) as yard,
    ):
        settings = broker_settings(level, node, canaries, directory)
        keyring = Keyring(canaries, target, mutual, authority, directory)
        (directory / "worker.toml").write_text(settings.pop("in_toml", "") + keyring.toml())
        settings |= {"log": level, "attempts": "2", "backoff": "1ms..10ms"}
        running = Running(yard, canaries, settings)
        canaries.saw(canaries.made[PASSWORD].value)  # it is ready, so this let it in
        replies = f"replies.{yard.queue}"
        with yard.channel() as channel:
            channel.queue_declare(replies, exclusive=True)
        plays = [
            *Stage(canaries, target, mutual, replies).plays(),
            *handled_plays(canaries, target),
            *keyring.plays(),
        ]
        play_all(running, plays, target)
        if level == "debug":
            commands(running)
        running.end()
        sinks = [*running.sinks, *judge(plays, yard.take(f"{yard.queue}.dead"), canaries)]
        answers = yard.take(replies)
        assert len(answers) == 2
        sinks += [sink for letter in answers for sink in result_sinks("reply", letter.body)]
    canaries.saw(*target.heard, *target.said, *mutual.heard)
    keyring.used()
    searched = {(sink.name, sink.text): sink for sink in [*sinks, *callback_sinks(target)]}
    kinds = len({name for name, _ in searched})
    log.info("%s: %d canaries in %d texts of %d kinds of sinks", level, len(canaries.made), len(searched), kinds)
    return canaries.leaks(searched.values())


def play_all(running: Running, plays: list[Play], target: Target) -> None:
    """Publish, look at it from outside while one is in flight, and wait until all have ended."""
    running.publish(plays)
    eventually(lambda: any(job.get("type") == WAITS for job in running.jobs()), "one is in flight", PATIENCE)
    running.knock()
    running.look()
    target.released.set()
    done = sum(play.end == DONE for play in plays)
    dead = len(plays) - done + CALLBACKS
    eventually(
        lambda: (running.succeeded(), running.yard.dead()) == (done, dead), f"{done} done, {dead} dead", PATIENCE
    )
    running.look()


def callback_sinks(target: Target) -> Iterator[Sink]:
    """What the results said that were sent to a target."""
    bodies = [one.partition(b"\r\n\r\n")[2] for one in target.heard if b"/callback" in one.partition(b"\r\n")[0]]
    assert len(bodies) == CALLBACKS
    for body in bodies:
        yield from result_sinks("callback", body)


def commands(running: Running) -> None:
    """What an operator looks at afterwards."""
    running.command("config")
    running.command("config", "--json")
    running.command("check")
    running.command("dead", "list")
    running.command("dead", "list", "--json")
    running.command("dead", "show", "template-sent", may_hold=MESSAGE | RESULT)
    running.command("dead", "show", "request-head", "--json", may_hold=MESSAGE | RESULT)
