"""What one request costs: our engine's two faces beside httpx's own transport and aiohttp alone.

    python tests/benchmarks/engine.py [--requests 6000] [--concurrency 100] [--rounds 3]

The target is a process of its own on loopback that answers 200 with a small JSON body. Each variant runs in a fresh
process, in A B C A B C order; the figures are medians. CPU is user + system time of the client process per request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

ALLOWED = ["127.0.0.0/8"]
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
WARM_UP = 0.1
Call = Callable[[str], Awaitable[object]]


class Target(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Target, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def lean(concurrency: int) -> Call:
    from worker import Limits, Request
    from worker.http.engine import Engine
    from worker.http.guard import Guard

    engine = Engine(Limits(max_connections=concurrency), Guard(ALLOWED))
    return lambda url: engine.send(Request("GET", url))


def httpx_face(concurrency: int) -> Call:
    from worker import Limits
    from worker.http.client import HttpTransport
    from worker.http.engine import Engine
    from worker.http.guard import Guard

    return HttpTransport(Engine(Limits(max_connections=concurrency), Guard(ALLOWED))).client.get


def httpx_default(concurrency: int) -> Call:
    import httpx

    return httpx.AsyncClient(trust_env=False).get


def httpx_large_pool(concurrency: int) -> Call:
    import httpx

    return httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=concurrency)).get


def aiohttp_alone(concurrency: int) -> Call:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency))

    async def call(url: str) -> bytes:
        async with session.get(url) as response:
            return await response.read()

    return call


VARIANTS = {variant.__name__: variant for variant in (lean, httpx_face, httpx_default, httpx_large_pool, aiohttp_alone)}


async def measure(variant: str, url: str, requests: int, concurrency: int) -> tuple[float, float]:
    call = VARIANTS[variant](concurrency)
    await _run(call, url, int(requests * WARM_UP), concurrency)
    wall, cpu = time.perf_counter(), time.process_time()
    await _run(call, url, requests, concurrency)
    return requests / (time.perf_counter() - wall), (time.process_time() - cpu) / requests * 1e6


async def _run(call: Call, url: str, requests: int, concurrency: int) -> None:
    left = iter(range(requests))

    async def lane() -> None:
        for _ in left:
            await call(url)

    await asyncio.gather(*(lane() for _ in range(concurrency)))


def one(variant: str, url: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Requests per second and CPU us per request; NaN when the variant does not get through."""
    command = [sys.executable, __file__, "--variant", variant, "--url", url]
    command += ["--requests", str(arguments.requests), "--concurrency", str(arguments.concurrency)]
    command += ["--uvloop"] if arguments.uvloop else []
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{variant}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return math.nan, math.nan
    rate, cost = json.loads(done.stdout)
    return rate, cost


def compare(arguments: argparse.Namespace) -> None:
    target = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert target.stdout is not None
        url = f"http://127.0.0.1:{int(target.stdout.readline())}/"
        runs = {name: [one(name, url, arguments)] for name in VARIANTS}
        for _ in range(arguments.rounds - 1):
            for name in VARIANTS:
                runs[name].append(one(name, url, arguments))
    finally:
        target.kill()
        target.wait()
    print(f"concurrency {arguments.concurrency}, {arguments.requests} requests, {arguments.rounds} rounds")
    print(f"{'variant':<18}{'requests/s':>12}{'spread':>16}{'CPU us/request':>16}")
    for name, results in runs.items():
        rates = [rate for rate, _ in results]
        cost = statistics.median(cpu for _, cpu in results)
        spread = f"{min(rates):.0f}..{max(rates):.0f}"
        print(f"{name:<18}{statistics.median(rates):>12.0f}{spread:>16}{cost:>16.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true", help="run the clients on uvloop")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
    elif arguments.variant:
        print(json.dumps(_in_loop(arguments)))
    else:
        compare(arguments)


def _in_loop(arguments: argparse.Namespace) -> tuple[float, float]:
    work = measure(arguments.variant, arguments.url, arguments.requests, arguments.concurrency)
    if not arguments.uvloop:
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


if __name__ == "__main__":
    main()
