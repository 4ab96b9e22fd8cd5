"""Credentials of a real service: from worker.toml to the target's eyes, to nobody else's, and renewed as it runs."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import pytest
import trustme
from standardwebhooks import Webhook

from tests.process.kit import Worker, Yard, eventually

FIRST: Final = "canary-first"
SECOND: Final = "canary-second"
KEYS: Final = [f"whsec_{base64.b64encode(bytes([number]) * 24).decode()}" for number in (1, 2)]


class Recorder(ThreadingHTTPServer):
    """A target that keeps the headers, bodies and certificates it was shown, and answers `answer` as JSON."""

    daemon_threads = True

    def __init__(self, answer: Any = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = json.dumps(answer).encode()
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.shown: list[str] = []
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def headers(self, name: str) -> list[str | None]:
        return [headers.get(name) for headers, _ in self.seen]


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if isinstance(self.connection, ssl.SSLSocket):
            self.server.shown.append(str(self.connection.getpeercert()))
        self.server.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    do_GET = do_POST  # noqa: N815 - what http.server looks for

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class Town:
    """The targets of one test, and the files of its credentials in the yard's folder."""

    def __init__(self, yard: Yard, stack: ExitStack) -> None:
        self.yard = yard
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(yard.directory / "ca.pem")
        self.renew_certificate("first")
        self.crm = stack.enter_context(Recorder())
        self.stranger = stack.enter_context(Recorder())
        self.tokens = stack.enter_context(Recorder({"access_token": "canary-token", "expires_in": 600}))
        self.bank = stack.enter_context(Recorder(tls=self._bank()))
        for name, text in (("bearer", FIRST), ("secret", "canary-client"), ("key", KEYS[0]), ("password", FIRST)):
            yard.write(name, f"{text}\n")
        yard.write("worker.toml", self._toml())

    def renew_certificate(self, name: str) -> None:
        pair = self.authority.issue_cert(f"{name}.example", common_name=name)
        pair.cert_chain_pems[0].write_to_path(self.yard.directory / "client.crt")
        pair.private_key_pem.write_to_path(self.yard.directory / "client.key")

    def _bank(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        context.verify_mode = ssl.CERT_REQUIRED
        self.authority.configure_trust(context)
        return context

    def _toml(self) -> str:
        return f"""
            [credentials.crm]
            bearer_file = "bearer"
            origins = ["{self.crm.origin}"]

            [credentials.basic]
            user = "jane"
            password_file = "password"
            origins = ["{self.crm.origin}"]

            [credentials.api]
            token_url = "{self.tokens.origin}/token"
            client_id = "worker"
            client_secret_file = "secret"
            origins = ["{self.crm.origin}"]

            [credentials.bank]
            cert_file = "client.crt"
            key_file = "client.key"
            ca_file = "ca.pem"
            origins = ["{self.bank.origin}"]

            [credentials.partner]
            signing_key_file = "key"
            origins = ["{self.crm.origin}"]
        """


@pytest.fixture
def town(yard: Yard) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(yard, stack)


def do(yard: Yard, target: Recorder, **job: Any) -> tuple[dict[str, str], bytes]:
    """What the target saw of one job."""
    before = len(target.seen)
    yard.publish("http", {"url": f"{target.origin}/", **job}, f"job-{before}")
    eventually(lambda: len(target.seen) > before, "the job's request")
    return target.seen[before]


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def quiet(worker: Worker) -> bool:
    return worker.ask("/jobs")[1].strip() == "[]"


def test_every_kind_reaches_its_origin_and_nobody_else(yard: Yard, town: Town) -> None:
    yard.declare()
    worker = yard.start(log="debug")
    assert do(yard, town.crm, auth="crm")[0]["authorization"] == f"Bearer {FIRST}"
    assert do(yard, town.crm, auth="basic")[0]["authorization"] == basic(f"jane:{FIRST}")
    for _ in range(2):
        assert do(yard, town.crm, auth="api")[0]["authorization"] == "Bearer canary-token"
    assert town.tokens.headers("authorization") == [basic("worker:canary-client")], "one call for both"
    do(yard, town.bank, auth="bank")
    headers, body = do(yard, town.crm, method="POST", json={"a": 1}, sign="partner")
    Webhook(KEYS[0]).verify(body, headers)
    assert "authorization" not in headers

    yard.publish("http", {"url": f"{town.stranger.origin}/path?canary-query=1", "auth": "crm"}, "away")
    yard.publish("http", {"url": f"{town.crm.origin}/", "auth": "nobody"}, "unknown")
    yard.publish("http", {"url": f"{town.crm.origin}/", "auth": "partner"}, "kind")
    letters = yard.letters(3)
    assert {letter.reason for letter in letters.values()} == {"credential"}
    assert letters["away"].detail.startswith("credential 'crm' may not be sent to 127.0.0.1")
    assert letters["unknown"].detail == "no credential named 'nobody' is configured"
    assert town.stranger.seen == []

    eventually(lambda: quiet(worker), "nothing is in flight")
    metrics = worker.ask("/metrics")[1]
    assert worker.drain() == 0
    assert "canary" not in worker.said() + metrics + str([letter.headers for letter in letters.values()])


def test_every_secret_is_renewed_without_a_restart(yard: Yard, town: Town) -> None:
    yard.declare()
    worker = yard.start()
    children = worker.children()
    assert do(yard, town.crm, auth="crm")[0]["authorization"] == f"Bearer {FIRST}"
    assert do(yard, town.crm, auth="basic")[0]["authorization"] == basic(f"jane:{FIRST}")
    headers, body = do(yard, town.crm, text="x", method="POST", sign="partner")
    Webhook(KEYS[0]).verify(body, headers, json_parse=False)
    do(yard, town.bank, auth="bank")
    assert "first.example" in town.bank.shown[-1]

    town.renew_certificate("second")
    for name in ("bearer", "password"):
        swap(yard.directory / name, SECOND)
    swap(yard.directory / "key", "\n".join(KEYS))
    eventually(lambda: do(yard, town.crm, auth="crm")[0]["authorization"] == f"Bearer {SECOND}", "the new bearer", 10)
    eventually(lambda: do(yard, town.crm, auth="basic")[0]["authorization"] == basic(f"jane:{SECOND}"), "password", 10)
    eventually(lambda: " " in do(yard, town.crm, sign="partner")[0]["webhook-signature"], "two signatures", 10)
    headers, body = town.crm.seen[-1]
    for key in KEYS:
        Webhook(key).verify(body, headers, json_parse=False)

    eventually(lambda: "second.example" in bank_sees(yard, town), "the new certificate", 10)

    assert worker.children() == children
    assert len(worker.lines("secret.reloaded")) == 3
    assert worker.drain() == 0
    assert "canary" not in worker.said()
    assert yard.dead() == 0


def bank_sees(yard: Yard, town: Town) -> str:
    """The certificate that one job shows."""
    do(yard, town.bank, auth="bank")
    return town.bank.shown[-1]


def swap(path: Path, text: str) -> None:
    """As a secrets' store does it: the new file is whole when it takes the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_config_masks_and_check_warns(yard: Yard, town: Town) -> None:
    shown = yard.command("config").stdout
    assert "canary" not in shown
    assert KEYS[0][6:] not in shown
    assert "credentials.crm.bearer" in shown
    assert "credentials.api.token_url" in shown
    yard.declare()
    checked = yard.command("check")
    assert checked.returncode == 0, checked
    assert f"credentials.crm: its secret goes to {town.crm.origin} unencrypted" in checked.stdout
    assert "canary" not in checked.stdout + checked.stderr


def test_a_bad_credential_keeps_it_from_starting(yard: Yard, town: Town) -> None:
    swap(yard.directory / "client.key", "canary")
    ended = yard.command("run")
    assert ended.returncode == 78
    assert "key credentials.bank: cert_file and key_file are no certificate and its key" in ended.stderr
    assert "canary" not in ended.stderr
