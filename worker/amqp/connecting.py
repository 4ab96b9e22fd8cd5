"""One connection to the broker, and why there is none.

Unreachable   nobody answers, or not as a broker does: worth another try
Refused       the broker answers, and does not want us so: password, vhost, TLS, queue arguments; trying again is idle
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

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
WHY_SECONDS: Final = 2.0
RPC_SECONDS: Final = 10.0
LAST_ACKS: Final = 0.3
"""Seconds after a round trip until a quorum queue has really taken the acks sent before it."""

SMALLEST_FRAME: Final = 131_072
"""What a frame may hold where the broker sets no limit."""

BROKEN: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What the libraries raise when a connection or channel is gone: RuntimeError is among it."""


_VERIFIED: Final = re.compile(r"certificate verify failed: (.+?)\.? \(_ssl")
_TURNED_AWAY: Final = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|HANDSHAKE_FAILURE|ACCESS_DENIED)")
"""The alerts by which a broker says that it does not take our certificate, or wants one."""


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
                context.load_cert_chain(self.cert, self.key, password=self._refuse_encrypted)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"the TLS files cannot be used: {error}; see WORKER_AMQP_CA, _CERT and _KEY") from None
        return context

    def _refuse_encrypted(self) -> str:
        """Asked only for an encrypted key; without it OpenSSL would ask at the terminal, and wait for ever."""
        setting = "WORKER_AMQP_CERT" if self.key is None else "WORKER_AMQP_KEY"
        raise Refused(f"the key in {self.key or self.cert} is encrypted; {setting} needs one without a passphrase")

    def content(self) -> tuple[str, ...]:
        """What is equal as long as the files hold the same."""
        return tuple(_hash(path) for path in (self.ca, self.cert, self.key) if path is not None)


Mark = tuple[tuple[Node, ...], tuple[str, ...]]
"""What a connection was made with: equal as long as another one would be made with the same."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to get to the broker: its nodes, tried in turn, and the name the connections carry there.

    `renewed` gives the nodes as they are by now; without it they stay what they are. `users` are the broker's users
    these nodes have had so far: copies published as one of them may come back for as long as they wait.
    """

    nodes: tuple[Node, ...]
    tls: Tls = field(default_factory=Tls)
    name: str = "worker"
    renewed: Callable[[], tuple[Node, ...]] | None = None
    users: set[str] = field(default_factory=set, compare=False)

    def current(self) -> tuple[Node, ...]:
        """The nodes as they are by now."""
        nodes = self.nodes if self.renewed is None else self.renewed()
        self.users.update(node.user for node in nodes)
        return nodes

    def mark(self) -> Mark:
        """What a connection made now would be made with; the TLS files count as read now."""
        return self.current(), self.tls.content()


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

    @property
    def was_open(self) -> bool:
        """Whether the other side was reached, and TLS agreed on."""
        return self._writer is not None

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
    mark: Mark = ((), ())

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
    mark = access.mark()  # before the files are used: what changes meanwhile is seen as a change
    nodes, _ = mark
    context = access.tls.context() if any(node.url.startswith("amqps:") for node in nodes) else None
    refused: Refused | None = None
    reasons: list[str] = []
    for node in nodes:
        try:
            return replace(await _connect(node, context, f"{access.name} {purpose}"), mark=mark)
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
    try:
        with _explained(node), loss_as_error():
            connection = await aio_pika.connect(
                url,
                timeout=CONNECT_SECONDS,
                ssl_context=context,
                connection_class=line.connection,
            )
    except Unreachable:
        if context is not None and line.was_open:
            await _ask_why(node, context)
        raise
    transport = connection.transport
    assert transport is not None
    return Connected(connection, transport.connection, node, line)


async def _ask_why(node: Node, context: ssl.SSLContext) -> None:
    """Raise Refused when a broker that hung up does not take our certificate.

    By TLS 1.3 it says so when the client thinks that all is well and has written on, and its last word is lost then.
    So to one who only listens it is said again.
    """
    parts = urlsplit(node.url)
    with _explained(node), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WHY_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()


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
    except ValueError as error:  # their text may hold a part of the URL
        raise Refused(
            f"{node.shown} cannot be connected to ({type(error).__name__}): check the host, and the length of user,"
            " password and vhost, in WORKER_AMQP_URL"
        ) from None


def _told(node: Node, error: Exception) -> Exception:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = f" ({found[1]})" if (found := _VERIFIED.search(text)) else ""
        return Refused(f"{node.shown}: its certificate is not trusted{why}; set WORKER_AMQP_CA, or check the host name")
    if (found := _TURNED_AWAY.search(text)) is not None:
        said = found[1].replace("_", " ").lower()
        return Refused(
            f"{node.shown}: it does not take the worker's certificate, or wants one ({said});"
            " see WORKER_AMQP_CERT and WORKER_AMQP_KEY"
        )
    if "SSL" in text:
        return Refused(f"{node.shown}: no TLS is spoken there; check the scheme and port of WORKER_AMQP_URL")
    if "bytes but" in text or "protocol header" in text or isinstance(error, EOFError):
        return Unreachable("it closed the connection, or does not speak AMQP 0-9-1")
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    reason = error.args[1] if number is not None and len(error.args) > 1 else text
    return Unreachable(str(reason) or type(error).__name__)


def _hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        return str(error.strerror)
