"""Names in [limits] that never are the key of the host they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.ops.settings import load_settings


def doubts_of(tmp_path: Path, *names: str) -> list[str]:
    (tmp_path / "worker.toml").write_text("".join(f'[limits."{name}"]\nconcurrency = 1\n' for name in names))
    loaded = load_settings({}, {}, cwd=tmp_path)
    assert set(loaded.settings.limits) == set(names)
    return [text for text in loaded.own_warnings if text.startswith("limits.")]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("API.example.com", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com:8443", "api.example.com"),
        ("https://api.example.com", "api.example.com"),
        ("http://Api.example.com.:80/v1/", "api.example.com"),
        ("10.0.0.7:80", "10.0.0.7"),
        ("localhost:8080", "localhost"),
        ("[::1]", "::1"),
        ("http://[0:0:0:0:0:0:0:1]:80/", "::1"),
    ],
)
def test_the_right_spelling_is_named(tmp_path: Path, name: str, key: str) -> None:
    (text,) = doubts_of(tmp_path, name)
    assert text.startswith(f'limits."{name}": ')
    assert f'write limits."{key}"' in text


def test_what_may_match_is_not_doubted(tmp_path: Path) -> None:
    names = ("api.example.com", "10.0.0.7", "::1", "xn--bcher-kva.example", "localhost", "default", "Tenant-7", "a:b")
    assert doubts_of(tmp_path, *names) == []
