"""A private RabbitMQ node: its own data, ports and cookie, on 127.0.0.1 only, gone when its owner is gone.

python -m worker.dev.node fetch    make sure that RabbitMQ can be started here
python -m worker.dev.node run      start a node, print its URL, end it on Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from worker.dev import guard
from worker.dev.installation import (
    Installation,
    NodeUnavailable,
    default_cache,
    ensure_rabbitmq,
    find_rabbitmq,
)
from worker.dev.ports import free_ports

__all__ = [
    "Installation",
    "Node",
    "NodeUnavailable",
    "default_cache",
    "ensure_rabbitmq",
    "find_rabbitmq",
]

_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 30.0
_CTL_TIMEOUT = 60.0
_TAIL_LINES = 25
_ERROR_LINES = 12
_HANDSHAKE = b"AMQP\0\0\x09\x01"
_SCHEDULERS = min(os.cpu_count() or 1, 4)
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


class Node:
    """One RabbitMQ node of our own. Not started by being made; `with Node() as node:` starts and stops it.

    `plugins` are enabled, for instance "rabbitmq_management" (then at `management_url`). `conf` are further lines of
    rabbitmq.conf. Data live in `directory` (kept by `stop()`, and by the with statement if it was given), else in a
    temporary folder. Ports stay the same over restarts. Not for several threads at once.
    """

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        name: str = "worker",
        plugins: Iterable[str] = (),
        conf: Sequence[str] = (),
        directory: Path | None = None,
    ) -> None:
        found = installation or ensure_rabbitmq()
        self._owned = directory is None
        self.directory = directory.absolute() if directory else Path(tempfile.mkdtemp(prefix="worker-rabbitmq-"))
        if " " in str(self.directory):
            self.remove()
            raise NodeUnavailable(f"RabbitMQ's scripts cannot work in a folder with a space: {self.directory}")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._installation = found.seen_through(self.directory / "rabbitmq")
        self.port, self._dist_port, self._epmd_port, self._management_port, self._prometheus_port = free_ports(5)
        self.name = f"{name}@localhost"
        self._guard: subprocess.Popen[bytes] | None = None
        self._configure(plugins, conf)

    @property
    def url(self) -> str:
        """Where and as whom to connect."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        """The management API, if that plugin was asked for."""
        return f"http://guest:guest@127.0.0.1:{self._management_port}"

    @property
    def prometheus_url(self) -> str:
        """The broker's own metrics, if that plugin was asked for."""
        return f"http://127.0.0.1:{self._prometheus_port}/metrics"

    @property
    def version(self) -> str:
        """RabbitMQ's version, as far as the installation tells."""
        return self._installation.version

    @property
    def pid(self) -> int:
        """The process id of the running node (Erlang's virtual machine)."""
        pid = int(self._path("pid").read_text(encoding="ascii"))
        # Never signal a stranger that got the number later: ours is in its guard's process group.
        if self._guard is None or os.getpgid(pid) != self._guard.pid:
            raise ProcessLookupError(f"process {pid} is not this node's")
        return pid

    @property
    def running(self) -> bool:
        """Whether the node's process is there, frozen or not."""
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self.remove()

    def start(self, timeout: float = _START_TIMEOUT) -> None:
        """Start on the data that are there, and wait until a client can connect. Raises NodeUnavailable."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        self._path("pid").unlink(missing_ok=True)
        with self._path("output").open("wb") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *self._guarded()],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self.directory,
                start_new_session=True,  # a terminal's Ctrl-C is for us alone; we end the node in our own time
            )
        self._wait_until_ready(time.monotonic() + timeout)

    def stop(self) -> None:
        """End the node as an operator would: queues are closed, what is durable is on disk. Harmless when it is off."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._guard.stdin.write(b".")
            self._guard.stdin.flush()
        self._wait_for_guard()

    def kill(self) -> None:
        """End the node as a crash would: SIGKILL, nothing is closed."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait_for_guard()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze()`."""
        os.kill(self.pid, signal.SIGCONT)

    def ctl(self, *arguments: str, timeout: float = _CTL_TIMEOUT) -> str:
        """Run rabbitmqctl on this node and return what it prints; 0.5 to 1 s a call. Raises RuntimeError."""
        done = subprocess.run(
            [self._program("rabbitmqctl"), "--quiet", "--node", self.name, *arguments],
            env=self._environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done.stdout

    def log(self, lines: int = _TAIL_LINES) -> str:
        """The end of what the node said since it was started: its log, and what it printed."""
        return "\n".join(self._said()[-lines:])

    def remove(self) -> None:
        """Delete the data, unless the folder was given."""
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _said(self) -> list[str]:
        output = self._path("output")
        return [line for line in output.read_text(errors="replace").splitlines() if line.strip()]

    def _complaint(self) -> str:
        """Why it did not start: its first errors. After these come pages of consequences."""
        said = self._said()
        errors = [line for line in said if "[error]" in line] or said[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in errors[:_ERROR_LINES])

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _program(self, name: str) -> Path:
        return self._installation.sbin / name

    def _guarded(self) -> list[str]:
        to_delete = str(self.directory) if self._owned else ""
        epmd = [str(self._installation.epmd), "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        return [to_delete, *epmd, "--", str(self._program("rabbitmq-server"))]

    def _configure(self, plugins: Iterable[str], conf: Sequence[str]) -> None:
        self._path("home").mkdir(exist_ok=True)
        self._path("enabled_plugins").write_text(f"[{','.join(plugins)}].\n", encoding="ascii")
        self._path("advanced.config").write_text("[].\n", encoding="ascii")
        self._path("env.conf").write_text("", encoding="ascii")  # hides the machine's own
        # Only plugins that are enabled may be configured: RabbitMQ refuses keys that it does not know.
        ports = {"rabbitmq_management": ("management", self._management_port)}
        ports["rabbitmq_prometheus"] = ("prometheus", self._prometheus_port)
        listeners = [ports[plugin] for plugin in plugins if plugin in ports]
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "vm_memory_high_watermark.absolute = 512MiB",
            "disk_free_limit.absolute = 50MB",
            *(f"{name}.tcp.{key}" for name, port in listeners for key in ("ip = 127.0.0.1", f"port = {port}")),
            "log.console = true",
            "log.file = false",
            *conf,
        ]
        self._path("rabbitmq.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        """The caller's, without what it may say about some other RabbitMQ or Erlang."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **inherited,
            **self._installation.environment(),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._path("home")),  # the cookie is made there, and rabbitmqctl looks for it there
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SCRIPTS_DIR": str(self._installation.sbin),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self._path("data")),
            "RABBITMQ_LOG_BASE": str(self._path("log")),
            "RABBITMQ_PID_FILE": str(self._path("pid")),
            "RABBITMQ_CONF_ENV_FILE": str(self._path("env.conf")),
            "RABBITMQ_CONFIG_FILE": str(self._path("rabbitmq")),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._path("advanced.config")),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._path("enabled_plugins")),
            # Idle schedulers must not spin: on a small machine they would take the time that is measured.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"+S {_SCHEDULERS}:{_SCHEDULERS} +sbwt none +sbwtdcpu none +sbwtdio none {_LOOPBACK}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK,
        }

    def _wait_until_ready(self, deadline: float) -> None:
        assert self._guard is not None
        while not self._answers():
            if self._guard.poll() is not None:
                raise NodeUnavailable(f"the RabbitMQ node ended while starting; it says:\n{self._complaint()}")
            if time.monotonic() > deadline:
                self.stop()
                raise NodeUnavailable(f"the RabbitMQ node did not start in time; its last words:\n{self.log()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether the AMQP handshake gets an answer: a listener alone may still belong to a node that boots."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                client.sendall(_HANDSHAKE)
                return client.recv(1) == b"\x01"
        except OSError:
            return False

    def _wait_for_guard(self) -> None:
        assert self._guard is not None
        try:
            self._guard.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        self._guard = None


def _fetch() -> int:
    found = ensure_rabbitmq(_say)
    _say(f"broker: RabbitMQ {found.version} in {found.root or found.sbin}")
    return 0


def _run(plugins: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    node = Node(ensure_rabbitmq(_say), plugins=plugins)
    try:
        with node:
            _say(f"listening on {node.url}")
            _say(f"rabbitmqctl works with HOME={node.directory / 'home'}; Ctrl-C ends the node")
            while node.running:
                time.sleep(0.5)
            _say(f"the node ended by itself; its last words:\n{node.log()}")
    except KeyboardInterrupt:
        return 0
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m worker.dev.node")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="make sure that RabbitMQ can be started here")
    run = commands.add_parser("run", help="start a node, print its URL, end it on Ctrl-C")
    run.add_argument("--plugin", action="append", default=[], dest="plugins", help="such as rabbitmq_management")
    options = parser.parse_args(arguments)
    try:
        return _fetch() if options.command == "fetch" else _run(options.plugins)
    except NodeUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
