"""What commands say when the broker or an APP lets them down: with the login, and without a secret."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Brokers
from tests.secrets.canaries import Canaries, Sink
from tests.secrets.running import SecretYard
from worker.dev.ports import free_ports

APPS = {
    "lifespan": """
from contextlib import asynccontextmanager
from pathlib import Path
from worker import Registry

@asynccontextmanager
async def lifespan():
    secret = Path("secret").read_text()
    raise ConnectionError(f"cannot reach redis://cache:{secret}@127.0.0.1:1/0?password={secret}")
    yield

registry = Registry(lifespan=lifespan)
""",
    "imported": """
from pathlib import Path
secret = Path("secret").read_text()
raise LookupError(f"no shop at https://shop:{secret}@127.0.0.1/?api_key={secret}")
""",
}


@pytest.fixture
def yard(brokers: Brokers, tmp_path: Path) -> Iterator[SecretYard]:
    with SecretYard(brokers.for_faults().url, tmp_path, {}) as found:
        yield found


def test_what_is_said_of_a_broker_that_is_not_ours(yard: SecretYard, brokers: Brokers) -> None:
    canaries = Canaries()
    port = brokers.for_faults().port
    (closed,) = free_ports(1)
    yard.declare()

    def login(place: str, at: int, scheme: str = "amqp") -> dict[str, Any]:
        return {"amqp_url": f"{scheme}://guest:{canaries.operator(place)}@127.0.0.1:{at}/", "connect_timeout": "1s"}

    key = yard.write("key.pem", f"-----BEGIN PRIVATE KEY-----\n{canaries.operator('broken TLS key')}\n")
    tls = {"amqp_cert": str(key), "amqp_key": str(key)}
    runs: list[tuple[tuple[str, ...], dict[str, Any], int, str]] = [
        (("run",), login("wrong password, run", port), 78, "refuses the user"),
        (("check", "--json"), login("unreachable, check", closed), 69, "broker unreachable"),
        (("dead", "list"), login("wrong password, dead", port), 78, "refuses the user"),
        (("publish", "http", "{}"), login("wrong password, publish", port), 78, "refuses the user"),
        (("run",), login("TLS where there is none", port, "amqps"), 78, "no TLS is spoken there"),
        (("run",), login("password beside a broken key", port, "amqps") | tls, 78, "TLS files"),
    ]

    def run(one: tuple[tuple[str, ...], dict[str, Any], int, str]) -> Sink:
        arguments, settings, code, says = one
        ended = yard.command(*arguments, **settings, log="debug")
        text = ended.stdout + ended.stderr
        assert ended.returncode == code, text
        assert says in text
        canaries.saw(str(settings), key.read_text() if "amqp_key" in settings else "")
        return Sink(" ".join(arguments), text)

    with ThreadPoolExecutor(2) as pool:
        sinks = list(pool.map(run, runs))
    assert canaries.leaks(sinks) == []
    assert canaries.idle() == set()


@pytest.mark.parametrize("app", APPS)
def test_an_app_that_fails_at_the_start_may_say_why_but_no_login(app: str, yard: SecretYard) -> None:
    canaries = Canaries()
    yard.write(f"{app}.py", APPS[app])
    yard.write("secret", canaries.handler(app))
    ended = yard.command("run", f"{app}:registry")
    assert ended.returncode in (1, 2)
    assert "127.0.0.1" in ended.stderr
    assert canaries.leaks([Sink("output", ended.stdout + ended.stderr)]) == []
