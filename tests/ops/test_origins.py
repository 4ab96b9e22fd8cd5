"""Places that credentials go to: what is taken at load is what requests can go to, read by both parsers."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.http.credentials import Bearer, Credential
from worker.http.url import parse_url
from worker.ops.settings import SettingsError, load_settings
from worker.ops.settings.addresses import parse_origin

TAKEN: list[tuple[str, str]] = [
    ("https://crm.example.com", "https://crm.example.com"),
    ("HTTPS://CRM.example.com:443/", "https://crm.example.com"),
    ("http://crm:8080", "http://crm:8080"),
    ("https://crm.example.com.", "https://crm.example.com"),
    ("https://a_b.example", "https://a_b.example"),
    ("https://1.2.3.4", "https://1.2.3.4"),
    ("https://1.example", "https://1.example"),
    ("https://[::1]:8443", "https://[::1]:8443"),
    ("https://[1:0:0::2]", "https://[1::2]"),
    ("https://[::ffff:1.2.3.4]", "https://[::ffff:102:304]"),
]
NUMBERS = [
    "1.2.3.4.5",
    "1.2.3.256",
    "a.123",
    "127.1",
    "0x7f.1",
    "a.0X1F",
    "a.0x",
    "2130706433",
    "010.1.1.1",
    "1.2.3.4.",
]
REFUSED = [
    *(f"https://{host}" for host in NUMBERS),
    "https://[fe80::1%25eth0]",
    "https://[fe80::1%eth0]",
    "https://[::1].x",
    "https://[v1.a]",
    "https://[1.2.3.4]",
    "https://fe80::1",
    "https://h..",
    "https://.h",
    "https://h:",
    "https://h:0",
    "https://h:65536",
    "https://user@h",
    "https://h/path",
    "https://h?query",
    "ftp://h",
    "https://",
    "h",
]


@pytest.mark.parametrize(("text", "origin"), TAKEN)
def test_what_is_taken_is_what_requests_go_to(text: str, origin: str) -> None:
    assert parse_origin(text) == origin
    crm = Credential("crm", (origin,), Bearer(lambda: "x"))
    assert parse_url(origin).text == f"{origin}/"
    assert crm.covers(parse_url(f"{origin}/path"))


@pytest.mark.parametrize("text", REFUSED)
def test_what_no_request_could_go_to_is_refused_at_load(tmp_path: Path, text: str) -> None:
    """By the field, also where the credential's other half is told by a URL."""
    client = f'token_url = "{text}/token"\nclient_id = "a"\nclient_secret = "b"'
    rows = {"origins": f'bearer = "x"\norigins = ["https://h", "{text}"]'}
    if not text.endswith(("path", "query")):
        rows["token_url"] = f'{client}\norigins = ["https://h"]'
    for field, row in rows.items():
        (tmp_path / "worker.toml").write_text(f"[credentials.crm]\n{row}")
        with pytest.raises(SettingsError, match=rf"key credentials\.crm\.{field}: ") as caught:
            load_settings({}, {}, None, tmp_path)
        assert "write " in str(caught.value)
