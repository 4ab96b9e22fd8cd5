"""Frames as they come off the wire, so that no message can kill the connection that carries it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import aiormq
import pamqp.frame
import structlog
from aiormq.abc import AbstractConnection
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader

from worker.amqp.codec import decode_properties
from worker.core.message import Properties

log = structlog.get_logger("worker.frames")

LARGEST_BUFFERED: Final = 16 << 20
"""Bytes of the largest body that is kept; a larger one is read off the wire and forgotten."""

OnMessage = Callable[[spec.Basic.Deliver, bytes, bytes, int], None]
"""Takes the delivery, its raw properties, its body, and the size of the body as announced."""


def tolerate() -> None:
    """Have this process read whatever properties and routing keys a broker passes on. Calling it again is harmless.

    The client decodes properties where it reads frames, and takes what it cannot decode for a broken connection.
    The broker passes on properties that it cannot decode: bytes that are no UTF-8, a timestamp after the year 9999.
    One such message would close the connection of the worker that gets it, and with it give back all that the worker
    holds; then it would go to the next worker, and so on for ever. So properties are kept as bytes until they are
    asked for. Other users of the client in this process see no difference, except that they live on.
    """
    pamqp.frame._unmarshal_header_frame = _read_header  # type: ignore[assignment]  # noqa: SLF001
    pamqp.frame._unmarshal_method_frame = _read_method  # type: ignore[assignment]  # noqa: SLF001


class WireHeader(ContentHeader):
    """A content header that keeps its properties as they came, in `raw`, until somebody asks for them.

    Properties that the client cannot read are empty, but for the message id: by that alone a returned message is
    known, and one that is not known counts as confirmed.
    """

    def __init__(self, data: bytes) -> None:
        self.class_id, self.weight, self.body_size = _HEADER.unpack_from(data)
        self.raw: Final = data[_HEADER.size :]
        self._decoded: spec.Basic.Properties | None = None

    @property
    def properties(self) -> spec.Basic.Properties:
        if self._decoded is None:
            self._decoded = _client_properties(self.raw)
        return self._decoded

    @properties.setter
    def properties(self, properties: spec.Basic.Properties) -> None:
        self._decoded = properties


class WireProperties:
    """Encoded properties, to be published as they are. `message_id` is the one in `raw`, and may not be empty."""

    __slots__ = ("message_id", "raw")

    def __init__(self, raw: bytes, message_id: str) -> None:
        if not message_id:
            raise ValueError("a message without a message_id cannot be recognised when the broker returns it")
        self.raw = raw
        self.message_id = message_id

    def marshal(self) -> bytes:
        return self.raw


class DeliveryChannel(aiormq.Channel):
    """A channel that hands each delivery to `on_message` where it reads it: in order, and without a task for each.

    A body announced as larger than `largest_body` bytes is handed over empty. What `on_message` raises is logged.
    """

    on_message: OnMessage
    largest_body: int

    async def _on_deliver_frame(self, frame: spec.Basic.Deliver) -> None:
        header = await self._get_frame()
        if not isinstance(header, WireHeader):
            raise TypeError(f"{type(header).__name__} where the header of a delivery belongs")
        body = await self._read_body(header.body_size)
        try:
            self.on_message(frame, header.raw, body, header.body_size)
        except Exception:
            log.exception("deliveries.failed", tag=frame.delivery_tag)

    async def _read_body(self, announced: int) -> bytes:
        keep = announced <= self.largest_body
        parts = []
        missing = announced
        while missing > 0:
            part = await self._get_frame()
            if not isinstance(part, ContentBody):
                raise TypeError(f"{type(part).__name__} where a part of a body belongs")
            missing -= len(part.value)
            if keep:
                parts.append(part.value)
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def open_delivery_channel(
    connection: AbstractConnection,
    on_message: OnMessage,
    *,
    largest_body: int = LARGEST_BUFFERED,
    timeout: float,
) -> DeliveryChannel:
    """What `connection.channel()` does, for a channel that delivers to `on_message`; and `tolerate()`.

    Raises TimeoutError after `timeout` seconds, and what aiormq raises.
    """
    tolerate()
    carrier = cast(aiormq.Connection, connection)
    async with asyncio.timeout(timeout):
        await carrier.connected.wait()
        if carrier.is_closed:
            raise aiormq.exceptions.ConnectionClosed(0, "closed before the channel was opened")
        number = await _free_number(carrier)
        channel = DeliveryChannel(carrier, number, publisher_confirms=False, frame_buffer=carrier.FRAME_BUFFER_SIZE)
        channel.on_message = on_message
        channel.largest_body = largest_body
        carrier.channels[number] = channel
        await channel.open()
    return channel


async def _free_number(connection: aiormq.Connection) -> int:
    """A number nobody uses. Nothing may be awaited between this and its use."""
    async with connection.last_channel_lock:
        used = connection.channels
        connection.last_channel = next(
            number for number in range(max(used, default=1), _MOST_CHANNELS + 1) if number not in used
        )
        return connection.last_channel


_MOST_CHANNELS: Final = 65_535

_HEADER: Final = struct.Struct(">HHQ")
_DELIVER: Final = struct.pack(">I", spec.Basic.Deliver.index)
_read_tag: Final = struct.Struct(">Q?").unpack_from

_read_other_method: Final = pamqp.frame._unmarshal_method_frame  # noqa: SLF001


def _read_header(data: bytes) -> WireHeader:
    try:
        return WireHeader(data)
    except struct.error as error:
        raise UnmarshalingException("ContentHeader", error) from error


def _read_method(data: bytes) -> Any:
    if not data.startswith(_DELIVER):
        return _read_other_method(data)
    try:
        return _read_deliver(data)
    except (struct.error, IndexError) as error:
        raise UnmarshalingException("Basic.Deliver", error) from error


def _read_deliver(data: bytes) -> spec.Basic.Deliver:
    frame = spec.Basic.Deliver()
    frame.consumer_tag, at = _short(data, len(_DELIVER))
    frame.delivery_tag, frame.redelivered = _read_tag(data, at)
    frame.exchange, at = _short(data, at + 9)
    frame.routing_key, _ = _short(data, at)
    return frame


def _short(data: bytes, at: int) -> tuple[str, int]:
    start = at + 1
    end = start + data[at]
    return data[start:end].decode("utf-8", "surrogateescape"), end


def _client_properties(raw: bytes) -> spec.Basic.Properties:
    header = ContentHeader()
    try:
        header.unmarshal(bytes(_HEADER.size) + raw)
    except Exception:  # noqa: BLE001  whatever a decoder may stumble over: OverflowError, RecursionError, OSError
        own = decode_properties(raw)
        return spec.Basic.Properties(message_id=own.message_id if isinstance(own, Properties) else None)
    return header.properties


async def never_called(_message: Any) -> None:
    """A consumer's callback for the library's table: such a channel hands deliveries over by itself, or has none."""
