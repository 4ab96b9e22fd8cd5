"""`worker config` and `worker health`."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Cli
from worker.dev.ports import free_ports
from worker.ops.settings import SETTINGS


def test_config_shows_each_setting_with_its_value_and_source(cli: Cli) -> None:
    (cli.directory / "worker.toml").write_text("steps = 7\n")
    ended = cli("config", "--json", "--queue", "orders", WORKER_ATTEMPTS="3")
    assert ended.code == 0
    found = {row["name"]: (row["value"], row["source"]) for row in ended.json}
    assert list(found) == [one.name for one in SETTINGS]
    assert found["queue"] == ("orders", "flag --queue")
    assert found["attempts"] == ("3", "variable WORKER_ATTEMPTS")
    assert found["steps"] == ("7", f"file {cli.directory}/worker.toml key steps")
    assert found["log"] == ("info", "default")


TABLES = """
queue = "orders"

[types."order.sync"]
attempts = 3
backoff = "500ms..1m"
timeout = "90s"

[types.import]
concurrency = 2

[limits."api.example.com"]
concurrency = 20
rate = "100/s"

[limits.default]
concurrency = 5

[credentials.crm]
bearer_file = "token"
origins = ["https://crm.example.com", "https://crm.example.org:8443/"]
"""


def test_config_shows_the_tables_of_the_file(cli: Cli) -> None:
    (cli.directory / "token").write_text("streng-geheim-1234")
    (cli.directory / "own.toml").write_text(TABLES)
    ended = cli("config", "--json", "--config", "own.toml")
    assert ended.code == 0
    found = {row["name"]: (row["value"], row["source"]) for row in ended.json}
    assert list(found)[: len(SETTINGS)] == [one.name for one in SETTINGS]
    values = {
        'types."order.sync".attempts': "3",
        'types."order.sync".backoff': "500ms..1m",
        'types."order.sync".timeout': "90s",
        "types.import.concurrency": "2",
        'limits."api.example.com".concurrency': "20",
        'limits."api.example.com".rate': "100/s",
        "limits.default.concurrency": "5",
        "credentials.crm.bearer": "***",
        "credentials.crm.origins": "https://crm.example.com,https://crm.example.org:8443",
    }
    file = cli.directory / "own.toml"
    assert {name: found[name] for name in list(found)[len(SETTINGS) :]} == {
        name: (value, f"file {file} table {name.rpartition('.')[0]}") for name, value in values.items()
    }
    table = cli("config", "--config", "own.toml")
    assert "geheim" not in ended.out + table.out + table.err
    assert all(name in table.out for name in values)


def test_config_masks_secrets(cli: Cli) -> None:
    environ = {"WORKER_AMQP_URL": "amqp://me:geheim@127.0.0.1/", "WORKER_ADMIN_TOKEN": "streng-geheim-1234"}
    for arguments in (("config",), ("config", "--json")):
        ended = cli(*arguments, **environ)
        assert ended.code == 0
        assert "amqp://me:***@127.0.0.1:5672/" in ended.out
        assert "geheim" not in ended.out + ended.err


def test_the_table_is_not_cut_off_for_programs(cli: Cli) -> None:
    hosts = ",".join(f"host-{number}.example.com" for number in range(40))
    ended = cli("config", WORKER_HTTP_ALLOW=hosts)
    assert hosts in ended.out
    assert "\x1b" not in ended.out


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
        self.wfile.write(b"consuming\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_health_is_what_the_admin_listener_says(cli: Cli, admin: str) -> None:
    for ended in (cli("health", WORKER_ADMIN=admin), cli("health", "--admin", admin)):
        assert (ended.code, ended.out) == (0, f"/ready of {admin}: 200 consuming\n")


def test_health_reads_the_file(cli: Cli, admin: str) -> None:
    (cli.directory / "other.toml").write_text(f'admin = "{admin}"\n')
    assert cli("health", "--config", "other.toml").code == 0


def test_health_fails_when_nobody_answers(cli: Cli) -> None:
    ended = cli("health", WORKER_ADMIN=f"127.0.0.1:{free_ports(1)[0]}")
    assert ended.code == 1
    assert "connection refused" in ended.out
