"""The parent of `worker run`: the admin listener, the signals, and the processes that do the work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import structlog

from worker.cli.order import Order, command
from worker.ops.admin import AdminListener, CannotListen
from worker.ops.log import configure_logging
from worker.ops.settings import SETTINGS, Loaded, Secret, Settings
from worker.ops.settings.rotation import Rotating
from worker.replicas import Failed, Replicas

log = structlog.get_logger("worker")

_FLUSH = 1.0


def run_service(loaded: Loaded, apps: Sequence[str], *, builtin: bool, burst: bool = False) -> int:
    """Run until SIGTERM or SIGINT, with `burst` until nothing is left to do.

    The exit code: 0 drained, 1 failure, 2 APP, 69 unreachable, 78 refused.
    """
    sink = configure_logging(loaded.settings.log)
    try:
        return asyncio.run(_run(loaded.settings, tuple(apps), builtin=builtin, burst=burst))
    finally:
        sink.close(_FLUSH)


async def _run(settings: Settings, apps: tuple[str, ...], *, builtin: bool, burst: bool) -> int:
    bound: tuple[str, int] | None = None

    def order(_number: int) -> Order:
        return Order(settings, apps, builtin, bound, version("worker"), json_logs=not sys.stdout.isatty())

    replicas = Replicas(command("replica"), order, settings.replicas, settings.drain_timeout)
    listener = _listener(settings, replicas)
    try:
        bound = await listener.start() if listener is not None else None
    except CannotListen as error:
        return _error(str(error), 78)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, replicas)
    try:
        up = await replicas.start()
        if isinstance(up, Failed):
            replicas.stop()
            await replicas.ended()
            return _error(up.text, up.code)
        if not replicas.stopping:
            _announce(settings, apps, up, bound)
        async with _stopped_when_done(settings, replicas, burst=burst):
            code = await replicas.ended()
        log.info("worker.stopped", code=code)
        return code
    finally:
        if listener is not None:
            with contextlib.suppress(OSError):
                await listener.stop()


def _listener(settings: Settings, replicas: Replicas) -> AdminListener | None:
    if settings.admin is None:
        return None
    return AdminListener(replicas, settings.admin.host, settings.admin.port, token=_token(settings))


def _token(settings: Settings) -> Callable[[], str | None]:
    """The admin token, as it is by now when it is in a file."""
    given, file = settings.admin_token, settings.files.get("admin_token")
    if given is None or file is None:
        return lambda: None if given is None else given.reveal()
    parse = next(one.kind.parse for one in SETTINGS if one.name == "admin_token")
    current: Rotating[Secret] = Rotating(file, parse, given)
    return lambda: current().reveal()


@contextlib.asynccontextmanager
async def _stopped_when_done(settings: Settings, replicas: Replicas, *, burst: bool) -> AsyncIterator[None]:
    """With `burst`: inside, all are stopped once nothing is left to do."""
    watching = asyncio.create_task(_watch(settings, replicas)) if burst else None
    yield
    if watching is not None and not watching.done():
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    elif watching is not None:
        watching.result()  # a watch that failed ended the service, and may not pass for one that did its work


async def _watch(settings: Settings, replicas: Replicas) -> None:
    # Only here: a parent that need not look into queues stays small.
    from worker.cli.burst import Burst
    from worker.cli.wiring import access_of, topology_of

    try:
        await Burst(access_of(settings, "worker"), topology_of(settings), replicas).over()
        log.info("worker.burst_done")
    finally:
        if not replicas.stopping:  # a second stop would be a kill
            replicas.stop()


def _stop(replicas: Replicas) -> None:
    log.info("worker.stopping")
    replicas.stop()


def _announce(settings: Settings, apps: tuple[str, ...], up: Mapping[str, Any], bound: tuple[str, int] | None) -> None:
    host, port = bound or ("", 0)
    log.info(
        "worker.started",
        broker=up.get("broker", ""),
        queue=settings.queue,
        concurrency=settings.concurrency,
        prefetch=settings.prefetch,
        replicas=settings.replicas,
        admin=f"http://{f'[{host}]' if ':' in host else host}:{port}" if bound else "off",
        apps=list(apps),
        version=version("worker"),
    )


def _error(text: str, code: int) -> int:
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code
