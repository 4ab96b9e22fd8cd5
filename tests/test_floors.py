"""The floors of the house: imports only go down, and each library has its room. Read from the source, not by importing.

cli, http, dev, __main__ -> service, replicas, suspects, testing, the face and what else lies beside them
-> runtime, amqp, ops -> core.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

FACE = "the face"
TOP, SERVICE, MIDDLE, GROUND = 3, 2, 1, 0
FLOORS = {
    **dict.fromkeys(("cli", "http", "dev", "__main__"), TOP),
    **dict.fromkeys(("runtime", "amqp", "ops"), MIDDLE),
    "core": GROUND,
}
"""Every room that is not named here stands on the service's floor."""

ONLY_IN = {
    **dict.fromkeys(("aio_pika", "aiormq", "pamqp"), "amqp"),
    **dict.fromkeys(("aiohttp", "yarl", "idna", "jmespath"), "http"),
}
HTTP_TYPES = "httpx"
"""The face for handlers: below the top floor a name for annotations, which nothing there runs."""

NOT_ON_THE_GROUND = {"asyncio", "logging", "os", "random", "secrets", "socket", "subprocess", "threading", "time"}
"""No await, no clock, no chance, no environment, no log."""

READS_ENVIRONMENT = ("worker.ops.settings", "worker.cli", "worker.dev")
LOOKS_OF_A_TERMINAL = {"NO_COLOR", "TERM"}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


@dataclass(frozen=True)
class Import:
    """One name a module imports. `running` when the import is carried out as the module is loaded."""

    target: str
    line: int
    running: bool
    only_type: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name and its tree."""

    name: str
    path: str
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        return room_of(self.name)

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


def room_of(name: str) -> str:
    """The room a dotted name of ours lies in."""
    return name.split(".")[1] if "." in name else FACE


def faults(root: Path) -> list[str]:
    """Everything below `root`/worker that breaks a rule, one line each."""
    modules = {module.name: module for module in read_modules(root)}
    imports = {module.name: list(imports_of(module, modules)) for module in modules.values()}
    found = [
        f"{module.path}:{one.line} {fault}"
        for module in modules.values()
        for one in imports[module.name]
        for fault in faults_of_import(module, one)
    ]
    found += [f"{module.path}:{line} {fault}" for module in modules.values() for line, fault in environment(module)]
    return [*dict.fromkeys(found), *circles(imports)]


def read_modules(root: Path) -> Iterator[Module]:
    for path in sorted((root / "worker").rglob("*.py")):
        place = path.relative_to(root)
        parts = place.with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, str(place), ast.parse(path.read_text(encoding="utf-8")), is_package)


def imports_of(module: Module, modules: Mapping[str, Module]) -> Iterator[Import]:
    """What `module` imports, wherever it says so; from one of our packages the module meant, not the package."""
    for node, running, only_type in walk(module.tree):
        for target in targets(node, module):
            package, _, name = target.rpartition(".")
            known = target in modules or package not in modules or target.partition(".")[0] != "worker"
            # `from worker.core.job import Job` names a value of a module, `from worker.core import job` a module.
            is_from = isinstance(node, ast.ImportFrom)
            yield Import(package if is_from and not known and name else target, node.lineno, running, only_type)


def walk(
    tree: ast.AST, *, running: bool = True, only_type: bool = False
) -> Iterator[tuple[ast.stmt | ast.expr, bool, bool]]:
    """Every node, with whether it is carried out at load, and whether only the type checker reads it."""
    for child in ast.iter_child_nodes(tree):
        inside = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checked = isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test) and child in tree.body
        now, types = running and not inside and not checked, only_type or checked
        if isinstance(child, ast.stmt | ast.expr):
            yield child, now, types
        yield from walk(child, running=now, only_type=types)


def targets(node: ast.AST, module: Module) -> Iterator[str]:
    match node:
        case ast.Import(names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(named, names, level):
            above = module.package.split(".")[: len(module.package.split(".")) - level + 1] if level else []
            base = ".".join([*above, *([named] if named else [])])
            yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in names)
        case ast.Call(ast.Name("__import__" | "import_module"), [ast.Constant(str(name)), *_]):
            yield name
        case ast.Call(ast.Attribute(_, "import_module"), [ast.Constant(str(name)), *_]):
            yield name


def faults_of_import(module: Module, one: Import) -> Iterator[str]:
    if one.library == "worker":
        yield from faults_of_floor(module, one)
        return
    only = ONLY_IN.get(one.library)
    if only is not None and module.room != only:
        yield f"{one.library} is imported only in worker/{only}"
    if one.library == HTTP_TYPES and FLOORS.get(module.room, SERVICE) < SERVICE and not one.only_type:
        yield "httpx is only a type below the service's floor"
    on_screen = module.room == "dev" and one.library == "rich"  # the demo's table and progress
    if module.room in {"core", "dev"} and not on_screen and one.library not in sys.stdlib_module_names:
        yield f"worker/{module.room} takes the standard library only, not {one.library}"
    if module.room == "core" and one.library in NOT_ON_THE_GROUND:
        yield f"worker/core has no use for {one.library}"


def faults_of_floor(module: Module, one: Import) -> Iterator[str]:
    here, there = module.room, room_of(one.target)
    if here == there:
        return
    above, below = FLOORS.get(here, SERVICE), FLOORS.get(there, SERVICE)
    if here == "http":
        if there != FACE:
            yield f"worker/http takes the face of worker only, not {one.target}"
    elif here == "dev":
        if there != "cli":
            yield f"worker/dev takes its own and the command line only, not {one.target}"
    elif above < below:
        yield f"{one.target} lies above {here}"
    elif above == below == MIDDLE:
        yield f"{one.target} is a sibling of {here}"


def circles(imports: Mapping[str, list[Import]]) -> list[str]:
    """A circle of modules that load each other, if there is one."""
    graph = {name: {one.target for one in found if one.running} - {name} for name, found in imports.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"a circle: {' <- '.join(error.args[1])}"]
    return []


def environment(module: Module) -> Iterator[tuple[int, str]]:
    """Where `module` reads the environment though it may not."""
    if any(module.name == room or module.name.startswith(f"{room}.") for room in READS_ENVIRONMENT):
        return
    allowed = LOOKS_OF_A_TERMINAL if module.name == "worker.ops.log" else set()
    permitted = {id(node) for look in ast.walk(module.tree) for node in looked_up(look, allowed)}
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(ast.Name("os"), name) if name in ENVIRONMENT and id(node) not in permitted:
                yield node.lineno, f"os.{name}: only the settings read the environment"
            case ast.ImportFrom("os", names) if taken := ENVIRONMENT & {alias.name for alias in names}:
                yield node.lineno, f"{', '.join(sorted(taken))} of os: only the settings read the environment"


def looked_up(node: ast.AST, allowed: set[str]) -> Iterator[ast.AST]:
    """The `os.environ` in `node` when it is asked for one of the `allowed` names."""
    match node:
        case ast.Call(ast.Attribute(ast.Attribute() as environ, "get"), [ast.Constant(str(name)), *_]):
            yield from [environ] if name in allowed else []
        case ast.Call(ast.Attribute() as getenv, [ast.Constant(str(name)), *_]):
            yield from [getenv] if name in allowed else []
        case ast.Subscript(ast.Attribute() as environ, ast.Constant(str(name))):
            yield from [environ] if name in allowed else []


def test_the_house_keeps_its_floors() -> None:
    assert faults(CHECKOUT) == []


def test_the_whole_house_is_read() -> None:
    rooms = {module.room for module in read_modules(CHECKOUT)}
    assert {FACE, "core", "runtime", "amqp", "ops", "http", "dev", "testing"} <= rooms


def plant(root: Path, files: Mapping[str, str]) -> Path:
    for name in ("", "core", "runtime", "amqp", "ops", "ops/settings", "http", "dev", "cli", "testing"):
        package = root / "worker" / name
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
    for name, source in files.items():
        (root / "worker" / name).write_text(source, encoding="utf-8")
    return root


BAD: dict[str, tuple[dict[str, str], str]] = {
    "core imports the floor above": (
        {"core/job.py": "from worker.runtime import context\n"},
        "core/job.py:1 worker.runtime lies above core",
    ),
    "core imports the face": ({"core/job.py": "from worker import Context\n"}, "core/job.py:1 worker lies above core"),
    "core climbs with dots": (
        {"core/job.py": "from ..amqp import broker\n"},
        "core/job.py:1 worker.amqp lies above core",
    ),
    "the floor above is imported inside a function": (
        {"core/job.py": "def f():\n    import worker.ops.log\n"},
        "core/job.py:2 worker.ops.log lies above core",
    ),
    "the floor above is imported as a type": (
        {"core/job.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import worker.ops.log\n"},
        "core/job.py:3 worker.ops.log lies above core",
    ),
    "the floor above is imported by name at run time": (
        {"runtime/a.py": "import importlib\nimportlib.import_module('worker.service')\n", "service.py": ""},
        "runtime/a.py:2 worker.service lies above runtime",
    ),
    "core takes a library": (
        {"core/job.py": "import pydantic\n"},
        "core/job.py:1 worker/core takes the standard library only, not pydantic",
    ),
    "core takes a clock": ({"core/job.py": "from time import time\n"}, "core/job.py:1 worker/core has no use for time"),
    "runtime imports its sibling amqp": (
        {"runtime/a.py": "from worker.amqp.broker import Broker\n", "amqp/broker.py": ""},
        "runtime/a.py:1 worker.amqp.broker is a sibling of runtime",
    ),
    "amqp imports its sibling ops": (
        {"amqp/a.py": "import worker.ops\n"},
        "amqp/a.py:1 worker.ops is a sibling of amqp",
    ),
    "ops imports the service": (
        {"ops/a.py": "from worker.service import run\n", "service.py": ""},
        "ops/a.py:1 worker.service lies above ops",
    ),
    "the service imports the command line": (
        {"service.py": "from worker.cli import main\n"},
        "service.py:1 worker.cli lies above service",
    ),
    "the face imports http": (
        {"__init__.py": "from worker.http import handler\n"},
        "__init__.py:1 worker.http lies above the face",
    ),
    "http goes behind the face": (
        {"http/a.py": "from worker.core.outcome import Reject\n", "core/outcome.py": ""},
        "http/a.py:1 worker/http takes the face of worker only, not worker.core.outcome",
    ),
    "dev takes something of the service": (
        {"dev/a.py": "from worker.core import topology\n", "core/topology.py": ""},
        "dev/a.py:1 worker/dev takes its own and the command line only, not worker.core.topology",
    ),
    "dev takes a library": (
        {"dev/a.py": "import psutil\n"},
        "dev/a.py:1 worker/dev takes the standard library only, not psutil",
    ),
    **{
        f"{library} outside of amqp": (
            {"testing/a.py": f"import {library}.abc\n"},
            f"testing/a.py:1 {library} is imported only in worker/amqp",
        )
        for library in ("aio_pika", "aiormq", "pamqp")
    },
    **{
        f"{library} outside of http": (
            {"ops/a.py": f"def f():\n    from {library} import x\n"},
            f"ops/a.py:2 {library} is imported only in worker/http",
        )
        for library in ("aiohttp", "yarl", "idna")
    },
    "the runtime makes requests": (
        {"runtime/a.py": "import httpx\n"},
        "runtime/a.py:1 httpx is only a type below the service's floor",
    ),
    "os.environ outside of the settings": (
        {"ops/admin.py": "import os\nx = os.environ['HOME']\n"},
        "ops/admin.py:2 os.environ: only the settings read the environment",
    ),
    "os.getenv outside of the settings": (
        {"runtime/a.py": "import os\nx = os.getenv('HOME')\n"},
        "runtime/a.py:2 os.getenv: only the settings read the environment",
    ),
    "environ imported from os": (
        {"service.py": "from os import environ\n"},
        "service.py:1 environ of os: only the settings read the environment",
    ),
    "the log reads another variable": (
        {"ops/log.py": "import os\nx = os.environ.get('HOME')\n"},
        "ops/log.py:2 os.environ: only the settings read the environment",
    ),
    "two modules load each other": (
        {"core/a.py": "import worker.core.b\n", "core/b.py": "from worker.core import a\n"},
        "a circle: worker.core.a <- worker.core.b <- worker.core.a",
    ),
    "three modules of two rooms load each other": (
        {
            "service.py": "from worker.replicas import x\n",
            "replicas.py": "import worker.testing.a\n",
            "testing/a.py": "from worker import service\n",
        },
        "a circle: ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_import_is_found(name: str, tmp_path: Path) -> None:
    files, fault = BAD[name]
    found = faults(plant(tmp_path, files))
    assert len(found) == 1
    assert found[0].removeprefix("worker/").startswith(fault)


GOOD: dict[str, dict[str, str]] = {
    "down by one floor and by two": {
        "runtime/a.py": "from worker.core.job import Job\nimport asyncio, structlog\n",
        "core/job.py": "import json\nfrom worker.core import strict_json\n",
        "core/strict_json.py": "",
        "service.py": "from worker.runtime import a\nfrom worker.core.job import Job\nimport worker.amqp\n",
        "cli/run.py": "from worker import service\nimport worker.http, worker.dev\n",
        "__main__.py": "from worker.cli import main\n",
        "__init__.py": "from worker.runtime.a import Context\n",
    },
    "http behind the face and with its libraries": {
        "http/a.py": "from worker import Reject\nfrom worker.http import b\nimport aiohttp, yarl, idna, httpx\n",
        "http/b.py": "",
    },
    "amqp with its libraries": {"amqp/a.py": "import aio_pika, aiormq\nfrom pamqp.header import ContentHeader\n"},
    "a type of httpx in the runtime": {
        "runtime/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import httpx\n"
    },
    "who may read the environment": {
        "ops/settings/loading.py": "import os\nx = os.environ\n",
        "cli/run.py": "import os\nx = os.environ\n",
        "dev/node.py": "import os\nx = os.getenv('PATH')\n",
        "ops/log.py": "import os\nx = os.environ.get('NO_COLOR') or os.environ['TERM'] or os.getenv('TERM')\n",
    },
    "a circle only the type checker sees, or that is closed when called": {
        "core/a.py": "import worker.core.b\nimport worker.core.c\n",
        "core/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from worker.core.a import A\n",
        "core/c.py": "def f():\n    from worker.core.a import A\n",
    },
    "a package that gathers its modules": {
        "testing/__init__.py": "from worker.testing.clock import Clock\n",
        "testing/clock.py": "",
        "testing/harness.py": "from worker.testing.clock import Clock\n",
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_good_import_is_left_alone(name: str, tmp_path: Path) -> None:
    assert faults(plant(tmp_path, GOOD[name])) == []
