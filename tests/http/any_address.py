"""Run inside `unshare -rn`: makes every address of the internet one of this namespace, tries the corpus, reports.

Prints one JSON object: the interfaces and routes found before anything was done; for each set-up of the guard and each
way of asking, what every vector led to and which addresses and ports were dialled; and what the observer lost.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

START_ADDRESS = "9.9.9.9"
"""The public address that redirects, and the first answer of names that change."""

INTERFACE = "10.55.0.1"
"""An address of this machine's own besides loopback."""

PUBLIC4, PUBLIC6 = "8.8.8.8", "2a00:1450:4001:81b::200e"
Reached = list[tuple[str, int]]


def vectors() -> list[tuple[str, str]]:
    """The corpus: (verdict, URL)."""
    lines = (Path(__file__).parent / "addresses.txt").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(verdict, json.loads(url)) for verdict, url in pairs]


def close_all_ways_out() -> dict[str, Any]:
    interfaces = [name for _, name in socket.if_nameindex()]
    routes = _ip("route", "show", "default") + _ip("-6", "route", "show", "default")
    if interfaces != ["lo"] or routes:
        raise SystemExit("this namespace has a way out: refusing to run")
    commands = ("link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo")
    for arguments in (*commands, f"address add {INTERFACE}/32 dev lo"):
        _ip(*arguments.split())
    return {"interfaces": interfaces, "routes_before": routes}


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Wire:
    """Sees every packet that is sent here, whoever sends it: what was dialled, whether anybody listened or not."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind(("lo", 3))
        self._socket.setblocking(False)

    def dialled(self) -> Reached:
        """Since the last call: the first packets of connections, and all datagrams, which nothing here should send."""
        return list(dict.fromkeys(found for packet in self._packets() if (found := _dialled(packet))))

    def lost(self) -> int:
        """Packets that came too fast to be seen."""
        return int(struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1])  # SOL_PACKET, PACKET_STATISTICS

    def _packets(self) -> Iterator[bytes]:
        while True:
            try:
                packet, (_, _, kind, *_) = self._socket.recvfrom(200)
            except BlockingIOError:
                return
            if kind == socket.PACKET_OUTGOING:  # on lo each is seen twice
                yield packet[14:]


def _dialled(packet: bytes) -> tuple[str, int] | None:
    if packet[0] >> 4 == 4:
        protocol, address, rest = packet[9], ipaddress.IPv4Address(packet[16:20]), packet[(packet[0] & 15) * 4 :]
    else:
        protocol, rest = packet[6], packet[40:]
        six = ipaddress.IPv6Address(packet[24:40])
        address = six.ipv4_mapped or six  # type: ignore[assignment]
    is_first = protocol == socket.IPPROTO_TCP and rest[13] & 0x12 == 0x02  # SYN, not its answer
    if not is_first and protocol != socket.IPPROTO_UDP:
        return None
    return str(address), int.from_bytes(rest[2:4], "big")


class Listeners:
    """Listen on every address and every port of the corpus; answer 200, START's host 302 if there is a `location`."""

    def __init__(self) -> None:
        self.reached: Reached = []
        self.location = ""

    async def open(self, ports: set[int]) -> None:
        for port in sorted(ports - {0}):
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            await asyncio.start_server(self._serve, sock=listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port, *_ = writer.get_extra_info("sockname")
        real = ipaddress.IPv6Address(address)
        self.reached.append((str(real.ipv4_mapped or real), port))
        answer = "HTTP/1.1 200 OK\r\n"
        if self.reached[-1][0] == START_ADDRESS and self.location:
            answer, self.location = f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\n", ""
        try:
            if await reader.readexactly(1) != b"\x16":  # the first byte of TLS
                await reader.readuntil(b"\r\n\r\n")
                writer.write(f"{answer}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
        except (OSError, EOFError):
            pass
        writer.close()


def lead_astray(directory: Path) -> str:
    """What another client would heed."""
    netrc = directory / "netrc"
    netrc.write_text("default login a password b\n")
    netrc.chmod(0o600)
    os.environ["NETRC"] = str(netrc)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ[name] = os.environ[name.lower()] = "http://127.0.0.1:8080/"
    return os.environ["http_proxy"]


async def main() -> dict[str, Any]:
    from tests.http.ways import report

    found = close_all_ways_out()
    found["environment"] = lead_astray(Path(sys.argv[1]))
    wire, listeners = Wire(), Listeners()
    found.update(await report(wire, listeners))
    found["lost"] = wire.lost()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main())))
