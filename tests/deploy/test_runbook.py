"""What the runbook names is there: files, headings, commands, events of the log."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.deploy.queries import DEPLOY
from tests.deploy.tools import CHECKOUT
from worker.cli.app import run

RUNBOOK = DEPLOY / "README.md"
TEXT = RUNBOOK.read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT)))


def anchors(file: Path) -> set[str]:
    """As they are made of headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@cache
def source() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "worker").rglob("*.py"))


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_somewhere(link: str) -> None:
    name, _, anchor = link.partition("#")
    file = (DEPLOY / name).resolve() if name else RUNBOOK
    assert file.exists()
    assert not anchor or anchor in anchors(file)


@pytest.mark.parametrize("event", sorted(set(re.findall(r"`((?:job|handler|reply|broker)\.[a-z_]+)`", TEXT))))
def test_an_event_of_the_log_exists(event: str) -> None:
    assert f'"{event}"' in source()


def named_commands() -> list[str]:
    """The commands among `code like this`, without their flags."""
    code = [" ".join(span.split()) for span in re.findall(r"`(worker [^`]+)`", TEXT)]
    return sorted({" ".join(re.findall(r"^worker ((?:(?:dead|topology|parked) )?[a-z]+)", span)) for span in code})


def test_commands_are_found() -> None:
    assert {"check", "status", "pause", "dead replay", "topology apply"} <= set(named_commands())


@pytest.mark.parametrize("command", named_commands())
def test_a_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert f"worker {command}" in capsys.readouterr().out
