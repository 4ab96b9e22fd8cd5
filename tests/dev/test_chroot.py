"""The chroot with RabbitMQ 4, up to what needs a download; `make test-rabbitmq-4` runs tests/dev/test_node.py in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from worker.dev.chroot import ensure_rabbitmq_4, find_rabbitmq_4
from worker.dev.installation import NodeUnavailable

FIX = "make test-rabbitmq-4"

needs_root = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root on Linux")


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins found before the machine's own programs: nothing is downloaded."""
    folder = tmp_path / "bin"
    tool(folder, "apt-get", "echo http://mirror.example/debian-security/ http://mirror.example/debian/")
    tool(folder, "wget", "exit 1")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def refusal(cache: Path, said: list[str] | None = None) -> str:
    with pytest.raises(NodeUnavailable) as caught:
        ensure_rabbitmq_4((said if said is not None else []).append, cache)
    return str(caught.value)


def test_says_that_it_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    text = refusal(tmp_path / "rabbitmq-4")
    assert "needs root" in text
    assert text.endswith(f"\n  fix: sudo {FIX}")
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_names_the_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install -y debootstrap wget util-linux" in refusal(tmp_path / "rabbitmq-4")


@needs_root
def test_a_half_made_one_is_removed_and_the_next_release_tried(tools: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    fails = 'echo "I: Retrieving InRelease"; echo "E: $5dists is lost"; exit 1'
    tool(tools, "debootstrap", f'mkdir -p "$4/usr"; echo "$3 $5 $6" >> {asked}; {fails}')
    cache, said = tmp_path / "rabbitmq-4", list[str]()
    (tmp_path / "rabbitmq-4.making").mkdir()  # of somebody who was killed
    text = refusal(cache, said)
    assert asked.read_text().splitlines() == [
        f"{suite} http://mirror.example/debian/ sid" for suite in ("forky", "sid", "trixie")
    ]
    assert "broker: downloading" in said
    assert "E: MIRROR/dists is lost" in text
    assert "mirror.example" not in "\n".join([text, *said])
    assert find_rabbitmq_4(cache) is None
    assert sorted(path.name for path in tmp_path.glob("rabbitmq-4*")) == ["rabbitmq-4.lock"]


@needs_root
def test_one_whose_programs_do_not_run_is_removed(tools: Path, tmp_path: Path) -> None:
    tool(tools, "debootstrap", 'mkdir -p "$4/etc" "$4/usr/lib/rabbitmq/lib/rabbitmq_server-4.9.1"')
    assert "does not run in the chroot" in refusal(tmp_path / "rabbitmq-4")
    assert sorted(path.name for path in tmp_path.glob("rabbitmq-4*")) == ["rabbitmq-4.lock"]


@needs_root
def test_a_debian_without_rabbitmq_4_is_not_taken(tools: Path, tmp_path: Path) -> None:
    tool(tools, "debootstrap", 'mkdir -p "$4/etc" "$4/usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8"')
    assert "has no RabbitMQ 4" in refusal(tmp_path / "rabbitmq-4")
    assert not (tmp_path / "rabbitmq-4").exists()


@needs_root
def test_one_that_is_there_is_used_again(tools: Path, tmp_path: Path) -> None:
    tool(tools, "debootstrap", "exit 1")
    programs = tmp_path / "rabbitmq-4" / "rabbitmq_server-4.9.1"
    programs.mkdir(parents=True)
    said: list[str] = []
    found = ensure_rabbitmq_4(said.append, tmp_path / "rabbitmq-4")
    assert (found.version, found.sbin, found.epmd, said) == ("4.9.1", programs, programs / "epmd", [])
