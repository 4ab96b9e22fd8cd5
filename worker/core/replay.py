"""Ways back into the work queue: of a dead letter, and of a job that waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from worker.core.message import BROKER_HEADERS, BROKER_PREFIXES, Message, Outgoing, Properties, own_headers

KEPT: Final = ("x-worker-steps", "x-worker-history")
"""What a replayed job still knows of its earlier life, when the letter may be believed."""


DUE: Final = "x-worker-not-before"
DEADLINE: Final = "x-worker-deadline"


class NotReplayable(Exception):
    """No copy can be made of this message; the text says why."""


def replay_copy(message: Message, *, queue: str, job_id: str, copy_id: str, believed: bool) -> Outgoing:
    """The job of a dead letter as it starts again in `queue`: at attempt 1, without deadline and not-before.

    `copy_id` is its message id, a fresh one. `believed` tells whether the letter was written by a trusted user; what
    others claim to be finished steps must not come back under the worker's own name. Raises NotReplayable.
    """
    properties = _copied(message)
    headers: dict[str, Any] = own_headers(properties.headers) | {"x-worker-id": job_id, "x-worker-attempt": 1}
    if believed:
        headers |= {name: properties.headers[name] for name in KEPT if name in properties.headers}
    copy = replace(properties, message_id=copy_id, expiration=None, user_id=None, headers=headers)
    return Outgoing(queue, Message(message.body, copy))


def due_copy(message: Message, *, queue: str, copy_id: str, believed: bool) -> Outgoing:
    """A job that waits, as it goes on in `queue` at once: with everything it had, except what it waited for.

    `copy_id` is its message id, a fresh one. `believed` as above. Raises NotReplayable.
    """
    properties = _copied(message)
    headers: dict[str, Any]
    if believed:
        headers = {name: value for name, value in properties.headers.items() if not _is_the_brokers(name)}
    else:
        headers = own_headers(properties.headers)
        headers |= {DEADLINE: properties.headers[DEADLINE]} if DEADLINE in properties.headers else {}
    headers.pop(DUE, None)
    copy = replace(properties, message_id=copy_id, expiration=None, user_id=None, headers=headers)
    return Outgoing(queue, Message(message.body, copy))


def _copied(message: Message) -> Properties:
    """The properties of a message that can be copied whole."""
    if not isinstance(message.properties, Properties):
        raise NotReplayable(f"its properties cannot be read: {message.properties.fault}")
    if not message.buffered:
        raise NotReplayable(f"its body of {message.size} bytes is too large to be copied")
    return message.properties


def _is_the_brokers(header: str) -> bool:
    return header in BROKER_HEADERS or header.startswith(BROKER_PREFIXES)
