"""What `worker run` starts as child processes: `python -m worker.cli.child ROLE DESCRIPTOR`.

ROLE is `replica` (a worker process) or `suspects` (jobs under suspicion, one at a time, for the replica above it).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NoReturn

from worker.amqp.connecting import Refused, Unreachable
from worker.cli.order import CpuOrder, Order, command, cpu_command
from worker.cli.wiring import CannotImport, access_of, registry_of, transport_of
from worker.cpu_pool import CpuPool
from worker.link import Link, end_of_line
from worker.ops.log import configure_logging
from worker.ops.log_lines import masked
from worker.ops.metrics import Metrics
from worker.ops.telemetry import OpsTelemetry
from worker.replicas import Ask, Failed, Pause, Started, State, Told
from worker.runtime.clock import SystemClock
from worker.runtime.executor import LocalExecutor
from worker.runtime.limiter import Limiter
from worker.service import Parts, Service, places_of, tools_of
from worker.suspects import ParentsBroker, SuspectExecutor, serve_suspects

if TYPE_CHECKING:
    from worker.http.client import HttpTransport

STATE_EVERY: Final = 2.0
_FLUSH: Final = 1.0


async def run_replica(link: Link, order: Order) -> int:
    """A worker process, until SIGTERM; its exit code."""
    registry = _imported(link, order)
    if registry is None:
        return 2
    metrics = Metrics(registry.types, version=order.version)
    transport = transport_of(order.settings, metrics, order.admin)
    if not await _is_guarded(link, transport):
        return 1
    suspects = SuspectExecutor(
        command("suspects"),
        order,
        publish=lambda outgoing: service.publish(outgoing),  # noqa: PLW0108 - there is no service yet
    )
    cpu = _cpu_pool(order)
    parts = Parts(order.settings, access_of(order.settings, "worker"), registry, transport, metrics, suspects, cpu)
    service = Service(parts, on_change=lambda: link.send(State(service.state())))
    first = await link.receive()
    assert isinstance(first, Pause)
    await service.pause(first.paused)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    answering = loop.create_task(_answer(link, service, metrics))
    telling = loop.create_task(_tell(link, service))
    try:
        code = await _served(link, service)
    finally:
        await service.shutdown()
        await suspects.aclose()
        await cpu.aclose()
        answering.cancel()
        telling.cancel()
    return code


async def _is_guarded(link: Link, transport: HttpTransport) -> bool:
    try:
        await transport.self_test()
    except RuntimeError as error:
        link.send(Failed(1, str(error)))
        return False
    return True


async def _served(link: Link, service: Service) -> int:
    try:
        await _started(service)
    except Unreachable as error:
        link.send(Failed(69, f"the broker cannot be reached: {error}"))
        return 69
    except Refused as error:
        link.send(Failed(78, str(error)))
        return 78
    except Exception as error:  # noqa: BLE001 - whatever a lifespan raises
        link.send(Failed(1, f"the worker cannot start: {_told(error)}"))
        return 1
    link.send(Started(service.state()))
    await service.main()
    return 0


async def _started(service: Service) -> None:
    """Return once it consumes, or is told to stop before: a broker that does not answer must not hold that up."""
    starting, stopped = asyncio.create_task(service.startup()), asyncio.create_task(service.main())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting


async def run_suspects(link: Link, order: Order) -> int:
    """Runs suspects for the replica at the other end of the line."""
    registry = _imported(link, order)
    if registry is None:
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):  # the replica says when
        signal.signal(number, signal.SIG_IGN)
    metrics = Metrics(registry.types)
    telemetry, clock = OpsTelemetry(metrics), SystemClock()
    limiter = Limiter(places_of(order.settings), clock, telemetry)
    transport = transport_of(order.settings, metrics, order.admin)
    broker = ParentsBroker(link)
    tools = tools_of(order.settings, limiter, transport, _cpu_pool(order), broker.publish)
    async with registry.running() as state:
        await serve_suspects(link, registry, LocalExecutor(tools, state), broker)
    return 0


def _cpu_pool(order: Order) -> CpuPool:
    return CpuPool(cpu_command(), CpuOrder(order.settings.log, order.json_logs), order.settings.cpu_processes)


def _imported(link: Link, order: Order) -> Any:
    try:
        return registry_of(order.apps, builtin=order.builtin)
    except CannotImport as error:
        link.send(Failed(2, str(error)))
    except Exception as error:  # noqa: BLE001 - whatever an APP does when it is imported
        link.send(Failed(2, f"an APP fails when it is imported: {_told(error)}"))
    return None


def _told(error: Exception) -> str:
    """The error of an APP in a line, its traceback printed before: in its words, but without the secrets of URLs."""
    print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return masked(f"{type(error).__name__}: {error}")


async def _answer(link: Link, service: Service, metrics: Metrics) -> None:
    try:
        while True:
            match await link.receive():
                case Pause(paused):
                    await service.pause(paused)
                    link.send(Told(None))
                case Ask(what):
                    link.send(Told(metrics.snapshot() if what == "metrics" else service.jobs()))
    except EOFError:
        # The parent is gone, perhaps before this process could ask to die with it: nobody would ever stop it.
        os._exit(1)


async def _tell(link: Link, service: Service) -> None:
    while True:
        link.send(State(service.state()))
        await asyncio.sleep(STATE_EVERY)


async def _over(descriptor: int, run: Callable[[Link, Order], Awaitable[int]]) -> NoReturn:
    end: socket.socket = end_of_line(descriptor)
    link = await Link.over(end)
    order = await link.receive()
    sink = configure_logging(order.settings.log, json=order.json_logs)
    code = await run(link, order)
    await link.flush()
    sink.close(_FLUSH)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once, with the loop still open: a thread that a handler left behind must not hold up the end.
    os._exit(code)


def run_loop(main: Coroutine[Any, Any, NoReturn]) -> None:
    """Run on uvloop where it is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def main() -> None:
    """See the top of this file."""
    role, descriptor = sys.argv[1], int(sys.argv[2])
    run_loop(_over(descriptor, {"replica": run_replica, "suspects": run_suspects}[role]))


if __name__ == "__main__":
    main()
