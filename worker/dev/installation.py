"""RabbitMQ on this machine: what is installed, or a copy of Debian's packages unpacked into a folder.

NodeUnavailable   no RabbitMQ is to be had, or the node does not start; the text says what to do
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

INSTALL_COMMAND = "brew install rabbitmq" if shutil.which("brew") else "sudo apt-get install -y rabbitmq-server"

# Not /usr/sbin: Debian's wrapper there insists on running as root or as the user rabbitmq.
_INSTALLED = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)
_EPMD = (
    "/usr/lib/erlang/bin/epmd",
    "/usr/lib64/erlang/bin/epmd",
    "/opt/erlang/lib/erlang/bin/epmd",
    "/opt/homebrew/opt/erlang/lib/erlang/bin/epmd",
    "/usr/local/opt/erlang/lib/erlang/bin/epmd",
)
_ERROR_LINES = 5

Progress = Callable[[str], None]


class NodeUnavailable(Exception):
    """There is no private RabbitMQ node to be had here; the text names the reason and the line to run."""


@dataclass(frozen=True)
class Installation:
    """Where RabbitMQ's programs are. `root` is set for an unpacked copy, and everything lies below it."""

    sbin: Path
    epmd: Path
    root: Path | None = None

    @property
    def version(self) -> str:
        """As the folder's name says it, else an empty string."""
        match = re.search(r"rabbitmq_server-([0-9][^/]*)", str(self.sbin))
        return match[1] if match else ""

    def seen_through(self, link: Path) -> Installation:
        """The same installation by a path without spaces: RabbitMQ's scripts do not quote theirs."""
        if self.root is None:
            return self
        link.unlink(missing_ok=True)
        link.symlink_to(self.root)
        return Installation(
            sbin=link / self.sbin.relative_to(self.root),
            epmd=link / self.epmd.relative_to(self.root),
            root=link,
        )

    def environment(self) -> dict[str, str]:
        """What the programs need to find Erlang and their libraries; nothing for an installed RabbitMQ."""
        if self.root is None:
            return {}
        erlang = self.root / "usr/lib/erlang"
        libraries = [*self.root.glob("usr/lib/*-linux-*"), *self.root.glob("lib/*-linux-*")]
        return {
            "ERL_ROOTDIR": str(erlang),
            "PATH": f"{erlang / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries),
        }


def default_cache() -> Path:
    """Where an unpacked copy is kept: in the checkout's .tools, else in the user's cache."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".tools" / "rabbitmq"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worker" / "rabbitmq"


def find_rabbitmq(cache: Path | None = None, *, installed: bool = True) -> Installation | None:
    """RabbitMQ as it is there already: installed (unless told not to look), or unpacked in `cache`."""
    return (_find_installed() if installed else None) or _find_unpacked(cache or default_cache())


def ensure_rabbitmq(progress: Progress = print, cache: Path | None = None, *, installed: bool = True) -> Installation:
    """RabbitMQ as it is there already, else Debian's packages, fetched and unpacked into `cache`.

    Needs no rights beyond those on `cache`, and changes nothing else on the machine. Takes some ten seconds and 35 MB
    of download the first time. Raises NodeUnavailable.
    """
    cache = cache or default_cache()
    found = find_rabbitmq(cache, installed=installed)
    if found is None:
        try:
            with _alone(cache):  # test processes start together
                if _find_unpacked(cache) is None:
                    _fetch(cache, progress)
        except OSError as error:
            raise NodeUnavailable(_explain(f"{cache} cannot be written: {error}")) from error
        found = _find_unpacked(cache)
    if found is None:
        raise NodeUnavailable(_explain("Debian's packages here hold no RabbitMQ that could be used"))
    return found


def _find_installed() -> Installation | None:
    folders = [folder for pattern in _INSTALLED for folder in sorted(Path("/").glob(pattern[1:]))]
    sbin = next((folder for folder in folders if (folder / "rabbitmq-server").exists()), None)
    epmd = shutil.which("epmd") or next((path for path in _EPMD if Path(path).exists()), None)
    return Installation(sbin, Path(epmd)) if sbin and epmd else None


def _find_unpacked(root: Path) -> Installation | None:
    root = root.absolute()
    sbin = next(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"), None)
    epmd = root / "usr/lib/erlang/bin/epmd"
    return Installation(sbin, epmd, root) if sbin and epmd.exists() else None


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, progress: Progress) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NodeUnavailable(_explain("it is not installed, and there is no apt-get to fetch it with"))
    with tempfile.TemporaryDirectory(prefix="rabbitmq-", dir=cache.parent) as folder:
        work = Path(folder)
        progress("broker: RabbitMQ is not installed; fetching Debian's packages (about 35 MB)")
        packages = _download(work)
        progress(f"broker: unpacking {len(packages)} packages into {cache}")
        for package in packages:
            _run(["dpkg-deb", "-x", str(package), str(work / "root")])
        _make_relocatable(work / "root/usr/lib/erlang/bin/erl")
        shutil.rmtree(cache, ignore_errors=True)
        (work / "root").rename(cache)  # whole or not at all


def _download(work: Path) -> list[Path]:
    """The packages of RabbitMQ and all they need that is not installed: apt's own answer, in folders of our own."""
    for name in ("lists/partial", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").write_text(_installed_packages(), encoding="utf-8")
    options = {
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::Archives": work / "archives",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",  # root would otherwise hand the download to a user who may not write here
        "Debug::NoLocking": "1",  # the system's lock guards an installation; this is none
    }
    apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    # Some other source of the machine may be out of reach: only the second command's word counts.
    subprocess.run([*apt, "update"], env=environment, capture_output=True, check=False)
    wanted = ["install", "-y", "--no-install-recommends", "--download-only", "rabbitmq-server"]
    _run([*apt, *wanted], environment)
    return sorted((work / "archives").glob("*.deb"))


def _installed_packages() -> str:
    """dpkg's list without Erlang, so that a machine with half of it still gets a whole one."""
    status = Path("/var/lib/dpkg/status")
    text = status.read_text(encoding="utf-8", errors="replace") if status.exists() else ""
    erlang = re.compile(r"^Package: (erlang|rabbitmq)|^(Pre-)?Depends:.*\berlang", re.MULTILINE)
    return "\n\n".join(part for part in text.split("\n\n") if not erlang.search(part))


def _make_relocatable(erl: Path) -> None:
    """Debian's script knows one place only; ours asks the variable that Erlang's own script asks."""
    if not erl.exists():
        raise NodeUnavailable(_explain("Debian's packages here hold no Erlang"))
    text = erl.read_text(encoding="utf-8")
    erl.write_text(re.sub(r"(?m)^(\s*)ROOTDIR=.*$", r'\1ROOTDIR="$ERL_ROOTDIR"', text), encoding="utf-8")


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = "\n".join(f"    {line}" for line in done.stderr.strip().splitlines()[-_ERROR_LINES:])
        raise NodeUnavailable(_explain(f"{command[0]} could not fetch it:\n{said}\n "))


def _explain(reason: str) -> str:
    return f"RabbitMQ cannot be had: {reason}\n  fix: {INSTALL_COMMAND}"
