"""The report of `make check-deploy`: what is wrong, what could not be looked at, and checks that see nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.__main__ import main
from tests.deploy.checks import CHECKS, Check
from tests.deploy.queries import DEPLOY
from tests.deploy.tools import Missing

PLANTED = ("file", "right", "wrong")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("right", encoding="utf-8")
    return tmp_path


def reads(folder: Path) -> list[str]:
    return ["it is wrong"] if "wrong" in (folder / "file").read_text(encoding="utf-8") else []


def cannot(_: Path) -> list[str]:
    raise Missing("no program here")


@pytest.mark.parametrize("ci", ["", "true"])
def test_all_is_well(folder: Path, ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    assert main([Check("one", reads, PLANTED)], folder) == 0
    assert (folder / "file").read_text(encoding="utf-8") == "right"


def test_a_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("wrong", encoding="utf-8")
    assert main([Check("one", reads, PLANTED), Check("two", lambda _: [], None)], folder) == 1
    assert capsys.readouterr().out == "FAILED       one\n             it is wrong\nok           two\n"


def test_a_check_that_sees_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([Check("blind", lambda _: [], PLANTED)], folder) == 1
    assert "does not find the fault" in capsys.readouterr().out


def test_a_plant_that_changes_nothing(folder: Path) -> None:
    assert main([Check("one", reads, ("file", "no such text", "wrong"))], folder) == 1


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_what_is_missing_is_told_and_a_failure_on_ci(
    folder: Path, ci: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", ci)
    assert main([Check("one", cannot, None), Check("two", reads, PLANTED)], folder) == code
    said = capsys.readouterr().out
    assert "NOT CHECKED  one\n             no program here\n" in said
    assert said.endswith("1 of 2 NOT CHECKED HERE: one\n")


@pytest.mark.parametrize("check", [one for one in CHECKS if one.planted], ids=lambda one: one.name)
def test_what_is_planted_has_a_place(check: Check) -> None:
    assert check.planted is not None
    name, right, wrong = check.planted
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert text.replace(right, wrong, 1) != text
