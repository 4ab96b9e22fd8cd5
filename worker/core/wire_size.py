"""How many bytes properties take in an AMQP header frame, without encoding them: an upper bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker.core.message import Properties

FIXED: Final = 64
"""Frame, class, size and flag words, timestamp, delivery mode and priority, rounded up."""


def header_frame_size(properties: Properties) -> int:
    """Upper bound in bytes of the header frame that carries `properties`."""
    texts = (
        properties.type,
        properties.message_id,
        properties.content_type,
        properties.content_encoding,
        properties.correlation_id,
        properties.reply_to,
        properties.expiration,
        properties.app_id,
        properties.user_id,
    )
    return FIXED + sum(1 + _length(text) for text in texts if text is not None) + table_size(properties.headers)


def table_size(table: Mapping[str, Any]) -> int:
    """Upper bound in bytes of an encoded field table."""
    return 4 + sum(entry_size(name, value) for name, value in table.items())


def entry_size(name: str, value: Any) -> int:
    """Upper bound in bytes of one entry of a field table."""
    return 1 + _length(name) + _value_size(value)


def _value_size(value: Any) -> int:
    match value:
        case None | int() | float():  # first: a header may hold a hundred thousand of them
            return 10
        case str():
            return 5 + _length(value)
        case bytes() | bytearray():
            return 5 + len(value)
        case Mapping():
            return 1 + table_size(value)
        case list() | tuple():
            return 5 + sum(_value_size(item) for item in value)
        case _:
            return 10


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
