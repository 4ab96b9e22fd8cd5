"""Everything in deploy/ checked without a cluster or an engine, once its tools are there: python -m tests.deploy.

Each check is also shown a fault that it must find. Exit 0 when nothing is wrong, else 1. What cannot be checked here is
said, and is a failure on CI.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.checks import CHECKS, Check
from tests.deploy.queries import DEPLOY
from tests.deploy.tools import Missing


def main(checks: Sequence[Check] = CHECKS, deploy: Path = DEPLOY) -> int:
    unchecked: list[str] = []
    wrong = False
    for check in checks:
        try:
            faults = _faults(check, deploy)
        except Missing as missing:
            unchecked.append(check.name)
            _say("NOT CHECKED", check.name, str(missing))
        else:
            wrong = wrong or bool(faults)
            _say("FAILED" if faults else "ok", check.name, *faults)
    if unchecked:
        _write(f"check-deploy: {len(unchecked)} of {len(checks)} NOT CHECKED HERE: {'; '.join(unchecked)}")
    return int(wrong or bool(unchecked and os.environ.get("CI")))


def _faults(check: Check, deploy: Path) -> list[str]:
    found = check.look(deploy)
    if not found and not check.finds_planted(deploy):
        return ["it does not find the fault that was planted for it"]
    return found


def _say(verdict: str, name: str, *lines: str) -> None:
    _write(f"{verdict:<12} {name}")
    for line in lines:
        _write(f"{'':<12} {line}")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
