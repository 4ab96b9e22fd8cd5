"""Secrets in files that change while the worker runs: what is seen of it, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from worker.ops.settings import load_settings, rotation
from worker.ops.settings.rotation import Rotating, rotating

ORIGINS: Final = 'origins = ["https://crm.example.com"]'
KEY: Final = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
OTHER: Final = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("one")
    return path


class Clock:
    """Moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def plain(text: str) -> str:
    if text.startswith("bad"):
        raise ValueError("bad")
    return text


Ask = Callable[[], str]


@pytest.fixture
def ask(file: Path, clock: Clock) -> Ask:
    """The value at the next look."""
    value = Rotating(file, plain, "one", clock=clock)

    def asked() -> str:
        clock.now += rotation.LOOK_EVERY
        return value()

    return asked


def write_unseen(path: Path, text: str) -> None:
    """In place, and to be told from before by its content only: the same size, time and inode."""
    found = path.stat()
    path.write_text(text)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (found.st_size, found.st_mtime_ns, found.st_ino)


def test_a_file_is_looked_at_once_a_second(file: Path, clock: Clock) -> None:
    value = Rotating(file, plain, "one", clock=clock)
    assert value() == "one"
    file.write_text("two, which is longer")
    clock.now += rotation.LOOK_EVERY * 0.9
    assert value() == "one"
    clock.now += rotation.LOOK_EVERY * 0.2
    assert value() == "two, which is longer"


def test_a_bad_file_is_read_again_though_it_looks_as_it_did(file: Path, ask: Ask) -> None:
    file.write_text("bad")
    assert ask() == "one"
    write_unseen(file, "two")
    assert ask() == "two"


def test_a_file_that_cannot_be_read_is_read_again_when_it_can_be(file: Path, ask: Ask) -> None:
    file.unlink()
    file.mkdir()
    assert ask() == "one"
    file.rmdir()
    file.write_text("two")
    assert ask() == "two"


def test_a_good_file_that_looks_as_it_did_is_not_read(file: Path, ask: Ask) -> None:
    """What it costs to ask: one look, no reading."""
    assert ask() == "one"
    write_unseen(file, "two")
    assert ask() == "one"


def test_another_inode_is_another_file(tmp_path: Path, file: Path, ask: Ask) -> None:
    """As `ln -sfn` and a renamed copy make it: same size, same time."""
    assert ask() == "one"
    found = file.stat()
    other = tmp_path / "other"
    other.write_text("two")
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_mtime_ns == found.st_mtime_ns
    assert ask() == "two"


def test_a_change_between_the_load_and_the_first_use_is_seen(file: Path, clock: Clock) -> None:
    """The settings are read first, and this is made later: whatever has become of the file, it is read at once."""
    write_unseen(file, "two")
    assert Rotating(file, plain, "one", clock=clock)() == "two"


SECRET_CELLS: list[tuple[str, str, str, str]] = [
    ("", "bearer", "old", "new"),
    ('user = "jane"', "password", "old", "new"),
    ('header = "X-Api-Key"', "value", "old", "new"),
    ('token_url = "https://h/"\nclient_id = "a"', "client_secret", "old", "new"),
    ("", "signing_key", KEY, f"{OTHER}\n{KEY}"),
]


@pytest.mark.parametrize(("others", "cell", "old", "new"), SECRET_CELLS)
def test_every_secret_of_a_credential_is_read_anew(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, others: str, cell: str, old: str, new: str
) -> None:
    monkeypatch.setattr(rotation, "LOOK_EVERY", 0.0)
    file.write_text(old)
    (tmp_path / "worker.toml").write_text(f'[credentials.crm]\n{cell}_file = "secret"\n{others}\n{ORIGINS}')
    now = rotating(load_settings({}, {}, None, tmp_path).settings.credentials["crm"], cell)
    assert now() == old
    (tmp_path / "new").write_text(new)
    (tmp_path / "new").replace(file)
    assert now() == new
    file.write_text("\x01 refused")
    assert now() == new, "what is refused leaves the last good one in force"


def test_a_secret_in_the_table_stays(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text(f'[credentials.crm]\nbearer = "abc"\n{ORIGINS}')
    assert rotating(load_settings({}, {}, None, tmp_path).settings.credentials["crm"], "bearer")() == "abc"
