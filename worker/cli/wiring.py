"""From settings to parts: the one place that knows how everything is put together."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worker.amqp.connecting import Access, Node, Tls
from worker.core.topology import Topology
from worker.ops.settings import AmqpUrl, Settings
from worker.ops.settings.addresses import amqp_urls
from worker.ops.settings.rotation import Rotating

if TYPE_CHECKING:
    from worker import Registry
    from worker.http.client import HttpTransport
    from worker.http.proxy import Proxy
    from worker.ops.metrics import Metrics


class CannotImport(Exception):
    """An APP that is no registry; the text says which and why."""


def access_of(settings: Settings, name: str) -> Access:
    """How to get to the broker; `name` is what the connections are called there."""
    nodes, file = _nodes(settings.amqp_url), settings.files.get("amqp_url")
    parse = amqp_urls().parse
    renewed = None if file is None else Rotating(file, lambda text: _nodes(parse(text)), nodes)
    return Access(nodes, Tls(settings.amqp_ca, settings.amqp_cert, settings.amqp_key), name, renewed)


def _nodes(urls: Iterable[AmqpUrl]) -> tuple[Node, ...]:
    return tuple(
        Node(
            url=url.full,
            shown=f"{url.scheme}://{url.host}:{url.port}/{'' if url.vhost == '/' else url.vhost}",
            user=url.user,
        )
        for url in urls
    )


def topology_of(settings: Settings) -> Topology:
    """The work queue and the queues around it."""
    return Topology(settings.queue, settings.queue_type)


def registry_of(apps: Sequence[str], *, builtin: bool) -> Registry:
    """The handlers of every APP, and the built-in `http`. Raises CannotImport."""
    from worker import Registry

    registry = Registry()
    if builtin:
        from worker.http.handler import http_registry

        registry.include(http_registry())
    for app in apps:
        try:
            registry.include(_import(app))
        except ValueError as error:  # a type that is there twice
            raise CannotImport(f"APP {app!r}: {error}") from None
    return registry


def transport_of(settings: Settings, metrics: Metrics, admin: tuple[str, int] | None) -> HttpTransport:
    """The guarded way out. `admin` is where the admin listener is really bound: no job may reach it."""
    from worker import Limits
    from worker.cli.credentials import credentials_of, tell
    from worker.http.client import HttpTransport
    from worker.http.engine import Engine
    from worker.http.guard import Guard
    from worker.runtime.context import job_call, job_gate

    allow = settings.http_allow
    guard = Guard([str(network) for network in allow.networks], allow.hosts, _closed(settings, admin))
    limits = Limits(
        timeout=settings.step_timeout,
        max_response=settings.max_response,
        # Never the narrowest gate: the steps are that.
        max_connections=settings.steps + 100,
        max_connections_per_host=settings.steps + 100,
    )
    engine = Engine(
        limits,
        guard,
        on_request=metrics.http_request,
        credentials=credentials_of(settings.credentials),
        on_credential=tell,
        proxy=_proxy(settings),
    )
    return HttpTransport(engine, gate=job_gate, call=job_call)


def _closed(settings: Settings, admin: tuple[str, int] | None) -> Callable[[], Iterable[tuple[str, int]]]:
    """Where no job may go: the broker, where it was at the start and where its file says by now, and the admin."""
    file, parse = settings.files.get("amqp_url"), amqp_urls().parse
    renewed = None if file is None else Rotating(file, parse, settings.amqp_url)

    def closed() -> set[tuple[str, int]]:
        urls = settings.amqp_url if renewed is None else (*settings.amqp_url, *renewed())
        return {(url.host, url.port) for url in urls} | ({admin} if admin else set())

    return closed


def _proxy(settings: Settings) -> Proxy | None:
    from worker.http.proxy import Proxy

    one = settings.http_proxy
    return None if one is None else Proxy(one.host, one.port, one.user, one.password.reveal())


def _import(app: str) -> Registry:
    from worker import Registry

    name, colon, attribute = app.partition(":")
    if not colon or not name or not attribute:
        raise CannotImport(f"APP {app!r} is not module:registry, e.g. shop.jobs:registry")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise CannotImport(f"APP {app!r} cannot be imported: {error}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Registry):
        what = "there is no such name" if found is None else f"it is {type(found).__name__}, not a Registry"
        raise CannotImport(f"APP {app!r}: {what} in module {name!r}")
    return found
