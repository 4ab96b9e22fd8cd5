"""Programs that cannot be had are told with the reason and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import tools
from tests.deploy.tools import PROMTOOL, Missing, installed, packaged, promtool, run


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing fetched yet, and a folder for its programs before those of the system."""
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_without_apt(bare: Path) -> None:
    with pytest.raises(Missing, match=r"no promtool here, and no apt-get .*; install Prometheus"):
        promtool()


def test_what_apt_said_is_handed_on(bare: Path) -> None:
    put(
        bare,
        "apt-get",
        '[ "$1" = indextargets ] && echo http://mirror/debian && exit 0; echo "E: no luck" >&2; exit 100',
    )
    put(bare, "dpkg-deb", "exit 1")
    with pytest.raises(Missing, match="E: no luck"):
        packaged(PROMTOOL)
    assert not list((tools.CACHE).glob("promtool/*"))


def test_without_a_mirror(bare: Path) -> None:
    put(bare, "apt-get", "exit 0")
    put(bare, "dpkg-deb", "exit 0")
    with pytest.raises(Missing, match="no mirror"):
        packaged(PROMTOOL)


def test_one_that_is_installed_is_taken(bare: Path) -> None:
    put(bare, "promtool", "echo mine")
    assert promtool() == bare / "promtool"
    assert run([promtool()]).said == "mine"


def test_one_that_only_the_machine_can_have(bare: Path) -> None:
    with pytest.raises(Missing, match="systemd-analyze is not on this machine; get one"):
        installed("systemd-analyze", "get one")
