"""Secrets written wrongly: whatever is said about it, it does not repeat them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.secrets.canaries import Canaries, Sink
from worker.cli import app
from worker.ops.settings import SettingsError, load_settings

URLS: Final = (
    "{scheme}://u:{secret}@h:99999/",
    "{scheme}://u:{secret}@h:port/",
    "gopher://u:{secret}@h/",
    "u:{secret}@h:1",
    "{scheme}:u:{secret}@h",
    "{scheme}:/u:{secret}@h:1/",
    "{scheme}//u:{secret}@h:1/",
    "{scheme}:://u:{secret}@h:1",
    "{scheme} ://u:{secret}@h:1",
    '"{scheme}://u:{secret}@h:1/"',
    "{scheme}://u:{secret}@h:1/a/b/c",
    "{scheme}://u:{secret}@h:1/?heartbeat=1",
    "{scheme}://u:{secret}@h:1/#vhost",
    "{scheme}://h:1/?password={secret}",
    "{scheme}://h:1/x?user=u&password={secret}#x",
    "{scheme}://u:{secret} h:1/",
    "{scheme}://u:{secret}",
    "{scheme}://u:{secret}/",
    "{scheme}://u:{secret}@",
    "{scheme}://u:{secret}@@h:1/",
    "{scheme}://u:{secret}%zz@h:1/",
    "{scheme}://u:pass {secret}@h:1/",
    "{scheme}://u:pass\n{secret}@h:1/",
    "{scheme}://u:a/{secret}@h:1/",
    "{scheme}://u:a?{secret}@h:1/",
    "{scheme}://u:a#{secret}@h:1/",
    "{scheme}://u:a://{secret}@h:1/",
    "{scheme}://u:a@b:{secret}@h:1/",
    "{scheme}://[u:{secret}@h:1/",
    "{scheme}://u:{secret}@h:1/ {scheme}://u:{secret}@i:1/x y",
    "{secret}",
    "password={secret}",
)
"""Broker and proxy, as they are mistyped."""

TOKENS: Final = ("{secret} x", "{secret}\u00fc", "x\n{secret}")

TABLES: Final = (
    "[credentials.a]\nbearer = {secret}",
    '[credentials.a]\nbearer = "{secret}',
    '[credentials.a]\nbearer = "{secret}\\q"',
    '[credentials.a]\nbearer = ["{secret}"]',
    '[credentials.a]\nbearer = "{secret} x"\norigins = ["https://h"]',
    '[credentials.a]\nbearer = "{secret}"',
    '[credentials.a]\nbearer = "{secret}"\norigins = []',
    '[credentials.a]\nbearer = "{secret}"\norigins = ["h"]\nbearer_file = "x"',
    '[credentials.a]\nbaerer = "{secret}"\norigins = ["https://h"]',
    '[credentials]\na = "{secret}"',
    'credentials = "{secret}"',
    '[credentials.a]\nuser = "u"\npassword = "{secret}\\u0007"\norigins = ["https://h"]',
    '[credentials.a]\nuser = "u"\npassword = "{secret}"\nbearer = "{secret}"\norigins = ["https://h"]',
    '[credentials.a]\nuser = "u:{secret}"\norigins = ["https://h"]',
    '[credentials.a]\nheader = "X-Key: {secret}"\norigins = ["https://h"]',
    '[credentials.a]\nheader = "X-Key"\nvalue = "{secret}\\u00fc"\norigins = ["https://h"]',
    '[credentials.a]\nsigning_key = "{secret}"\norigins = ["https://h"]',
    '[credentials.a]\nsigning_key = "whsec_{secret}"\norigins = ["https://h"]',
    '[credentials.a]\nsigning_key = "{secret} {secret} {secret}"\norigins = ["https://h"]',
    '[credentials.a]\ntoken_url = "https://u:{secret}@h/"\nclient_id = "c"\norigins = ["https://h"]',
    '[credentials.a]\ntoken_url = "h?{secret}"\nclient_id = "c"\nclient_secret = "s"\norigins = ["https://h"]',
    '[credentials.a]\nclient_secret = "{secret}"\norigins = ["https://h"]',
    '[credentials.a]\nclient_secret = 7\nbearer = "{secret}"',
    '[credentials.a]\nbearer = "b"\norigins = ["https://u:{secret}@h"]',
    '[credentials.a]\nbearer = "b"\norigins = ["https://h/?token={secret}"]',
    'amqp_url = ["amqp://u:{secret}@h", 7]',
    'admin_token = ["{secret}"]',
    'amqp_password = "{secret}"',
    'http_allow = "http://u:{secret}@h/"',
)


def problems(environ: Mapping[str, str], cwd: Path) -> str:
    """All that is said of wrong settings."""
    with pytest.raises(SettingsError) as caught:
        load_settings({}, environ, cwd=cwd)
    return f"{caught.value}{caught.value!r}{caught.value.problems!r}{caught.value.__cause__}"


def told_nothing(canaries: Canaries, text: str) -> None:
    """There is a message, it names something, and no secret is in it."""
    assert len(text) > 20
    assert canaries.leaks([Sink("message", text)]) == []


@pytest.mark.parametrize(("variable", "scheme"), [("WORKER_AMQP_URL", "amqp"), ("WORKER_HTTP_PROXY", "http")])
@pytest.mark.parametrize("form", URLS)
def test_a_url_that_is_written_wrongly(form: str, variable: str, scheme: str, tmp_path: Path) -> None:
    canaries = Canaries()
    text = form.format(scheme=scheme, secret=canaries.operator(variable))
    told_nothing(canaries, problems({variable: text}, tmp_path))
    (tmp_path / "secret").write_text(text)
    told_nothing(canaries, problems({f"{variable}_FILE": "secret"}, tmp_path))


@pytest.mark.parametrize("form", TOKENS)
def test_a_token_that_is_written_wrongly(form: str, tmp_path: Path) -> None:
    canaries = Canaries()
    told_nothing(canaries, problems({"WORKER_ADMIN_TOKEN": form.format(secret=canaries.operator("token"))}, tmp_path))


@pytest.mark.parametrize("form", TABLES)
def test_a_table_that_is_written_wrongly(form: str, tmp_path: Path) -> None:
    canaries = Canaries()
    text = form.replace("{secret}", canaries.operator("cell"))
    (tmp_path / "worker.toml").write_text(text)
    told_nothing(canaries, problems({}, tmp_path))


def files(secret: bytes) -> Iterator[tuple[str, bytes]]:
    yield "too large", secret + b"x" * 70_000
    yield "not UTF-8", secret + b"\xff"
    yield "of two lines", secret + b"\n" + secret


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("name", ["WORKER_AMQP_URL_FILE", "WORKER_ADMIN_TOKEN_FILE", "WORKER_HTTP_PROXY_FILE"])
def test_a_file_that_holds_something_else(which: int, name: str, tmp_path: Path) -> None:
    canaries = Canaries()
    _, content = list(files(canaries.operator(name).encode()))[which]
    (tmp_path / "secret").write_bytes(content)
    told_nothing(canaries, problems({name: "secret"}, tmp_path))


@pytest.mark.parametrize("variable", ["WORKER_AMQP_KEY", "WORKER_AMQP_KEY_FILE", "WORKER_PASSWORD", "WORKER_AMQP_UR"])
def test_a_secret_in_the_place_of_something_else(variable: str, tmp_path: Path) -> None:
    canaries = Canaries()
    key = f"-----BEGIN PRIVATE KEY-----\n{canaries.operator('key')}\n-----END PRIVATE KEY-----"
    told_nothing(canaries, problems({variable: key}, tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "http", '{{"url": "{secret}'),
        ("publish", "http", '{{"url": "{secret}", "url": 1}}'),
        ("publish", "http", '{{"url": {secret}}}'),
        ("publish", "http", '{{"url": "{secret}\\ud800"}}'),
        ("run", "--amqp-url", "amqp://u:{secret}@h:port"),
        ("run", "--amqp-ulr", "amqp://u:{secret}@h"),
        ("run", "--amqp-ulr=amqp://u:{secret}@h"),
        ("run", "--admin-token", "{secret} x"),
        ("check", "--http-proxy", "u:{secret}@h"),
        ("config", "--admin-token={secret}", "--attempts=none"),
    ],
)
def test_a_command_line_that_is_written_wrongly(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    canaries = Canaries()
    secret: Any = canaries.operator("argument")
    assert app.run([one.format(secret=secret) for one in arguments]) in (2, 78)
    out, err = capsys.readouterr()
    told_nothing(canaries, out + err)
