"""A command lives no longer than its owner."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.dev.running import eventually
from worker.dev import owned

POLITE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""
OWNER = """
import subprocess, sys
subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()
"""


def command(script: str, grace: float) -> list[str]:
    return [sys.executable, "-I", owned.__file__, str(grace), sys.executable, "-c", script]


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_its_exit_code_is_the_commands() -> None:
    with subprocess.Popen(command("raise SystemExit(5)", 1), stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=10) == 5


def test_a_byte_is_a_sigterm() -> None:
    with started(command(POLITE, 60)) as process:
        assert process.stdin is not None
        process.stdin.write(".")
        process.stdin.flush()
        assert process.wait(timeout=10) == 7


@pytest.mark.parametrize(
    ("script", "code"), [(POLITE, 7), (STUBBORN, 128 + signal.SIGKILL)], ids=["polite", "stubborn"]
)
def test_a_closed_pipe_ends_it(script: str, code: int) -> None:
    with started(command(script, 0.3)) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=10) == code


def test_it_ends_with_an_owner_that_is_killed() -> None:
    with started([sys.executable, "-c", OWNER, *command(STUBBORN, 0.3)]) as owner:
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) == 2
        owner.send_signal(signal.SIGKILL)
        assert eventually(lambda: not any(process.is_running() for process in family), within=10)
