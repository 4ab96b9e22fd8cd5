"""RabbitMQ 4 beside the machine's own: a small Debian that has it, in a folder, entered with chroot. Needs root.

python -m worker.dev.chroot fetch    make it, unless it is there: about a minute, 100 MB of download, 250 MB of disk

Nothing of it runs as root: the node and its tools are `nobody` in there. Each program has mounts of its own, which the
kernel takes away with it, so nothing stays mounted and the folder can be deleted at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from worker.dev.installation import Installation, NodeUnavailable, Progress, default_cache

SUITES: Final = ("forky", "sid", "trixie")
"""Debian releases with RabbitMQ 4, the wanted one first: 4.3 or newer, the same, 4.0."""

COMMAND: Final = "make test-rabbitmq-4"

_USER: Final = "nobody"
_SCRIPT: Final = "sid"
"""How debootstrap makes a release that is younger than itself."""

_PROGRAMS: Final = {
    "rabbitmq-server": "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "rabbitmqctl": "/usr/lib/rabbitmq/bin/rabbitmqctl",
    "epmd": "/usr/bin/epmd",
}
_TOOLS: Final = {"debootstrap": "debootstrap", "wget": "wget", "unshare": "util-linux", "apt-get": "apt"}
_ERROR_LINES: Final = 5

# The mounts are made in a namespace of this process; `exec` all the way, so that it stays the process that was started.
# The node's folder is seen in there by the same path, and becomes its user's: two of the variables that
# worker.dev.node sets have to agree on it, so that no other folder ever is given away by mistake.
_ENTER: Final = """\
#!/bin/sh
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)/root FOLDER=${{RABBITMQ_PID_FILE%/pid}}
[ "$HOME" = "$FOLDER/home" ] || {{ echo "only worker.dev.node starts this" >&2; exit 64; }}
[ {name} != rabbitmq-server ] || chown -R {user} "$FOLDER"
export ROOT FOLDER PATH=/usr/sbin:/usr/bin:/sbin:/bin
unset RABBITMQ_SCRIPTS_DIR
exec unshare --mount sh -euc '
mount -t tmpfs tmpfs "$ROOT/tmp"
mkdir -p "$ROOT$FOLDER"
mount --bind "$FOLDER" "$ROOT$FOLDER"
mount --rbind /dev "$ROOT/dev"
mount --rbind /proc "$ROOT/proc"
exec chroot "$ROOT" env -C "$FOLDER" setpriv --reuid {user} --regid nogroup --clear-groups --pdeathsig TERM "$@"
' sh {program} "$@"
"""


def find_rabbitmq_4(cache: Path | None = None) -> Installation | None:
    """RabbitMQ 4 as it is there already. Its nodes can be started by root alone."""
    cache = (cache or _default()).absolute()
    programs = next(cache.glob("rabbitmq_server-4.*"), None)
    return Installation(programs, programs / "epmd") if programs else None


def ensure_rabbitmq_4(progress: Progress = print, cache: Path | None = None) -> Installation:
    """RabbitMQ 4 as it is there already, else made in `cache` from the Debian mirror that apt uses here.

    Raises NodeUnavailable; what is half made is removed.
    """
    cache = (cache or _default()).absolute()
    _check_rights()
    with _alone(cache):
        found = find_rabbitmq_4(cache)
        if found is None:
            _make(cache, progress)
            found = find_rabbitmq_4(cache)
    if found is None:
        raise NodeUnavailable(f"{cache} holds no RabbitMQ 4\n  fix: rm -rf {shlex.quote(str(cache))}; {COMMAND}")
    return found


def without_rabbitmq_4() -> NodeUnavailable:
    """What to say where find_rabbitmq_4() finds none and nothing may be fetched."""
    return NodeUnavailable(f"RabbitMQ 4 has not been made here, or this is not root\n  fix: sudo {COMMAND}")


def _default() -> Path:
    return default_cache().with_name("rabbitmq-4")


def _check_rights() -> None:
    if os.geteuid() != 0:
        raise NodeUnavailable(f"RabbitMQ 4 runs in a chroot, which needs root\n  fix: sudo {COMMAND}")
    mounting = ["unshare", "--mount", "true"]
    if shutil.which("unshare") and subprocess.run(mounting, capture_output=True, check=False).returncode:
        raise NodeUnavailable(
            "this container's root may not mount, which a chroot needs"
            f"\n  fix: {COMMAND} on a machine or virtual machine, or in a container with CAP_SYS_ADMIN"
        )


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(cache: Path, progress: Progress) -> None:
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        words = " ".join(missing)
        raise NodeUnavailable(f"missing to make a chroot: {words}\n  fix: apt-get install -y {words}; {COMMAND}")
    making = cache.with_name(f"{cache.name}.making")
    _remove(making)  # of somebody who was killed meanwhile
    try:
        _bootstrap(making / "root", progress)
        _tidy(making / "root")
        _write_programs(making)
        _try_out(making)
        _remove(cache)
        making.rename(cache)  # whole or not at all
    except BaseException:
        _remove(making)
        raise


def _bootstrap(root: Path, progress: Progress) -> None:
    """The first suite that can be had."""
    mirror = _mirror()
    said = ""
    for suite in SUITES:
        root.mkdir(parents=True)
        progress(f"broker: RabbitMQ 4 is not here; making a chroot of Debian {suite} in {root.parent.parent}")
        said = _debootstrap(suite, root, mirror, progress)
        if not said:
            return
        progress(f"broker: {suite} cannot be had:\n{said}")
        _remove(root)
    raise NodeUnavailable(
        f"no chroot could be made from the mirror that apt uses here; debootstrap said:\n{said}"
        f"\n  fix: see that apt-get update works and that its mirror has Debian {' or '.join(SUITES)}, then {COMMAND}"
    )


def _debootstrap(suite: str, root: Path, mirror: str, progress: Progress) -> str:
    """Why it failed; nothing when it did not."""
    command = ["debootstrap", "--variant=minbase", "--include=rabbitmq-server", suite, str(root), mirror, _SCRIPT]
    # With processes and mounts of its own, so that all of both is gone, however it ends, when the folder is deleted.
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    lines: list[str] = []
    with subprocess.Popen(
        [*alone, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
    ) as running:
        assert running.stdout is not None
        try:
            step = ""
            for line in running.stdout:
                lines.append(line.strip())
                step = _tell(step, line, progress)
        except BaseException:
            running.kill()
            raise
    if running.returncode == 0:
        return ""
    return "\n".join(f"    {line.replace(mirror, 'MIRROR/')}" for line in lines[-_ERROR_LINES:])


_STEPS: Final = {
    "Retrieving": "downloading",
    "Extracting": "unpacking what everything needs",
    "Unpacking": "unpacking the packages",
    "Configuring": "setting the packages up",
}


def _tell(before: str, line: str, progress: Progress) -> str:
    """The step that `line` belongs to; told when it is another than before."""
    words = line.split()
    step = _STEPS.get(words[1], before) if len(words) > 1 else before
    if step != before:
        progress(f"broker: {step}")
    return step


def _mirror() -> str:
    """Where apt gets this machine's own packages, read anew each time."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
    answer = subprocess.run(asked, capture_output=True, text=True, errors="replace", check=False).stdout
    found = [uri for uri in answer.split() if uri.startswith("http") and "security" not in uri]
    if not found:
        raise NodeUnavailable(f"apt names no mirror of Debian here\n  fix: {COMMAND} on a Debian with apt set up")
    return found[0]


def _tidy(root: Path) -> None:
    """Remove what only says where the packages came from, and add the one name that Erlang looks up."""
    for place in ("var/cache/apt", "var/lib/apt/lists", "etc/apt/sources.list.d"):
        shutil.rmtree(root / place, ignore_errors=True)
    for name in ("etc/apt/sources.list", "var/log/bootstrap.log", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")


def _write_programs(making: Path) -> None:
    """One script for each program, in a folder that tells the version as RabbitMQ's own folders do."""
    library = next(making.glob("root/usr/lib/rabbitmq/lib/rabbitmq_server-4.*"), None)
    if library is None:
        raise NodeUnavailable(f"that Debian has no RabbitMQ 4\n  fix: {COMMAND} with a mirror that has {SUITES[0]}")
    folder = making / library.name
    folder.mkdir()
    for name, program in _PROGRAMS.items():
        (folder / name).write_text(_ENTER.format(name=name, user=_USER, program=program), encoding="ascii")
        (folder / name).chmod(0o755)


def _try_out(making: Path) -> None:
    """Raises NodeUnavailable when its programs do not run."""
    found = find_rabbitmq_4(making)
    assert found is not None
    with tempfile.TemporaryDirectory(prefix="worker-rabbitmq-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        for place in (home.parent, home):
            shutil.chown(place, _USER)
        done = subprocess.run(
            [found.sbin / "rabbitmqctl", "version"],
            env={**os.environ, "HOME": str(home), "RABBITMQ_PID_FILE": str(home.with_name("pid"))},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise NodeUnavailable(f"RabbitMQ does not run in the chroot that was made:\n{said}\n  fix: {COMMAND} elsewhere")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m worker.dev.chroot")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="make sure that RabbitMQ 4 can be started here; needs root")
    parser.parse_args(arguments)
    try:
        found = ensure_rabbitmq_4(lambda line: print(line, flush=True))
    except NodeUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"broker: RabbitMQ {found.version} in {_default()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
