"""One service with secrets in its settings, and all that can be read of it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from tests.process.kit import Letter, RawProperties, Worker, Yard, eventually
from tests.secrets.canaries import Canaries, Sink, Whose
from tests.secrets.plays import DONE, Play
from worker.dev.ports import free_ports

NOBODY: Final[frozenset[Whose]] = frozenset()
MESSAGE: Final = frozenset({Whose.PUBLISHER})
RESULT: Final = frozenset({Whose.TARGET})
_TOLD: Final = ("x-worker-reason", "x-worker-detail", "x-worker-history")


class SecretYard(Yard):
    """A Yard whose settings can be left out: by None. `more` is environment that is no setting."""

    def __init__(self, url: str, directory: Path, more: dict[str, str]) -> None:
        super().__init__(url, directory)
        self._more = more

    def environment(self, **settings: str | None) -> dict[str, str]:
        given = {name: value for name, value in settings.items() if value is not None}
        left_out = {f"WORKER_{name.upper()}" for name in settings.keys() - given.keys()}
        found = super().environment(**given) | self._more
        return {name: value for name, value in found.items() if name not in left_out}


class Running:
    """One `worker run` whose admin listener is off loopback, and so guarded by a token."""

    def __init__(self, yard: SecretYard, canaries: Canaries, settings: Mapping[str, Any]) -> None:
        (self.port,) = free_ports(1)
        self.yard = yard
        self.canaries = canaries
        self.token = canaries.operator("admin token")
        self.settings = {**settings, "admin": f"0.0.0.0:{self.port}", "admin_token": self.token}
        self.sinks: list[Sink] = []
        self.worker: Worker = yard.launch("tests.secrets.handlers:registry", **self.settings)
        eventually(self._is_ready, "ready", 120)

    def _is_ready(self) -> bool:
        assert self.worker.running, self.worker.said()
        return self.ask("/ready")[0] == 200

    def publish(self, plays: list[Play]) -> None:
        for play in plays:
            if play.raw is not None:
                self.yard.publish_raw(RawProperties(play.raw), play.body)
            else:
                self.yard.publish(play.type, play.body, play.id, **play.properties)

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        """A page of the admin listener; all of every answer is a sink."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            whole = f"{answer.status} {answer.reason} {answer.getheaders()}\n{text}"
        except OSError:
            return 0, ""
        finally:
            connection.close()
        if path != "/ready":  # that was asked to wait for; asked again in look()
            self.sinks.append(Sink(f"page {path}", whole))
        return answer.status, text

    def jobs(self) -> list[dict[str, Any]]:
        status, text = self.ask("/jobs", Authorization=f"Bearer {self.token}")
        assert status == 200, text
        self.canaries.saw(self.token)
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def knock(self) -> None:
        """As somebody who may not: a wrong token, and secrets in every part of a request."""
        new = self.canaries.publisher
        tries: tuple[tuple[str, dict[str, str], int], ...] = (
            ("/jobs", {"Authorization": f"Bearer {new('wrong admin token')}"}, 401),
            ("/jobs", {"Authorization": f"Basic {new('wrong admin scheme')}"}, 401),
            (f"/jobs?token={new('admin token in a query')}", {}, 401),
            (f"/{new('admin path')}", {}, 404),
            ("/live", {"Cookie": new("admin cookie")}, 200),
            ("/metrics", {"Host": f"{new('admin host')}.example.com"}, 421),
        )
        for path, headers, status in tries:
            assert self.ask(path, **headers)[0] == status
            self.canaries.saw(path, *headers.values())

    def look(self) -> None:
        """What can be seen of it from outside while it runs."""
        for path in ("/live", "/metrics"):
            assert self.ask(path)[0] == 200
        self.sinks.append(Sink("page /ready", self.ask("/ready")[1]))
        for pid in (self.worker.pid, *self.worker.children()):
            self.sinks.append(Sink("command line", " ".join(psutil.Process(pid).cmdline())))

    def succeeded(self) -> int:
        lines = [line for line in self.ask("/metrics")[1].splitlines() if line.startswith("worker_jobs_total{")]
        return sum(round(float(line.split()[-1])) for line in lines if 'outcome="succeeded"' in line)

    def end(self) -> None:
        assert self.worker.drain() == 0, self.worker.said()
        self.sinks.append(Sink("log", self.worker.said()))

    def command(self, *arguments: str, may_hold: frozenset[Whose] = NOBODY) -> str:
        """What a command prints, which is a sink."""
        ended = self.yard.command(*arguments, **self.settings)
        text = ended.stdout + ended.stderr
        assert ended.returncode == 0, text
        self.sinks.append(Sink(f"worker {' '.join(arguments[:2])}", text, may_hold))
        return text


def judge(plays: list[Play], letters: list[Letter], canaries: Canaries) -> list[Sink]:
    """Hold every job to its end; what its letter says is a sink, and proof that what is in it was looked at."""
    by_id = {letter.id: letter for letter in letters}
    by_body = {letter.body: letter for letter in letters}  # what cannot be decoded has lost its id
    dead = {play.id: by_id.get(play.id) or by_body[play.body] for play in plays if play.end != DONE}
    ends = {play.id: dead[play.id].reason for play in plays if play.end != DONE}
    assert ends == {play.id: play.end for play in plays if play.end != DONE}
    for play in plays:
        if play.end != DONE:
            assert dead[play.id].body == play.body
            canaries.saw(play.body, play.raw or b"", repr(play.properties))
    return [sink for letter in letters for sink in letter_sinks(letter)]


def letter_sinks(letter: Letter) -> Iterator[Sink]:
    told = {name: letter.headers[name] for name in _TOLD if name in letter.headers}
    yield Sink("reason, detail, history of a dead letter", repr(told))
    yield Sink("finished steps of a dead letter", str(letter.headers.get("x-worker-steps", "")), RESULT)
    rest = {name: value for name, value in letter.headers.items() if name not in told and name != "x-worker-steps"}
    written = MESSAGE | RESULT if letter.id.endswith("/callback") else MESSAGE
    yield Sink("properties of a dead letter", repr({**vars(letter.properties), "headers": rest}), MESSAGE)
    yield Sink("body of a dead letter", letter.body.decode("latin-1"), written)


def result_sinks(name: str, content: bytes) -> Iterator[Sink]:
    """A result, as replies and callbacks carry it: its value is the target's, the rest is ours."""
    result = json.loads(content)
    yield Sink(f"value of a {name}", json.dumps(result.pop("value", None)), RESULT)
    yield Sink(name, json.dumps(result))
