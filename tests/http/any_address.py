"""Run inside `unshare -rn`: makes every address of the internet one of this namespace, tries the corpus, reports.

Prints one JSON object: the interfaces and routes found before anything was done, then for each way of asking what
every vector led to and which addresses and ports it reached.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

PORTS = (22, 25, 80, 81, 443, 1023, 8080)
START_ADDRESS = "9.9.9.9"
START = f"http://{START_ADDRESS}/"
Way = Callable[[str], Awaitable[str]]


def close_all_ways_out() -> dict[str, Any]:
    interfaces = [name for _, name in socket.if_nameindex()]
    routes = _ip("route", "show", "default") + _ip("-6", "route", "show", "default")
    if interfaces != ["lo"] or routes:
        raise SystemExit("this namespace has a way out: refusing to run")
    for arguments in ("link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"):
        _ip(*arguments.split())
    return {"interfaces": interfaces, "routes_before": routes}


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Listeners:
    """Listen on every address, note which is reached; answer 200, or 302 to `location` on START's host."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, int]] = []
        self.location = ""

    async def open(self) -> None:
        for port in PORTS:
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            await asyncio.start_server(self._serve, sock=listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port, *_ = writer.get_extra_info("sockname")
        real = ipaddress.IPv6Address(address)
        self.reached.append((str(real.ipv4_mapped or real), port))
        await reader.readuntil(b"\r\n\r\n")
        answer = "HTTP/1.1 200 OK\r\n"
        if self.reached[-1][0] == START_ADDRESS:
            answer = f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\n"
        writer.write(f"{answer}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


def vectors() -> list[tuple[str, str]]:
    lines = (Path(__file__).parent / "addresses.txt").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(verdict, json.loads(url)) for verdict, url in pairs]


async def end_of(call: Awaitable[Any]) -> str:
    try:
        answer = await call
    except Exception as error:  # noqa: BLE001 (each end is a finding)
        return getattr(error, "code", type(error).__name__)
    return str(getattr(answer, "status", None) or answer.status_code)


async def try_all(listeners: Listeners, way: Way) -> list[dict[str, Any]]:
    results = []
    for verdict, url in vectors():
        listeners.reached.clear()
        end = await way(url)
        reached = [one for one in listeners.reached if one[0] != START_ADDRESS]
        results.append({"verdict": verdict, "url": url, "end": end, "reached": reached})
    return results


def redirecting(listeners: Listeners, ask: Callable[[], Awaitable[Any]]) -> Way:
    async def way(url: str) -> str:
        if not re.fullmatch(r"[^\r\n\x00\ud800-\udfff]*", url):
            return "no header can carry it"
        listeners.location = url
        return await end_of(ask())

    return way


def named(engine_for: Callable[[list[str]], Any], *beside: str) -> Way:
    """The vector's address as the answer of a name lookup. Vectors that are no literal are asked as they are."""
    from worker import Request
    from worker.http.url import parse_url

    async def way(url: str) -> str:
        try:
            parsed = parse_url(url)
        except ValueError as error:
            return type(error).__name__
        answers = [parsed.host] if parsed.literal else ["127.0.0.1"]
        engine = engine_for([*beside, *answers])
        try:
            return await end_of(engine.send(Request("GET", f"http://name.example:{parsed.port}/", timeout=2)))
        finally:
            await engine.aclose()

    return way


async def report(found: dict[str, Any]) -> dict[str, Any]:
    from worker import Limits, Request, Response
    from worker.http.client import HttpTransport
    from worker.http.engine import Engine
    from worker.http.guard import Guard
    from worker.http.resolver import LookupThreads

    def engine_for(answers: list[str]) -> Engine:
        return Engine(Limits(), Guard(), names=LookupThreads(lambda host: answers, threads=1))

    listeners = Listeners()
    await listeners.open()
    engine = engine_for(["127.0.0.1"])
    client = HttpTransport(engine).client

    async def lean(url: str, redirects: int = 0) -> Response:
        return await engine.send(Request("GET", url, timeout=2, redirects=redirects))

    found["lean"] = await try_all(listeners, lambda url: end_of(lean(url)))
    found["httpx"] = await try_all(listeners, lambda url: end_of(client.get(url)))
    followed = redirecting(listeners, lambda: lean(START, redirects=3))
    found["redirect"] = await try_all(listeners, followed)
    by_httpx = redirecting(listeners, lambda: client.get(START, follow_redirects=True))
    found["httpx redirect"] = await try_all(listeners, by_httpx)
    found["name"] = await try_all(listeners, named(engine_for))
    found["name beside a public one"] = await try_all(listeners, named(engine_for, "8.8.8.8"))
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(report(close_all_ways_out()))))
