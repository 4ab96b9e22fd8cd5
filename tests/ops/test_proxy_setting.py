"""WORKER_HTTP_PROXY: what is taken, what is refused, and that its login is shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.ops.settings import SettingsError, load_settings
from worker.ops.settings.addresses import HttpProxy, parse_http_proxy

PASSWORD = "canary"


@pytest.mark.parametrize(
    ("text", "host", "port", "user", "password"),
    [
        ("http://proxy:3128", "proxy", 3128, None, ""),
        ("http://proxy.example.com:80/", "proxy.example.com", 80, None, ""),
        ("http://Proxy.Example.com.:80", "proxy.example.com", 80, None, ""),
        ("http://127.0.0.1:8888", "127.0.0.1", 8888, None, ""),
        ("http://[::1]:8888", "::1", 8888, None, ""),
        ("http://[0:0:0:0:0:0:0:1]:8888", "::1", 8888, None, ""),
        ("http://u:p@proxy:3128", "proxy", 3128, "u", "p"),
        ("http://u@proxy:3128", "proxy", 3128, "u", ""),
        ("http://u%40x:p%3A%2F%40%25@proxy:3128", "proxy", 3128, "u@x", "p:/@%"),
    ],
)
def test_what_is_taken(text: str, host: str, port: int, user: str | None, password: str) -> None:
    found = parse_http_proxy(text)
    assert (found.host, found.port, found.user, found.password.reveal()) == (host, port, user, password)


@pytest.mark.parametrize(
    "text",
    [
        f"https://u:{PASSWORD}@proxy:443",
        f"socks5://u:{PASSWORD}@proxy:1080",
        f"u:{PASSWORD}@proxy:3128",
        "proxy:3128",
        "proxy",
        "http://proxy",
        "http://proxy:0",
        "http://proxy:65536",
        "http://proxy:x",
        "http://:3128",
        f"http://u:{PASSWORD}@:3128",
        f"http://u:{PASSWORD}@proxy:3128/path",
        f"http://u:{PASSWORD}@proxy:3128?x=1",
        f"http://u:{PASSWORD}@proxy:3128#x",
        f"http://u:{PASSWORD}@x@proxy:3128",
        f"http://u:{PASSWORD}%zz@proxy:3128",
        f"http://u:{PASSWORD}%0d%0aX@proxy:3128",
        f"http://u%3ax:{PASSWORD}@proxy:3128",
        f"http://u:{PASSWORD} x@proxy:3128",
        f"http://u:{PASSWORD}@pro xy:3128",
        f"http://u:{PASSWORD}ü@proxy:3128",
        f"http://u:{PASSWORD}@[::1:3128",
        f"http://u:{PASSWORD}@[::1].x:3128",
    ],
)
def test_what_is_refused_shows_no_password(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, environ={"WORKER_HTTP_PROXY": text})
    assert "variable WORKER_HTTP_PROXY: " in str(caught.value)
    assert "write http://host:port or http://user:password@host:port" in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "1.2.3.256", "proxy.1", "[fe80::1%25eth0]"])
def test_an_address_is_written_whole(host: str) -> None:
    with pytest.raises(SettingsError, match=r"variable WORKER_HTTP_PROXY: .*; write") as caught:
        load_settings({}, environ={"WORKER_HTTP_PROXY": f"http://u:{PASSWORD}@{host}:3128"})
    assert PASSWORD not in str(caught.value)


def test_its_login_is_shown_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    file.write_text(f"http://u:{PASSWORD}@proxy.example.com:3128\n")
    loaded = load_settings({}, environ={"WORKER_HTTP_PROXY_FILE": str(file)})
    [shown] = [row.value for row in loaded.rows() if row.setting.name == "http_proxy"]
    assert shown == "http://u:***@proxy.example.com:3128"
    assert PASSWORD not in repr(loaded) + str(loaded.settings) + repr(loaded.settings.http_proxy)


def test_there_is_none_by_default_and_the_environments_are_ignored() -> None:
    environ = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://elsewhere:3128")
    assert load_settings({}, environ=environ).settings.http_proxy is None


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert str(parse_http_proxy("http://[::1]:8888")) == "http://[::1]:8888"
    assert isinstance(parse_http_proxy("http://[::1]:8888"), HttpProxy)
