"""What the settings become: the guarded way out with what may not be reached, and the proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.http.small_proxy import SmallProxy
from worker import NotSent, Request
from worker.cli.wiring import transport_of
from worker.http.client import HttpTransport
from worker.http.guard import Blocked
from worker.ops.metrics import Metrics
from worker.ops.settings import load_settings

ADMIN = ("127.0.0.1", 8080)


def transport(**environ: str) -> HttpTransport:
    settings = load_settings({}, {f"WORKER_{name.upper()}": text for name, text in environ.items()}).settings
    return transport_of(settings, Metrics([]), ADMIN)


async def test_everything_goes_by_the_proxy_of_the_settings() -> None:
    proxy = SmallProxy(answer=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    server = await proxy.open()
    made = transport(http_proxy=f"http://u:p%40ss@127.0.0.1:{proxy.port}")
    await made.self_test()
    with pytest.raises(NotSent, match="the proxy refused to connect"):
        await made.send(Request("GET", "https://api.example.com/"))
    assert [(asked.line, asked.login) for asked in proxy.asked] == [
        ("CONNECT api.example.com:443 HTTP/1.1", "Basic dTpwQHNz")
    ]
    await made.aclose()
    server.close()
    proxy.close()


async def test_the_broker_stays_closed_where_its_file_says_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where it was: it may be the same one by two names."""
    monkeypatch.setattr("worker.ops.settings.rotation.LOOK_EVERY", 0.0)
    file = tmp_path / "url"
    file.write_text("amqp://u:p@127.0.0.1:5672/")
    made = transport(amqp_url_file=str(file), http_allow="127.0.0.0/8", trusted_users="u")
    with pytest.raises(NotSent):
        await made.send(Request("GET", "http://127.0.0.1:1/"))
    file.write_text("amqp://u:p@127.0.0.1:1/")
    for port in (1, 5672, ADMIN[1]):
        with pytest.raises(Blocked):
            await made.send(Request("GET", f"http://127.0.0.1:{port}/"))
    await made.aclose()
    await asyncio.sleep(0)
