"""`worker health`: is the worker on this host ready? For probes; imports next to nothing."""

from __future__ import annotations

import getopt
import os
import sys

from worker.ops.probe import admin_address, probe

USAGE = 2


def ask(arguments: list[str]) -> int:
    """Print what the admin listener says; 0 when the worker is ready, 1 when it is not, 2 for a wrong flag."""
    try:
        pairs, rest = getopt.gnu_getopt(arguments, "", ["admin=", "config="])
    except getopt.GetoptError as fault:
        return _wrong(f"{fault}; worker health takes --admin HOST:PORT and --config FILE")
    if rest:
        return _wrong(f"worker health takes no arguments, not {rest[0]!r}")
    options = dict(pairs)
    admin = options.get("--admin") or admin_address(os.environ, options.get("--config", "worker.toml"))
    code, line = probe(admin)
    print(line)
    return code


def _wrong(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return USAGE
