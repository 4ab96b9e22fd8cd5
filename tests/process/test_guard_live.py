"""A worker whose address guard is not live does not start."""

from __future__ import annotations

import pytest

from tests.process.kit import Yard

SABOTAGE = {
    "check": "Guard.check = lambda *arguments: None",
    "socket": "GuardedResolver.open_socket = lambda self, info: socket.socket(*info[:3])",
}


@pytest.mark.parametrize("hook", SABOTAGE)
def test_a_worker_without_its_guard_ends_with_a_line_that_says_so(yard: Yard, hook: str) -> None:
    yard.write(
        "shop.py",
        "import socket\nfrom worker import Registry\nfrom worker.http.guard import Guard\n"
        f"from worker.http.resolver import GuardedResolver\n\nregistry = Registry()\n{SABOTAGE[hook]}\n",
    )
    ended = yard.command("run", "shop:registry")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "error: the address guard is not live" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
