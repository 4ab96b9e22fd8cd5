"""The programs that check deploy/: those on the machine, else wheels by hash and Debian's packages, kept in .tools.

Missing   a program is not to be had here; the text says why and what to do
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
CACHE: Final = CHECKOUT / ".tools" / "deploy"

_LOCK: Final = Path(__file__).with_name("tools.lock")
_SUITE: Final = "trixie"
"""The Debian whose packages hold all three of `_PACKAGED`; their programs need nothing of it but the C library."""

_KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Missing(Exception):
    """A program that is not here and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """A program as Debian packs it: `package`, and where in it the program is. `fix` is for where there is no apt."""

    package: str
    path: str
    fix: str


PROMTOOL: Final = Packaged("promtool", "usr/bin/promtool", "install Prometheus")
KUSTOMIZE: Final = Packaged("kustomize", "usr/bin/kustomize", "install kubectl or kustomize")
COMPOSE: Final = Packaged(
    "docker-compose", "usr/libexec/docker/cli-plugins/docker-compose", "install Docker's compose plugin"
)


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended, and all it said."""

    code: int
    output: str
    said: str


def run(command: Iterable[object], *, where: Path = CHECKOUT, given: str = "") -> Done:
    """Run to its end, whatever it returns; `given` is what it reads. The words are taken as text."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=where,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return Done(done.returncode, done.stdout, (done.stdout + done.stderr).strip())


def installed(name: str, fix: str) -> Path:
    """A program that only the machine itself can have. Raises Missing."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not on this machine; {fix}")
    return Path(found)


def wheel(name: str) -> Path:
    """A program of tools.lock; `python` is the one that has its libraries. Raises Missing."""
    environment = CACHE / "wheels"
    with _alone("wheels"):
        stamp = environment / "tools.lock"
        if not stamp.exists() or stamp.read_bytes() != _LOCK.read_bytes():
            _install(environment)
            shutil.copyfile(_LOCK, stamp)
    return environment / "bin" / name


def packaged(wanted: Packaged) -> Path:
    """A program of Debian's, unpacked and not installed. Raises Missing."""
    program = CACHE / wanted.package / wanted.path
    with _alone(wanted.package):
        if not program.exists():
            _unpack(wanted, CACHE / wanted.package)
    if not program.exists():
        raise Missing(f"Debian's package {wanted.package} holds no {wanted.path}; {wanted.fix}")
    return program


def promtool() -> Path:
    return _installed_or(PROMTOOL, "promtool")


def kustomize() -> list[str | Path]:
    """The command that a folder is added to."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return [_installed_or(KUSTOMIZE, "kustomize"), "build"]


def compose() -> list[str | Path]:
    """`docker compose`, or its plugin alone: what it says about a file needs no engine."""
    if shutil.which("docker") and run(["docker", "compose", "version"]).code == 0:
        return ["docker", "compose"]
    return [packaged(COMPOSE)]


def _installed_or(wanted: Packaged, name: str) -> Path:
    found = shutil.which(name)
    return Path(found) if found else packaged(wanted)


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(environment: Path) -> None:
    uv = CHECKOUT / ".tools" / "uv" / "bin" / "uv"
    if not uv.exists():
        raise Missing(f"{uv} is not there; make setup")
    python = environment / "bin" / "python"
    for command in (
        [uv, "venv", "-q", "--allow-existing", "--python", sys.executable, environment],
        [uv, "pip", "sync", "-q", "--require-hashes", "--python", python, _LOCK],
    ):
        done = run(command)
        if done.code:
            raise Missing(f"the wheels of {_LOCK.name} cannot be fetched: {_last(done.said)}")


def _unpack(wanted: Packaged, place: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Missing(f"no {Path(wanted.path).name} here, and no apt-get to fetch it with; {wanted.fix}")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=CACHE) as folder:
        work = Path(folder)
        apt = _apt(work)
        for step in (["update"], ["download", wanted.package]):
            done = run([*apt, *step], where=work)
            if done.code:
                raise Missing(
                    f"{wanted.package} of Debian {_SUITE} cannot be fetched: {_last(done.said)}; {wanted.fix}"
                )
        (package,) = work.glob("*.deb")
        done = run(["dpkg-deb", "-x", package, work / "root"])
        if done.code:
            raise Missing(f"{package.name} cannot be unpacked: {_last(done.said)}; {wanted.fix}")
        shutil.rmtree(place, ignore_errors=True)
        (work / "root").rename(place)  # whole or not at all


def _apt(work: Path) -> list[str | Path]:
    """apt-get with lists and a cache of its own, from the mirror that the machine's own packages come from."""
    for name in ("lists/partial", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={_KEYS}] {_mirror()} {_SUITE} main\n", encoding="utf-8")
    options = {
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Cache": work,
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",  # root would otherwise hand the download to a user who may not write here
        "Debug::NoLocking": "1",  # the system's lock guards an installation; this is none
    }
    return ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]


def _mirror() -> str:
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
    found = [uri for uri in run(asked).output.split() if uri.startswith("http") and "security" not in uri]
    if not found:
        raise Missing("apt names no mirror of Debian here")
    return found[0]


def _last(said: str) -> str:
    return said.splitlines()[-1] if said else "it said nothing"
