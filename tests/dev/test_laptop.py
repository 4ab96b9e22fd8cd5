"""`worker dev`: what it says can be pasted, and Ctrl-C ends all of it."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from tests.dev.running import eventually, running
from worker.dev.node import Node
from worker.dev.service import clean_environment


def test_what_it_says_can_be_pasted(node: Node, tmp_path: Path) -> None:
    assert node.running  # there is a RabbitMQ here
    # With the usual port taken it listens elsewhere.
    with socket.socket() as taken, running(tmp_path, "worker", "dev") as laptop:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has it
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        assert laptop.says("curl "), laptop.output
        url = re.search(r"export (WORKER_AMQP_URL)=(\S+)", laptop.output)
        line = re.search(r"worker (publish http .*)", laptop.output)
        admin = re.search(r"curl (http://\S+)", laptop.output)
        assert url is not None
        assert line is not None
        assert admin is not None

        command = [sys.executable, "-m", "worker", *shlex.split(line[1])]
        subprocess.run(command, env={**clean_environment(), url[1]: url[2]}, check=True, timeout=30)
        assert eventually(lambda: [call.status for call in laptop.ledger()] == [200])
        assert ":8080/" not in admin[1]
        with urlopen(admin[1], timeout=5) as answer:
            assert isinstance(json.load(answer), list)

        assert len(laptop.family()) >= 6  # itself, the node and its guard, the target, the worker and its guard
        laptop.interrupt()
        assert laptop.end() == 0, laptop.output
        assert laptop.left_behind() == []
