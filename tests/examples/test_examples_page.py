"""docs/examples.md shows the files of the shop as they are tested, all of them, and says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.stage import SHOP

PAGE = Path(__file__).parents[2] / "docs" / "examples.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
LANGUAGES = {"json": "json", "py": "python", "sh": "sh", "toml": "toml"}


def shown(section: str) -> dict[str, str]:
    """The files of a section, by name."""
    found = re.findall(r"^`(\w+)\.(\w+)`\n\n```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert all(LANGUAGES[ending] == language for _, ending, language, _ in found)
    return {f"{name}.{ending}": text for name, ending, _, text in found}


def test_there_are_ten_and_nothing_is_left_out() -> None:
    assert len(SECTIONS) == 10
    names = [name for section in SECTIONS for name in shown(section)]
    assert sorted(names) == sorted(path.name for path in SHOP.iterdir() if path.is_file())


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_it_shows_what_is_tested(section: str) -> None:
    files = shown(section)
    assert section.count("```") == 2 * len(files) > 0
    assert files == {name: (SHOP / name).read_text(encoding="utf-8") for name in files}
    (test,) = re.findall(r"\[Its test\]\((.*?)\)", section)
    text = (PAGE.parent / test).read_text(encoding="utf-8")
    assert all(f'"{name}"' in text for name in files)
