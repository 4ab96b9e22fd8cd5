"""Free ports for the private servers of this folder."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 15_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 that nobody listens on.

    They lie below the range from which the system takes the ports of outgoing connections: a server that is away
    for a moment would otherwise lose its port to one of the clients that try to reach it again, or such a client
    would be connected to itself.
    """
    candidates = list(range(_LOWEST, _lowest_ephemeral()))
    random.shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            return found
        if _is_free(port):
            found.append(port)
    raise OSError(f"fewer than {count} free ports on 127.0.0.1")


def _lowest_ephemeral() -> int:
    try:
        lowest = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except OSError:  # not Linux: 32768 is the lowest that is in use anywhere
        lowest = 32_768
    return max(lowest, _LOWEST + 1_000)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
