"""A dead letter's way back into the work queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from worker.core.message import Message, Outgoing, Properties, own_headers

KEPT: Final = ("x-worker-steps", "x-worker-history")
"""What a replayed job still knows of its earlier life, when the letter may be believed."""


class NotReplayable(Exception):
    """No copy can be made of this letter; the text says why."""


def replay_copy(message: Message, *, queue: str, job_id: str, copy_id: str, believed: bool) -> Outgoing:
    """The job of a dead letter as it starts again in `queue`: at attempt 1, without deadline and not-before.

    `copy_id` is its message id, a fresh one. `believed` tells whether the letter was written by a trusted user; what
    others claim to be finished steps must not come back under the worker's own name. Raises NotReplayable.
    """
    properties = message.properties
    if not isinstance(properties, Properties):
        raise NotReplayable(f"its properties cannot be read: {properties.fault}")
    if not message.buffered:
        raise NotReplayable(f"its body of {message.size} bytes is too large to be copied")
    headers: dict[str, Any] = own_headers(properties.headers) | {"x-worker-id": job_id, "x-worker-attempt": 1}
    if believed:
        headers |= {name: properties.headers[name] for name in KEPT if name in properties.headers}
    copy = replace(properties, message_id=copy_id, expiration=None, user_id=None, headers=headers)
    return Outgoing(queue, Message(message.body, copy))
