"""What `worker dev` runs: a private RabbitMQ node, a target to call, and the worker, for as long as one wants."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from worker.dev.node import Node, NodeUnavailable, ensure_rabbitmq
from worker.dev.ports import free_ports
from worker.dev.service import Service, clean_environment
from worker.dev.target import Target

_ADMIN_PORT = 8080
_OUR_OWN = ("WORKER_AMQP_", "WORKER_ADMIN")
_LOOPBACK = "127.0.0.0/8"


def run_laptop(apps: Sequence[str]) -> int:
    """Run until Ctrl-C, which drains the worker and then ends the rest; the exit code is the worker's, 1 without node.

    The worker has the caller's settings (variables and worker.toml), but for the broker and the admin listener.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="worker-dev-")))
            _say("broker: starting a private RabbitMQ node")
            node = stack.enter_context(Node(ensure_rabbitmq(_say)))
            target = stack.enter_context(Target(folder / "ledger"))
            return _serve(node, target, apps)
    except KeyboardInterrupt:
        return 0
    except (NodeUnavailable, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _serve(node: Node, target: Target, apps: Sequence[str]) -> int:
    admin = f"127.0.0.1:{_admin_port()}"
    service = Service(_environment(node.url, admin), admin=admin, folder=Path.cwd(), apps=apps)
    try:
        service.start()
        asked = _hand_on_signals(service)
        if service.comes_up():
            _invite(node.url, target.url, admin)
        code = service.wait()
    finally:
        _ignore_signals()
        service.stop()
    # A worker that was asked to end before it could know how.
    return 0 if asked and code == 128 + signal.SIGTERM else code


def _environment(url: str, admin: str) -> dict[str, str]:
    """The caller's, but for where the broker is and where the worker listens; this machine may be called."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OUR_OWN)}
    allowed = [entry for entry in (kept.get("WORKER_HTTP_ALLOW"), _LOOPBACK) if entry]
    return {
        **kept,
        "PYTHONPATH": clean_environment()["PYTHONPATH"],
        "WORKER_AMQP_URL": url,
        "WORKER_ADMIN": admin,
        "WORKER_HTTP_ALLOW": ",".join(allowed),
    }


def _admin_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listener does
        try:
            probe.bind(("127.0.0.1", _ADMIN_PORT))
        except OSError:
            return free_ports(1)[0]
    return _ADMIN_PORT


def _invite(url: str, target: str, admin: str) -> None:
    _say("")
    _say("ready. In another terminal (the target's other paths: worker/dev/target_script.py):")
    _say(f"  export WORKER_AMQP_URL={url}")
    _say(f"""  {_command()} publish http '{{"url": "{target}/ok"}}'""")
    _say(f"  curl http://{admin}/jobs")
    _say("")


def _command() -> str:
    """What a shell in this folder takes for this very command."""
    installed = Path(sys.executable).with_name("worker")
    found = shutil.which("worker")
    if found and installed.exists() and Path(found).samefile(installed):
        return "worker"
    return shlex.quote(str(installed)) if installed.exists() else f"{shlex.quote(sys.executable)} -m worker"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise KeyboardInterrupt


def _hand_on_signals(service: Service) -> list[int]:
    """From now on the worker is told to end, and all else follows; the list tells what came."""
    came: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        service.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    return came


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _say(line: str) -> None:
    print(line, flush=True)
