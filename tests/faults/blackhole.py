"""Row 9 for real, in network namespaces of its own: python -m tests.faults.blackhole FOLDER WAY.

    here: broker  --  router  --  worker and target

The router swallows what goes one way (`up` to the broker, `down` to the worker, or `both`), without a word to anybody:
that is what a proxy cannot do, for it answers for the other end. Needs root. To be started under `unshare --net`, so
that nothing of it can reach another machine; it looks before it does anything.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from tests.faults.trial import Trial
from tests.process.kit import Worker, eventually
from worker.dev.node import Node
from worker.dev.ports import free_ports
from worker.dev.target import Target

BROKER, WORKER = "10.77.1.1", "10.77.2.2"
NOTICED: Final = 45.0


def ip(*words: str, inside: Sequence[str] = ()) -> str:
    """The `ip` command, in another namespace if `inside` says how to get there."""
    done = subprocess.run([*inside, "ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def assert_nowhere_to_go() -> None:
    """Only a namespace that has nothing but a loopback interface is one that this may run in."""
    links = json.loads(ip("-json", "link", "show"))
    assert {link["ifname"] for link in links} <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0"}, links
    assert ip("route", "show") == ""


class Place:
    """Another network namespace, held open by a process of ours that only sleeps."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        own = Path("/proc/self/ns/net").readlink()
        eventually(lambda: Path(f"/proc/{self._holder.pid}/ns/net").readlink() != own, "the namespace is there", 5)
        self.inside = ["nsenter", "--net", "--target", str(self._holder.pid)]
        self.pid = str(self._holder.pid)
        ip("link", "set", "lo", "up", inside=self.inside)

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait()


class FarTarget(Target):
    """A target in another place: the worker reaches it whatever happens between it and the broker."""

    def __init__(self, ledger: Path, inside: Sequence[str]) -> None:
        super().__init__(ledger)
        self._inside = list(inside)

    def start(self) -> None:
        command = [*self._inside, sys.executable, "-m", "worker.dev.target", "--owned", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--ledger", str(self.ledger_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("listening on ")


@contextlib.contextmanager
def places() -> Iterator[tuple[Place, Place]]:
    """The router's and the worker's, wired to here and to each other."""
    ip("link", "set", "lo", "up")
    with contextlib.ExitStack() as stack:
        router, far = Place(), Place()
        for place in (router, far):
            stack.callback(place.close)
        ip("link", "add", "to-router", "type", "veth", "peer", "name", "to-broker", "netns", router.pid)
        ip(
            "link",
            "add",
            "to-worker",
            "type",
            "veth",
            "peer",
            "name",
            "to-router",
            "netns",
            far.pid,
            inside=router.inside,
        )
        ends = [
            ((), "to-router", f"{BROKER}/30"),
            (router.inside, "to-broker", "10.77.1.2/30"),
            (router.inside, "to-worker", "10.77.2.1/30"),
            (far.inside, "to-router", f"{WORKER}/30"),
        ]
        for inside, name, address in ends:
            ip("address", "add", address, "dev", name, inside=inside)
            ip("link", "set", name, "up", inside=inside)
        ip("route", "add", "10.77.2.0/30", "via", "10.77.1.2")
        ip("route", "add", "10.77.1.0/30", "via", "10.77.2.1", inside=far.inside)
        forward = [*router.inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run(forward, check=True)
        yield router, far


def swallow(router: Place, way: str, action: str) -> None:
    """From now on (`add`), or no more (`del`)."""
    if way in {"up", "both"}:
        ip("route", action, "blackhole", f"{BROKER}/32", inside=router.inside)
    if way in {"down", "both"}:
        ip("route", action, "blackhole", f"{WORKER}/32", inside=router.inside)


def consuming(trial: Trial, far: Place, url: str) -> Worker:
    worker = trial.launch_limited(far.inside, concurrency="10", prefetch="20", amqp_url=url)
    eventually(lambda: worker.lines("worker.started"), "the worker consumes")
    return worker


def connections(trial: Trial) -> int:
    """From the worker's place, as the broker knows them."""
    return trial.node.ctl("list_connections", "peer_host").count(WORKER)


def main(folder: Path, way: str) -> None:
    """Break the link one way in the midst of jobs, heal it when both ends have noticed, and judge."""
    assert_nowhere_to_go()
    figures: list[str] = []
    (port,) = free_ports(1)
    with places() as (router, far), contextlib.ExitStack() as stack:
        node = stack.enter_context(
            Node(conf=[f"listeners.tcp.2 = {BROKER}:{port}", "loopback_users = none", "heartbeat = 10"])
        )
        target = stack.enter_context(FarTarget(folder / "effects.log", far.inside))
        trial = stack.enter_context(Trial(node, folder, target, figures.append))
        trial.declare()
        worker = consuming(trial, far, f"amqp://guest:guest@{BROKER}:{port}/")
        trial.publish_all(trial.jobs(60, "/ok?ms=500&job={}"))
        trial.until_done(5)
        with trial.fault("link.blackhole", recover=10):
            since = time.time()
            swallow(router, way, "add")
            eventually(lambda: connections(trial) < 2, "the broker gives up what it held", NOTICED)
            broker_noticed = time.time() - since
            (lost, *_) = eventually(lambda: worker.lines("session.lost"), "the worker notices", NOTICED)
            worker_noticed = datetime.fromisoformat(lost["timestamp"]).timestamp() - since
            swallow(router, way, "del")
            eventually(lambda: worker.lines("session.restored"), "it is back", 30)
        trial.publish_all(trial.jobs(10, "/ok?ms=100&job={}"))
        trial.judge(seconds=90)
    figures.append(
        f"black hole {way}: the broker noticed after {broker_noticed:.0f} s, the worker {worker_noticed:.0f} s"
    )
    sys.stdout.write("\n".join(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
