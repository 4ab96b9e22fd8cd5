"""One connection to the broker, and why there is none.

Unreachable   nobody answers, or not as a broker does: worth another try
Refused       the broker answers, and does not want us so: password, vhost, TLS, queue arguments; trying again is idle
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aio_pika
import aiormq
from aiormq.abc import AbstractConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import AMQPError, AuthenticationError, InvalidFrameError, ProbableAuthenticationError

from worker.amqp.frames import tolerate

T = TypeVar("T")

HEARTBEAT: Final = 10
"""Seconds. The client's default, 60, needs three minutes to notice a broker that is gone."""

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
CUT_SECONDS: Final = 1.0
RPC_SECONDS: Final = 10.0
SMALLEST_FRAME: Final = 131_072
"""What a frame may hold where the broker sets no limit."""

BROKEN: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What the libraries raise when a connection or channel is gone: RuntimeError is among it."""


class Unreachable(Exception):
    """No broker answers; the text names each node and the reason."""


class Refused(Exception):
    """The broker answers and refuses; the text names the reason and the fix."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the broker. `url` holds the password, `shown` does not."""

    url: str = field(repr=False)
    shown: str
    user: str


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: who may sign the broker's certificate, and the one that is shown to it."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Names and signatures are always checked. Refused when a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"the TLS files cannot be used: {error}; see WORKER_AMQP_CA, _CERT and _KEY") from None
        return context


@dataclass(frozen=True, slots=True)
class Access:
    """How to get to the broker: its nodes, tried in turn, and the name the connections carry there."""

    nodes: tuple[Node, ...]
    tls: Tls = field(default_factory=Tls)
    name: str = "worker"


class Line(TransportFactory):
    """Opens the library's socket and keeps hold of it, to be able to cut it.

    The library closes a socket only when all that was written to it is read; by a frozen broker that is never.
    """

    def __init__(self, tls: bool) -> None:
        self._factory = TLSTransportFactory() if tls else TCPTransportFactory()
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **options)
        return reader, self._writer

    def cut(self) -> None:
        """Close the socket now. Harmless when it is closed."""
        if self._writer is not None:
            self._writer.transport.abort()

    def connection(self, url: Any, **options: Any) -> aio_pika.Connection:
        """A connection that will be made over this line."""
        connection = aio_pika.Connection(url, **options)
        connection.kwargs["transport_factory"] = self
        return connection


@dataclass(frozen=True, slots=True)
class Connected:
    """An open connection; `amqp` is aiormq's below aio-pika's."""

    connection: aio_pika.abc.AbstractConnection
    amqp: AbstractConnection
    node: Node
    line: Line

    @property
    def server_version(self) -> str:
        """RabbitMQ's version, "" when it tells none."""
        version = self.amqp.server_properties.get("version", "")
        return version if isinstance(version, str) else ""

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame both sides take."""
        return self.amqp.connection_tune.frame_max or SMALLEST_FRAME

    async def close(self) -> None:
        """End it within 5 s; a broker that is gone or frozen does not hold it up."""
        closing = asyncio.create_task(self.connection.close())
        closing.add_done_callback(lambda done: done.cancelled() or done.exception())  # how it ended is no matter
        try:
            await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        finally:
            self.line.cut()
        # Whoever waits on the connection is told by this task, and only now if the broker has not read for a while.
        await asyncio.wait({closing}, timeout=CUT_SECONDS)


async def open_connection(access: Access, purpose: str) -> Connected:
    """Connect to the first node that lets us in. Raises Unreachable or Refused."""
    tolerate()  # the publishing connection, too, gets properties of others: those of copies that are returned
    context = access.tls.context() if any(node.url.startswith("amqps:") for node in access.nodes) else None
    refused: Refused | None = None
    reasons: list[str] = []
    for node in access.nodes:
        try:
            return await _connect(node, context, f"{access.name} {purpose}")
        except Refused as error:
            refused = refused or error
        except Unreachable as error:
            reasons.append(f"{node.shown}: {error}")
    raise refused or Unreachable("; ".join(reasons))


async def rpc(call: Awaitable[T]) -> T:
    """The answer to a call on a channel nobody else uses, within 10 s; such a channel may be lost."""
    with loss_as_error():
        async with asyncio.timeout(RPC_SECONDS):
            return await call


@contextlib.contextmanager
def loss_as_error() -> Iterator[None]:
    """ConnectionResetError for the two ways in which the library says "closed" that nobody would expect.

    What waits on a connection it gives up, as when heartbeats fail to come, is cancelled, without anybody having asked
    for that; and where it knows no reason, a bare Exception is raised. Either would end a task of ours without a word.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionResetError("the connection was given up") from None
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConnectionResetError("the connection was closed") from None


async def _connect(node: Node, context: ssl.SSLContext | None, name: str) -> Connected:
    url = f"{node.url}?heartbeat={HEARTBEAT}&name={quote(name)}"
    line = Line(tls=node.url.startswith("amqps:"))
    with _explained(node), loss_as_error():
        connection = await aio_pika.connect(
            url,
            timeout=CONNECT_SECONDS,
            ssl_context=context,
            connection_class=line.connection,
        )
    transport = connection.transport
    assert transport is not None
    return Connected(connection, transport.connection, node, line)


@contextlib.contextmanager
def _explained(node: Node) -> Iterator[None]:
    try:
        yield
    except (ProbableAuthenticationError, AuthenticationError):
        raise Refused(
            f"{node.shown} refuses the user {node.user!r}: check user and password in WORKER_AMQP_URL"
            " (guest may only log in from the broker's own machine)"
        ) from None
    except InvalidFrameError as error:
        if "Connection.Close" in str(error):  # the text of the broker's answer is lost in the library
            raise Refused(
                f"{node.shown}: the vhost does not exist, or the user {node.user!r} may not use it;"
                " check the path of WORKER_AMQP_URL"
            ) from None
        raise Unreachable("it does not speak AMQP 0-9-1") from None
    except TimeoutError:
        raise Unreachable(f"no answer within {CONNECT_SECONDS:g} s") from None
    except (OSError, aiormq.exceptions.AMQPError, RuntimeError) as error:
        raise _told(node, error) from None


def _told(node: Node, error: Exception) -> Exception:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Refused(f"{node.shown}: its certificate is not trusted; set WORKER_AMQP_CA, or check the host name")
    if "SSL" in text:
        return Refused(f"{node.shown}: no TLS is spoken there; check the scheme and port of WORKER_AMQP_URL")
    if "bytes but" in text or "protocol header" in text or isinstance(error, EOFError):
        return Unreachable("it closed the connection, or does not speak AMQP 0-9-1")
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    reason = error.args[1] if number is not None and len(error.args) > 1 else text
    return Unreachable(str(reason) or type(error).__name__)
